"""What goes into a step, by content: the part of a layer's key that the project's files decide.

Ansible finds files in more ways than can be followed from outside, so this errs towards too much: a file that
is drawn in needlessly costs one rebuild when it changes, a file that is missed would leave a stale layer.
A playbook draws in, besides itself:

- always, what Ansible reads unasked: group_vars/, host_vars/, library/, plugins, collections/, ansible.cfg and the
  folders with plugins, modules and collections that it names;
- of the folders with roles that ansible.cfg names, the roles whose names are said;
- every file whose name, or the name of a folder that it lies in (a role), is said in what is already drawn in,
  over and over until nothing new comes; a role comes whole;
- where a file's name is computed (a Jinja expression, a lookup, a glob), every file that it could be.

What lies outside of the project (roles installed for the user, an absolute path elsewhere) is not seen. The password
of a vault is left out: what it opens is in by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.definition.ansible_config import AnsibleConfig, read_config
from pipeline.definition.model import CmdStep, CopyStep, MsiStep, PlaybookStep, PowershellStep, ScriptStep, Step

#: Ansible reads these beside a playbook without being told to.
_UNASKED = re.compile(
    r"group_vars|host_vars|library|module_utils|collections|.*_plugins|ansible\.cfg|requirements\.ya?ml"
)
#: Folders that say what a file is, not whose it is; any other folder's name stands for all that is in it.
_PLAIN = frozenset({"files", "templates", "roles", "vars", "defaults", "tasks", "handlers", "meta", "scripts"})
_LEFT_OUT = frozenset({".git", "__pycache__", ".venv", ".cache"})
#: The last part of a key whose value may be, or hold, the name of a file on the building side.
_NAMES_A_FILE = re.compile(
    r"(src|file|dir|script|copy|template|unarchive|assemble|include|fetch|patch|role|roles|vars_files|vars_from|"
    r"tasks_from|defaults_from|handlers_from|"
    r"(include|import)_(tasks|vars|role|playbook)|with_(first_found|fileglob|file|filetree|items|nested))"
)
_INCLUDING = re.compile(r"(include|import)_(tasks|vars|role|playbook)|include|roles|vars_files|role")
_COMPUTED = re.compile(
    r"\b(lookup|query|q)\s*\(|fileglob|first_found|filetree|\{%[-+]?\s*(include|import|from|extends)\s+(?![\"'][^\"']+[\"'])"
)
_PATTERN = re.compile(r"\{\{|/.*[*?\[]|[*?\[].*/", re.DOTALL)
_LARGEST_SCANNED = 4 * 1024 * 1024
#: Tasks of Ansible's that give a file of the host's own mode to the guest.
_KEEPS_MODES = re.compile(r"\bpreserve\b|\bsynchronize\b|\brsync\b")
#: Nanoseconds after which a change of a file shows in its times.
SETTLED = 2_000_000_000
#: How a copy gives modes, owners and times: a new word where that changes.
COPIED_AS = "existing folders keep modes; the executable bit; root's; now"


def step_inputs(step: Step) -> dict[str, str]:
    """What the step's result depends on: a name for each input, and the sha256 of its content.

    Raises OSError where a file has gone since the definition was loaded.
    """
    inputs = {"network": _digest(step.network)}
    if step.reboots:
        inputs["reboot"] = _digest("expected")
    if step.secrets:
        # by name alone: a new value is no reason to run the step again, and no record shows anything of one
        inputs["secrets"] = _digest(json.dumps(step.secrets))
    match step:
        case PlaybookStep():
            inputs[f"playbook {step.playbook}"] = _file_digest(step.file, mode=False)
            inputs["vars"] = _digest(json.dumps(step.vars, sort_keys=True, ensure_ascii=False, allow_nan=False))
            for name, value in step.environment.items():
                inputs[f"environment {name}"] = _digest(value)
            base = playbooks_folder(step)
            drawn_in = sorted(_drawn_in(step, base))
            every_bit = any(_KEEPS_MODES.search(_text(path)) for path in (step.file, *drawn_in))
            for path in drawn_in:
                inputs[f"file {os.path.relpath(path, base)}"] = _file_digest(path, mode=True, every_bit=every_bit)
        case ScriptStep() | PowershellStep():
            inputs[f"script {step.script}"] = _file_digest(step.file, mode=False)
        case CmdStep():
            inputs["cmd"] = _digest(step.cmd)
        case MsiStep():
            inputs[f"msi {step.path}"] = _file_digest(step.file, mode=False)
            inputs["arguments"] = _digest(json.dumps(step.arguments))
        case CopyStep():
            inputs[f"copy {step.copy_from}"] = tree_digest(step.file)
            inputs["to"] = _digest(step.to)
            inputs["mode"] = _digest(step.mode or "")
            inputs["copied as"] = _digest(COPIED_AS)
    return inputs


def playbook_texts(step: PlaybookStep) -> Iterator[tuple[Path, str]]:
    """The files that may name a collection, a role or a variable: the playbook and what it draws in; and their texts.

    Left out are lists of requirements, which name everything, and collections in the project, which name each other.
    """
    yield step.file, _text(step.file)
    for path in sorted(_drawn_in(step, playbooks_folder(step))):
        if path.stem != "requirements" and "ansible_collections" not in path.parts:
            yield path, _text(path)


def step_files(step: PlaybookStep) -> list[Path]:
    """The files that the playbook may read, itself first. Raises OSError."""
    return [step.file, *sorted(_drawn_in(step, playbooks_folder(step)))]


def config_of(step: PlaybookStep) -> AnsibleConfig:
    """The ansible.cfg that the step's playbook is run with."""
    return read_config(step.file, playbooks_folder(step).parent)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: Path, *, mode: bool, every_bit: bool = False) -> str:
    """Of the bytes; with `mode`, of the permission bits that reach a guest too: the owner's executable bit, or all.

    The other bits come from the umask under which the project was checked out.
    """
    status = path.stat()
    known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    # a file that was changed just now may be changed again without another time
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED
    content = _remembered_digest(path, *known) if settled else _content_digest(path)
    if not mode:
        return content
    bits = status.st_mode & 0o7777 if every_bit else 0o755 if status.st_mode & 0o100 else 0o644
    return _digest(f"{bits:o} {content}")


