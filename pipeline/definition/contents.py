"""Is there anything to do in a step's file? A step that does nothing is a fault before anything starts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationInfo

from pipeline.definition.diagnostics import Wrong, shown
from pipeline.definition.rules import project_of
from pipeline.definition.script_text import TextFault, script_fault, windows_script_fault

#: Bytes of a script that are looked at: one with more does something.
_LIMIT = 1 << 20
#: Lines that set up a shell and do nothing else. `true` and `exit 0` are commands: somebody wrote them on purpose.
_IDLE_SH = re.compile(r"set\s+[-+]\S.*")
_IDLE_POWERSHELL = re.compile(r"\$ErrorActionPreference\s*=.*|Set-StrictMode\b.*|param\s*\(\s*\)", re.I)
_IDLE_CMD = re.compile(r"@?\s*(rem(\s.*)?|::.*|echo\s+off)\s*", re.I)


def runs_something(value: str, info: ValidationInfo) -> str:
    """A shell script, or one of another interpreter with # for comments. Raises Wrong."""
    text = _text(project_of(info) / value)
    if text is not None and not _commands(text, _IDLE_SH):
        raise Wrong(f"{shown(value)} does nothing (step-empty)", "add a command, or remove the step")
    return readable(value, info)


def runs_powershell(value: str, info: ValidationInfo) -> str:
    text = _text(project_of(info) / value)
    if text is not None and not _commands(re.sub(r"<#.*?#>", "", text, flags=re.DOTALL), _IDLE_POWERSHELL):
        raise Wrong(f"{shown(value)} does nothing (step-empty)", "add a command, or remove the step")
    return _judged(value, info, windows_script_fault)


def readable(value: str, info: ValidationInfo) -> str:
    """A program that the guest runs, PowerShell's by its suffix: its line ends and its encoding. Raises Wrong."""
    return _judged(value, info, windows_script_fault if value.lower().endswith(".ps1") else script_fault)


def _judged(value: str, info: ValidationInfo, judge: Callable[[Path, str], TextFault | None]) -> str:
    fault: TextFault | None = None
    # anyone who takes a file that cannot be read into the key says so, with the reason
    with contextlib.suppress(OSError):
        fault = judge(project_of(info) / value, value)
    if fault is not None:
        raise Wrong(f"{value}:{fault.line}: {fault.message}", fault.hint)
    return value


def runs_command(value: str) -> str:
    """A command line of Windows' cmd."""
    if _IDLE_CMD.fullmatch(value.strip()):
        raise Wrong(f"{shown(value)} does nothing (step-empty)", "write a command, or remove the step")
    return value


def _text(path: Path) -> str | None:
    """A script as text; None of one that is too large to be looked at, or that cannot be read here."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError:
        # anyone who takes the file into the key says so, with the reason
        return None
    if len(data) > _LIMIT or data.startswith(b"\x7fELF"):
        return None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def _commands(text: str, idle: re.Pattern[str]) -> bool:
    """Is there a line that is neither blank, a comment (# to its end), nor idle?"""
    lines = (line.strip() for line in text.replace("\r", "\n").replace("\0", "").splitlines())
    return any(line and not line.startswith("#") and not idle.fullmatch(line.split(" #", 1)[0]) for line in lines)
