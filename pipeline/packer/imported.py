"""The result of an import: a definition, its files, and a list of what was turned and what was not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.base.errors import UsageError
from pipeline.base.printable import single_line
from pipeline.packer.limits import COPIED_BYTES, COPIED_FILES, too_large

#: The widest comment line of a written definition.
_WIDTH = 110
_STEP = re.compile(r"steps\[(\d+)\]")
#: Keys without which nothing is left of a definition.
_NEEDED = frozenset({"goldsmith", "os", "source"})


class _Dumper(yaml.SafeDumper):
    """Writes each value out: a definition has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


@dataclass(frozen=True)
class Missing:
    """A part of the template that was not turned: `what` names it, `why` gives the reason or what to do."""

    what: str
    why: str


@dataclass
class File:
    """A file of the project: its bytes, and whether it may be executed."""

    data: bytes
    executable: bool = False


@dataclass
class Imported:
    """A definition as keys of its YAML, with the files it needs, relative to the project."""

    name: str
    document: dict[str, Any] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    #: Whether its system is bootstrapped from an archive.
    bootstraps: bool = False
    _bytes: int = 0

    def miss(self, what: str, why: str) -> None:
        found = Missing(single_line(what, 200), single_line(why, 300))
        if found not in self.missing:
            self.missing.append(found)

    def add_file(self, path: str, data: bytes, *, executable: bool = False) -> str:
        """Add a file and return its path. Raises UsageError (packer-too-large)."""
        self._bytes += len(data)
        if self._bytes > COPIED_BYTES or len(self.files) >= COPIED_FILES:
            raise too_large(
                f"its files have more than {COPIED_BYTES >> 20} MiB, or there are more than {COPIED_FILES}"
            )
        self.files[path] = File(data, executable)
        return path

    def free_path(self, folder: str, name: str) -> str:
        """A path in a folder that no file has yet."""
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("-.") or "file"
        path, number = f"{folder}/{name}", 2
        while any(each == path or each.startswith(f"{path}/") for each in self.files):
            path, number = f"{folder}/{number}-{name}", number + 1
        return path

    def text(self, template: str) -> str:
        """The definition's YAML. What is missing stands in its comments."""
        head = [
            f"# {self.name}: imported from the Packer template {single_line(template, 80)}.",
            f"# Check it with `goldsmith validate {self.name}`. docs/definition.md has every key.",
        ]
        if self.missing:
            head += ["#", "# Not turned:"]
            head += [line for each in self.missing for line in _comment(f"{each.what}: {each.why}")]
        body = yaml.dump(self.document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
        return "\n".join((*head, "", body))

    def write(self, project: Path, template: str) -> list[Path]:
        """Write the definition and its files, all or none. Raises UsageError (exists), (cannot-write)."""
        texts = {f"images/{self.name}.yaml": File(self.text(template).encode()), **self.files}
        for path in texts:
            if (project / path).exists() or (project / path).is_symlink():
                raise UsageError(
                    f"{path} exists already", name="exists", hint="remove it, or choose another name: --as NAME"
                )
        written: list[Path] = []
        try:
            for path, file in texts.items():
                target = project / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    written.append(target)
                    stream.write(file.data)
                target.chmod(0o755 if file.executable else 0o644)
        except OSError as error:
            for each in written:
                each.unlink(missing_ok=True)
            raise UsageError(
                f"cannot write {error.filename}: {error.strerror}",
                name="cannot-write",
                hint="use a writable folder: goldsmith --project FOLDER import packer FILE",
            ) from error
        return written

    def keys_of_playbook(self, file: str) -> list[str]:
        """The keys of the steps that use a file in playbooks/: of a playbook, or of what lies beside one."""
        steps = self.document.get("steps", [])
        own = [
            (f"steps[{index}]", f"playbooks/{step['playbook']}")
            for index, step in enumerate(steps)
            if "playbook" in step and file.startswith(f"playbooks/{self.name}/") == ("/" in step["playbook"])
        ]
        exact = [key for key, playbook in own if playbook == file]
        return exact or [key for key, _playbook in own]

    def drop_faults(self, faults: Sequence[tuple[str, str]]) -> None:
        """Take the keys with faults out of the definition. A fault is a key such as steps[1].script, and a message.

        Raises UsageError (packer-source) if a key is needed.
        """
        steps: dict[int, str] = {}
        for key, message in faults:
            found = _STEP.match(key)
            top = re.split(r"[.\[]", key, maxsplit=1)[0]
            if found:
                steps.setdefault(int(found[1]), message)
            elif top in self.document and top not in _NEEDED:
                self.document.pop(top)
                self.miss(key, message)
            elif key and top not in _NEEDED:
                continue  # it went with another fault
            else:
                raise UsageError(
                    f"the template's {key or 'content'} makes no valid definition: {message}",
                    name="packer-source",
                    hint="begin with an image of the project: --base IMAGE",
                )
        for index in sorted(steps, reverse=True):
            step = self.document["steps"].pop(index)
            self.miss(str(step.get("name", f"step {index}")), steps[index])
        self._drop_unused_files()

    def _drop_unused_files(self) -> None:
        text = yaml.dump(self.document, Dumper=_Dumper)
        playbooks = any("playbook" in step and "/" in step["playbook"] for step in self.document.get("steps", []))
        for path in list(self.files):
            if path.startswith(("scripts/", "files/")):
                folder = "/".join(path.split("/")[:3])
                if path not in text and folder not in text:
                    del self.files[path]
            elif path.startswith(f"playbooks/{self.name}/") and not playbooks:
                del self.files[path]


def settle(imported: Imported, find_faults: Callable[[Imported], Sequence[tuple[str, str]]]) -> None:
    """Take out what `find_faults` finds, until it finds nothing. Raises UsageError (packer-source)."""
    # each round takes at least one key or step away
    for _round in range(len(imported.document) + len(imported.document.get("steps", [])) + 1):
        faults = find_faults(imported)
        if not faults:
            return
        imported.drop_faults(faults)
    raise UsageError(
        f"the template makes no valid definition: {faults[0][1]}",
        name="packer-source",
        hint="begin with an image of the project: --base IMAGE",
    )


def _comment(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_long_words=False)
