"""What a definition of a Linux may say."""

from __future__ import annotations

import re
from typing import Any

from pipeline.definition.document import Document
from pipeline.definition.system_rules import StepRules, SystemRules, check_keys, check_steps

_WINDOWS = "is only for Windows"
#: Keys that only Windows has, each with its message and hint.
FOREIGN_KEYS: dict[tuple[str, ...], tuple[str, str]] = {
    ("source", "iso"): ("is only for Windows", "os: windows"),
    **{(key,): (_WINDOWS, f"remove {key}") for key in ("secure_boot", "tpm", "locale", "timezone", "updates")},
    ("ports",): (_WINDOWS, "remove ports; Debian has no firewall unless a step installs one"),
    ("generalize", "mode_vm"): (_WINDOWS, "remove mode_vm"),
    ("generalize", "oobe"): (_WINDOWS, "remove oobe"),
    **{("machine", key): (_WINDOWS, f"remove {key}") for key in ("timeout_factor", "patience")},
}
STEPS = StepRules(
    foreign=dict.fromkeys(("powershell", "cmd", "msi"), "use playbook or script"),
    why="runs only in Windows",
    foreign_path=re.compile(r"[A-Za-z]:\\"),
    example="/etc/...",
    other_keys=dict.fromkeys(("reboot", "checkpoint"), _WINDOWS),
)


def check(document: Document, data: dict[str, Any]) -> None:
    """Put the faults of a definition of a Linux into the document."""
    check_keys(document, data, FOREIGN_KEYS)
    generalize = data.get("generalize")
    if isinstance(generalize, dict) and generalize.get("agent") == "sysprep":
        document.add(("generalize", "agent"), _WINDOWS, "use waagent or none")
    check_steps(document, data, STEPS)


RULES = SystemRules("linux", check, agent="waagent")
