"""What goes into a step, by content: the part of a layer's key that the project's files decide."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from functools import lru_cache
from pathlib import Path

from pipeline.definition.model import CmdStep, CopyStep, MsiStep, PlaybookStep, PowershellStep, ScriptStep, Step
from pipeline.definition.playbook_files import drawn_in, file_text, playbooks_folder

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
            drawn = sorted(drawn_in(step, base))
            every_bit = any(_KEEPS_MODES.search(file_text(path)) for path in (step.file, *drawn))
            for path in drawn:
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
