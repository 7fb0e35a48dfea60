"""Every error name of the code, found in the source, and the page docs/errors.md.

python -m tests.errors_page > docs/errors.md
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pipeline
from pipeline.base import errors
from pipeline.base.hints import HINTS
from pipeline.hypervisor import console
from pipeline.publish.errors import PublishError
from tests.errors_written import WRITTEN

ROOT = Path(pipeline.__file__).parent
PAGE = ROOT.parent / "docs" / "errors.md"
#: A name as scripts match it: lower case words joined by hyphens; the few of one word are listed.
NAME = re.compile(r"[a-z]+[a-z0-9]*(-[a-z0-9]+)+")
SINGLE = {"cancelled", "definition", "exists", "internal", "interrupted", "usage"}
#: Functions that raise an error of the name that they get.
RAISERS = {"acquire", "wait"}
#: Their arguments called `name` are not names of errors.
OTHERS = {"Thread", "Partition", "_sub", "boot", "Plan", "add"}
ERROR = re.compile(r"(Error|Failed|NotFound|Conflict|Missing)$")
#: Exit codes of the classes that raise.
CODES = {
    **{kind.__name__: kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")},
    **dict.fromkeys(("PublishError", "Conflict", "Missing"), PublishError.exit_code),
}
#: What no literal of the source says: names that a base class sets, and families of names.
SET_BY_CLASSES = {
    "command-failed": "a program that goldsmith started ended with an error",
    "command-timeout": "a program that goldsmith started did not end in time",
    "definition": "a definition has errors; each is a line with file, line and column",
    "deploy-conflict": "a set or an endpoint of a deployment's file exists, and another made it",
    "deploy-fixed": "a deployment's file changes an option of a set that its VMs cannot change",
    "interrupted": "Ctrl-C, SIGTERM or a closed pipe ended the command; all finished layers are kept",
    "record-damaged": "a file of the store (a manifest, a run, a layer) cannot be read",
    "slurm-silent": "Slurm's controller does not answer",
    "checks-failed": "more than one check of the disk failed",
    "checks-unchecked": "checks that apply could not look at the disk",
}
SET_CODES = {
    "definition": "2",
    "deploy-conflict": "2",
    "deploy-fixed": "2",
    "slurm-silent": "3",
    "interrupted": "130, 141, 143",
    "checks-failed": "1",
    "checks-unchecked": "1",
}
CURES = {
    "definition": "correct the lines that the message names",
    "deploy-conflict": "use another name in the file",
    "deploy-fixed": "goldsmith set delete SET, and deploy makes it anew; or give the set another name",
    "interrupted": "run the command again; a build continues after the last finished layer",
    "record-damaged": "restore the file from a backup, or delete what it describes: goldsmith gallery remove, "
    "goldsmith runs prune, goldsmith clean",
    "slurm-silent": "scontrol ping shows whether it runs; its log is SlurmctldLogFile of slurm.conf",
    "checks-failed": "follow the remedies of the checks (docs/checks.md), then build again",
    "checks-unchecked": "read the reason that each check states, correct it, then build again",
}


@dataclass
class Entry:
    """One error name: the messages and the hints that the source has for it, and its exit codes."""

    causes: dict[str, None] = field(default_factory=dict)
    cures: dict[str, None] = field(default_factory=dict)
    codes: set[int] = field(default_factory=set)

    def add(self, cause: str, cure: str, code: int | None = None) -> None:
        if cause.strip(" …:"):
            self.causes.setdefault(cause)
        if cure.strip(" …:;"):
            self.cures.setdefault(cure)
        if code is not None:
            self.codes.add(code)


def text_of(node: ast.expr | None, constants: dict[str, str]) -> str:
    """The text of an expression; each value that only a run knows is an ellipsis."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value or "")
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value, constants) if isinstance(node.value, ast.Name) else "…"
    if isinstance(node, ast.Name):
        return constants.get(node.id, "…")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left, constants) + text_of(node.right, constants)
    if isinstance(node, ast.IfExp):
        return text_of(node.body, constants) or text_of(node.orelse, constants)
    if isinstance(node, ast.BoolOp):
        return text_of(node.values[-1], constants)
    return "…"


