"""Did a playbook do anything? By what Ansible itself reports of its plays (callbacks/goldsmith_plays.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import GuestError

#: The folder that Ansible is given to load the report's callback from.
CALLBACKS = Path(__file__).parent / "callbacks"
TASKS_HINT = "add tasks or roles, or remove the play; tasks with the tag `never` do not run"


def verify_plays(report: Path) -> None:
    """Hold a playbook that ended well to having run something. Raises GuestError (step-empty) naming the play."""
    try:
        summary = json.loads(report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        summary = {"plays": []}
    if not summary["plays"]:
        raise GuestError(
            "the playbook has no play",
            name="step-empty",
            hint="write `- hosts: all` and tasks, or remove the step",
        )
    for play in summary["plays"]:
        if not play["matched"]:
            raise _empty(play, "matches no host: it was skipped", hosts_hint(play["hosts"]))
        if play["check"]:
            raise _empty(play, "ran in check mode, which changes nothing", "remove check_mode from the play")
        if not play["tasks"] and not play["facts_only"]:
            raise _empty(play, "ran no task", TASKS_HINT)


def _empty(play: Mapping[str, Any], what: str, hint: str) -> GuestError:
    name, hosts = play["name"], play["hosts"]
    title = f'play "{name}"' if name and name != hosts else "the play"
    return GuestError(f"{title} (hosts: {hosts}) {what}", name="step-empty", hint=hint)


def hosts_hint(hosts: str) -> str:
    if hosts in ("localhost", "127.0.0.1"):
        return "write `hosts: all`, and delegate_to: localhost in the tasks; plays for the build host do not run"
    return "write `hosts: all`: the inventory has one host, guest, and no other group"