def _content_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=65536)
def _remembered_digest(path: Path, *_unchanged: int) -> str:
    """The sha256 of a file's bytes, read once as long as its inode, size and times stay what they are."""
    return _content_digest(path)


def tree_digest(root: Path, above: tuple[Path, ...] = ()) -> str:
    """Of a file with its executable bit, or of a folder: names, contents, empty folders too. A link is its target's
    name and what is behind it, for whether it is copied or followed is not known here."""
    if not root.is_dir():
        return _file_digest(root, mode=True)
    above = (*above, root.resolve())
    lines: list[str] = [". 755"]
    for path in sorted(root.iterdir()):
        name = json.dumps(path.name)
        if path.is_symlink():
            lines.append(f"link {name} {json.dumps(str(path.readlink()))}")
        if path.is_dir():
            inside = "a loop" if path.resolve() in above else tree_digest(path, above)
            lines.append(f"folder {name} {inside}")
        elif path.is_file():
            lines.append(f"file {name} {_file_digest(path, mode=True)}")
        else:
            lines.append(f"other {name}")
    return _digest("\n".join(lines))


def playbooks_folder(step: PlaybookStep) -> Path:
    """playbooks/ itself, also where the step names a playbook in a folder of it; else the playbook's own folder."""
    parts = Path(os.path.normpath(step.playbook)).parts
    # above playbooks/ there is the project, and what is beside it is nobody's business
    return step.file.parent if parts[0] in ("/", "..") else step.file.parents[len(parts) - 1]


def _drawn_in(step: PlaybookStep, base: Path) -> set[Path]:
    """All files that the playbook may read, itself left out; absolute paths."""
    candidates = {path: path.relative_to(base) for path in _files(base) if path != step.file}
    found = {path for path, relative in candidates.items() if _is_unasked(relative)}
    config = config_of(step)
    found |= {config.path} if config.path else set()
    found |= {path for tree in config.trees for path in ((tree,) if tree.is_file() else _files(tree))}
    found.discard(step.vault_password_file or Path())
    for tree in config.role_trees:
        candidates |= {path: path.relative_to(tree) for path in _files(tree) if path != step.file}
    # the password itself must not be in a record, not even by its digest
    candidates.pop(step.vault_password_file or Path(), None)
    waiting = [step.file, *found]
    variables = json.dumps(step.vars, ensure_ascii=False)
    everything, any_playbook = False, False
    while waiting:
        path = waiting.pop()
        text = _text(path) + (f"\n# {variables}" if path == step.file else "")
        text = re.sub(r"\{\{\s*(playbook_dir|role_path)\s*\}\}/", "", text)
        computed, computed_include = _computes_names(path.suffix, text)
        everything, any_playbook = everything or computed, any_playbook or computed_include
        left = candidates.keys() - found
        fresh = {candidate for candidate in left if _is_mentioned(candidates[candidate], text)}
        if everything:
            # A playbook beside this one is another image's business unless an include's own name is computed.
            fresh |= {candidate for candidate in left if any_playbook or candidate.parent != base}
        fresh |= _pointed_at(path, base, text) - found - {step.file}
        fresh.discard(step.vault_password_file or Path())
        found |= fresh
        waiting.extend(fresh)
    return found