def names_in(node: ast.expr | None) -> list[str]:
    """The error names that an expression may give."""
    values = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)] if node is not None else []
    return [value for value in values if isinstance(value, str) and is_name(value)]


def is_name(text: str) -> bool:
    return bool(NAME.fullmatch(text)) or text in SINGLE


def constants_of(trees: dict[Path, ast.Module]) -> dict[str, str]:
    """Texts that modules give a name; a module's own go before those of the others."""
    found: dict[str, str] = {}
    for tree in trees.values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
                found |= {each.id: text_of(node.value, found) for each in node.targets if isinstance(each, ast.Name)}
    return found


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "id", getattr(node.func, "attr", "")), node


def entries() -> dict[str, Entry]:
    """All error names of the code, with what the source says of each."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
    everywhere = constants_of(trees)
    found: dict[str, Entry] = {}
    for path, tree in trees.items():
        constants = {**everywhere, **constants_of({path: tree})}
        has_table = False
        for function, call in calls(tree):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if function in OTHERS or not (ERROR.search(function) or function in RAISERS):
                continue
            has_table |= ERROR.search(function) is not None and isinstance(given.get("name"), ast.Name)
            message = text_of(call.args[0], constants) if call.args and ERROR.search(function) else ""
            for name in names_in(given.get("name")):
                entry = found.setdefault(name, Entry())
                entry.add(message, text_of(given.get("hint"), constants), CODES.get(function))
        if has_table:
            add_rows(tree, constants, found)
    for name, hint in (*HINTS.items(), *console.HINTS.items()):
        found.setdefault(name, Entry())
        if not found[name].cures:
            found[name].add("", hint)
    for name, cause in SET_BY_CLASSES.items():
        found.setdefault(name, Entry()).add(cause, CURES.get(name, ""))
    for name, (cause, cure) in WRITTEN.items():
        if name in found:
            found[name].causes, found[name].cures = {cause: None}, {cure: None}
    return dict(sorted(found.items()))


def add_rows(tree: ast.Module, constants: dict[str, str], found: dict[str, Entry]) -> None:
    """The rows of a module's tables: tuples and calls of a name with its message and its hint."""
    for node in ast.walk(tree):
        parts = (
            list(node.elts) if isinstance(node, ast.Tuple) else list(node.args) if isinstance(node, ast.Call) else []
        )
        names = [part.value for part in parts if isinstance(part, ast.Constant) and is_name(str(part.value))]
        texts = [text for part in parts if " " in (text := text_of(part, constants)) and not is_pattern(text)]
        if len(names) == 1 and texts:
            entry = found.setdefault(str(names[0]), Entry())
            entry.add(texts[0] if len(texts) > 1 or not entry.causes else "", texts[-1] if len(texts) > 1 else "")


def is_pattern(text: str) -> bool:
    return any(sign in text for sign in ("\\", "(?", ".*", "|"))


#: The text before the table.
HEAD = (
    "# Errors",
    "",
    "Every error has a stable name, which scripts can match. The record of a run has it. This page lists all",
    "names with the exit code, the cause as the message states it, and the remedy. `…` stands for a value. If one",
    "check fails in a build, the name is `check-ID`; [checks.md](checks.md) has its remedy. The names of errors in",
    "definitions with parameters or a matrix are in [many-images.md](many-images.md).",
    "`python -m tests.errors_page > docs/errors.md` writes this page.",
    "",
)


def page() -> str:
    """docs/errors.md."""
    rows = [*HEAD, "| name | exit code | cause | remedy |", "|---|---|---|---|"]
    for name, entry in entries().items():
        codes = SET_CODES.get(name) or ", ".join(map(str, sorted(entry.codes))) or "4"
        rows.append(f"| `{name}` | {codes} | {cell(entry.causes)} | {cell(entry.cures)} |")
    return "\n".join(rows) + "\n"


def cell(texts: dict[str, None]) -> str:
    return "; or: ".join(" ".join(text.split()) for text in list(texts)[:3]).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
