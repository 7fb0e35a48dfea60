"""What is done to a guest from outside: shell lines, copies and playbooks, over the build's own ssh."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.base.printable import shorten
from pipeline.guest.access import Access
from pipeline.guest.ansible_run import AnsibleProject, ansible_program, explain_vault
from pipeline.guest.copy_stream import Modes, unpack_script, write_stream
from pipeline.guest.host_view import started_as
from pipeline.guest.plays import CALLBACKS, verify_plays
from pipeline.guest.project_owner import (
    ROOT_RUNS,
    ProjectOwner,
    copy_private,
    copy_vault_password,
    fresh_folder,
    guest_inventory,
    take_report,
)
from pipeline.systems.linux.step_secrets import REMOTE_TMP


class Steps:
    """The ways into one guest. `alive` is called while waiting, and raises when the guest is lost."""

    def __init__(self, access: Access, alive: Callable[[], None]) -> None:
        self._access = access
        self._alive = alive

    def ssh(
        self,
        remote: str,
        *,
        stdin: process.Input | None = None,
        deadline: float,
        on_line: Callable[[str], None] | None = None,
    ) -> process.Result:
        """Run a shell line in the guest over ssh, as the session's user."""
        return process.run(
            self._access.ssh(remote), stdin=stdin, deadline=deadline, on_line=on_line, watch=self._alive
        )

    def copy(
        self,
        source: Path,
        target: str,
        mode: str | None,
        *,
        deadline: float,
        head: bytes = b"",
        on_bytes: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Copy a file, with `head` before its bytes, or all below a folder to `target`, owned by root.

        `on_bytes` gets the bytes sent so far and those of all. Raises CommandFailed with tar's words.
        """
        modes = Modes.parse(mode)
        name = target.rpartition("/")[2]
        self.ssh(
            f"sudo -n sh -c {shlex.quote(unpack_script(source.is_dir(), target, modes))}",
            stdin=lambda sink: write_stream(sink, source, name, modes, head=head, on_bytes=on_bytes),
            deadline=deadline,
        )

    def playbook(
        self,
        file: Path,
        variables: Path | None,
        *,
        ansible: AnsibleProject,
        deadline: float,
        on_line: Callable[[str], None],
        task_environment: Mapping[str, str] | None = None,
        secrets: Path | None = None,
    ) -> None:
        """Run an Ansible playbook against this guest; its tasks there have `task_environment` beside their own.

        `secrets`: a file with variables that are secrets. With one no task is logged, here or in the guest, and what
        Ansible copies to the guest for a task lies in its memory.

        Where another user than the caller runs it, it gets copies of the guest's key and of these files.

        Raises GuestError: step-failed, naming the task; step-empty, naming the play that did nothing;
        vault-password-missing, vault-password-wrong. Raises HostError (project-owner-blocked).
        """
        access, owner = self._access, ansible.owner
        home = access.folder / "private"
        report = home / "plays.json"
        report.unlink(missing_ok=True)
        inventory = access.inventory()
        files = list(filter(None, (variables, secrets)))
        if owner is not None:
            if not owner.service:
                owner.require_access(ansible_program("ansible-playbook"), CALLBACKS, file)
            home = fresh_folder(access.owner_folder)
            files = [copy_private(path, home) for path in files]
            keys = [path for path in (access.key, access.known_hosts) if path.exists()]
            inventory = guest_inventory(inventory, {path: copy_private(path, home) for path in keys}, home)
            ansible = replace(ansible, vault_password_file=copy_vault_password(ansible.vault_password_file, home))
        environment = {
            **ansible.environment(home),
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "GOLDSMITH_PLAYS": str(home / report.name),
            "GOLDSMITH_TASK_ENVIRONMENT": json.dumps(dict(task_environment or {})),
            # of tasks on this host: a private folder in memory
            **({"GOLDSMITH_NO_LOG": "1", "ANSIBLE_REMOTE_TMP": str(home / "remote")} if secrets else {}),
        }
        watcher = TaskWatcher(on_line)
        argv: list[str | Path] = [ansible_program("ansible-playbook"), "-i", inventory, "-l", "guest"]
        if secrets:
            in_memory = home / "in-memory.json"
            in_memory.write_text(json.dumps({"all": {"hosts": {"guest": {"ansible_remote_tmp": REMOTE_TMP}}}}))
            argv += ["-i", in_memory]
        argv += [*ansible.arguments, *(word for path in files for word in ("-e", f"@{path}")), file]
        if owner is not None:
            owner.give(home)
        needed = replace(ansible.needed, writes=[home])
        try:
            with started_as(owner, needed) as started:
                process.run(
                    started(argv),
                    deadline=deadline,
                    on_line=watcher,
                    env=environment,
                    cwd=file.parent,
                    watch=self._alive,
                )
        except process.CommandFailed as error:
            raise explain_vault(error.stdout + error.stderr) or GuestError(
                watcher.reason(error) + _why_no_root(owner, error), name="step-failed"
            ) from None
        if owner is not None:
            take_report(home / report.name, report)
        verify_plays(report)


def _why_no_root(owner: ProjectOwner | None, error: process.CommandFailed) -> str:
    """What a task of the build host lacks that wanted to become root there, as an end of a sentence."""
    if owner is None or not owner.service or "no new privileges" not in error.stdout + error.stderr:
        return ""
    return f"; tasks on the build host run as {owner.name}: {ROOT_RUNS}"


_TASK = re.compile(r"^TASK \[(?P<task>[^\]]*)\]")
_FATAL = re.compile(r"^fatal: \[guest\]: (?P<kind>FAILED|UNREACHABLE)! => (?P<data>.*)$")
#: Where the task that failed is written: its file and its line.
_ORIGIN = re.compile(r"^Origin: (?P<file>[^:]+):(?P<line>\d+)", re.ASCII)
_MESSAGE = re.compile(r'"(?:msg|stderr)": "(?P<text>(?:[^"\\]|\\.)+)"')


class TaskWatcher:
    """Follows ansible-playbook's output: which task runs, and what the last failure said."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self.task = ""
        self.fatal: str | None = None
        self._failed = ""
        self._origin = ""

    def __call__(self, line: str) -> None:
        if found := _TASK.match(line):
            self.task = found["task"]
            if self.fatal is None:
                self._origin = ""  # the failure before it was ignored
        elif found := _ORIGIN.match(line):
            if self.fatal is None or not self._origin:
                self._origin = f" ({Path(found['file']).name}:{found['line']})"
        elif (found := _FATAL.match(line)) and self.fatal is None:
            texts = [m["text"] for m in _MESSAGE.finditer(found["data"])]
            message = max(texts, key=len) if texts else found["data"]
            message = message.replace("\\n", " ").replace('\\"', '"').strip()
            self.fatal, self._failed = shorten(message), self.task
        self._on_line(line)

    def reason(self, error: process.CommandFailed) -> str:
        if self.fatal:
            return f'task "{self._failed}"{self._origin}: {self.fatal}'
        lines = [line for line in (error.stderr + error.stdout).splitlines() if "ERROR" in line or "error" in line]
        return lines[0].strip() if lines else error.message
