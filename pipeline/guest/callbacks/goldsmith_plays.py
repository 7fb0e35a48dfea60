"""An Ansible callback that reports which plays matched a host, and how many of their tasks were run there.

The report is JSON at $GOLDSMITH_PLAYS, written again after each event, so that it is whole whenever Ansible ends:
{"plays": [{"name", "hosts", "matched", "tasks", "facts_only", "check"}]}
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: goldsmith_plays
    type: notification
    short_description: Reports how many tasks each play ran
    description: Reports which plays matched a host, and how many of their tasks were run there.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "goldsmith_plays"

    def __init__(self) -> None:
        super().__init__()
        self._plays: list[dict[str, Any]] = []
        self._environment: dict[str, str] = json.loads(os.environ.get("GOLDSMITH_TASK_ENVIRONMENT") or "{}")

    def v2_playbook_on_start(self, playbook: Any) -> None:  # noqa: ARG002  Ansible calls it so
        self._write()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        hosts = play.hosts if isinstance(play.hosts, str) else ", ".join(map(str, play.hosts or ()))
        parts = (play.pre_tasks, play.roles, play.tasks, play.post_tasks)
        self._plays.append(
            {
                "name": str(play.get_name()),
                "hosts": hosts,
                "matched": True,
                "tasks": 0,
                # written down as the play's purpose, not Ansible's habit before any task
                "facts_only": play.gather_facts is True and not any(parts),
                "check": bool(play.check_mode),
            }
        )
        self._write()

    def v2_playbook_on_no_hosts_matched(self) -> None:
        if self._plays:
            self._plays[-1]["matched"] = False
        self._write()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        # a task without a text of its own is Ansible's: the gathering of facts before the first
        if self._plays and task.get_ds() is not None:
            self._plays[-1]["tasks"] += 1
        if os.environ.get("GOLDSMITH_NO_LOG"):
            task.no_log = True
        # before the task is sent to its worker; what the play and the task say themselves goes before it
        if self._environment and not task.delegate_to:
            task.environment = [self._environment, *(task.environment or [])]
        self._write()

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def _write(self) -> None:
        path = os.environ.get("GOLDSMITH_PLAYS")
        if path is None:
            return
        new = Path(f"{path}.new")
        new.write_text(json.dumps({"plays": self._plays}), encoding="utf-8")
        new.replace(path)