def _files(base: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(base, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path


def _is_unasked(relative: Path) -> bool:
    return any(_UNASKED.fullmatch(part) for part in relative.parts)


def _is_mentioned(relative: Path, text: str) -> bool:
    """Whether a text says the name of a file, with or without its suffix, or of a role or folder it lies in."""
    names = {relative.name} | {part for part in relative.parts[:-1] if part not in _PLAIN}
    if len(relative.parts) > 1:
        names |= {relative.stem, relative.stem.split(".")[0]}
    if any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names if name):
        return True
    # A plain folder, whole: `src: files/`, `include_vars: {dir: vars}`. Its name alone may be just a word.
    plain = (part for part in relative.parts[:-1] if part in _PLAIN)
    return any(
        re.search(rf"(?<![\w-]){part}/(?![\w.])|(?:src|dir|_vars)\s*[:=]\s*[\"']?{part}(?![\w./-])", text)
        for part in plain
    )


def _text(path: Path) -> str:
    """What may name other files. A binary names none, and so does one too large to have been written by hand."""
    if path.stat().st_size > _LARGEST_SCANNED:
        return ""
    raw = path.read_bytes()
    return "" if b"\0" in raw else raw.decode("utf-8", "replace")


@lru_cache(maxsize=1024)
def _computes_names(suffix: str, text: str) -> tuple[bool, bool]:
    """Whether a file computes names of files, and whether of task files and playbooks among them. Pure.

    A plan asks several times for the same file, and reading YAML takes longest of all.
    """
    if suffix not in (".yml", ".yaml", ".json"):
        return bool(_COMPUTED.search(text)), False
    try:
        documents = list(yaml.load_all(text, Loader=_AnyTag))  # a SafeLoader that ignores tags
    except (yaml.YAMLError, ValueError, RecursionError):
        return True, True
    computed, including = bool(_COMPUTED.search(text)), False

    def walk(value: Any, key: str) -> None:
        nonlocal computed, including
        if isinstance(value, dict):
            for name, item in value.items():
                # Below an include, whatever is said may be part of a name: include_role's name, a file's folder.
                walk(item, key if _INCLUDING.fullmatch(key) else str(name).rsplit(".", 1)[-1])
        elif isinstance(value, list):
            for item in value:
                walk(item, key)
        elif isinstance(value, str) and _NAMES_A_FILE.fullmatch(key) and _PATTERN.search(value):
            computed = True
            including = including or bool(_INCLUDING.fullmatch(key))

    for document in documents:
        walk(document, "")
    return computed, including


class _AnyTag(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads `!vault` and `!unsafe` as the plain values they mark.

    By libyaml's parser where PyYAML was built with it: it is five times as fast, and the one that Ansible reads with.
    """


def _untagged(loader: _AnyTag, suffix: str, node: yaml.Node) -> Any:
    del suffix
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_AnyTag.add_multi_constructor("!", _untagged)


def _pointed_at(path: Path, base: Path, text: str) -> set[Path]:
    """Files outside of playbooks/ that a text points at: by a relative path such as ../files/motd, or by an absolute
    one inside the project. Other absolute paths are left out: most are the guest's, and a file of the host's that
    happens to have the same name would change for reasons of its own."""
    project = base.parent
    found: set[Path] = set()
    for word in set(re.findall(r"(?<![\w/.-])(?:\.{1,2})?/[\w./+@-]+", text)):
        for folder in {path.parent, base, base / "files", base / "templates", base / "tasks", base / "vars"}:
            try:
                target = (folder / word).resolve()
                if word.startswith("/") and not target.is_relative_to(project):
                    break
                if target.is_file():
                    found.add(target)
                elif target.is_dir() and not base.is_relative_to(target):
                    found |= set(_files(target))
            except (OSError, ValueError):
                continue
    return found
