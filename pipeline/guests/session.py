"""A live guest with a login: booted on an overlay, reached over its own key, and closed without a trace."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import command
from pipeline.errors import GoldsmithError, GuestError
from pipeline.guests import linux
from pipeline.guests.access import Access
from pipeline.guests.journal import read_journal
from pipeline.hypervisor.agent import Agent
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domain import Disk, Spec
from pipeline.hypervisor.machine import Machine, own
from pipeline.layers import Image
from pipeline.store import Store

SSH_BANNER = b"SSH-2.0"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"


@dataclass(frozen=True)
class Patience:
    """Deadlines in seconds. A guest under TCG boots in 40 to 80 s on a quiet host; a busy one takes thrice that."""

    boot: float
    login_grace: float
    ssh: float
    command: float
    shutdown: float

    @classmethod
    def for_kind(cls, kvm: bool) -> Patience:
        if kvm:
            return cls(boot=180, login_grace=30, ssh=60, command=120, shutdown=120)
        return cls(boot=420, login_grace=60, ssh=150, command=300, shutdown=240)


def create_overlay(path: Path, below: Image, size: int | None = None) -> Image:
    """A new qcow2 overlay on `below`; `size` in bytes grows it."""
    base_format = {"vhd": "vpc"}.get(below.format, below.format)
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", below.path, path]
    if size is not None:
        argv.append(str(size))
    command.run(argv, deadline=60)
    return Image(path, "qcow2", below)


class GuestSession:
    """A running guest that steps are run in. Enter it to boot; leave it and nothing of it stays."""

    def __init__(
        self,
        connection: Connection,
        spec: Spec,
        access: Access,
        *,
        logs: Path,
        user_data: Callable[[str], Mapping[str, Any]],
        hostname: str,
        cancelled: threading.Event | None = None,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.access = access
        self.patience = Patience.for_kind(spec.kvm)
        self.logs = logs
        self.machine = Machine(
            connection,
            replace(spec, seed=access.seed, nvram=access.nvram if spec.firmware == "efi" else None),
            logs,
            cancelled,
        )
        self._connection = connection
        self._user_data = user_data
        self._hostname = hostname
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @property
    def agent(self) -> Agent:
        return self.machine.agent

    @property
    def spec(self) -> Spec:
        return self.machine.spec

    def open(self, *, own_disks: bool = True) -> None:
        """Boot, wait for the agent, learn the host key, wait for sshd."""
        spec = self.machine.spec
        self.access.write_seed(
            self._user_data(self.access.public_key),
            linux.network_config(spec.access_mac, spec.outside_mac if spec.outside else None),
            self._hostname,
        )
        if own_disks:
            for disk in spec.disks:
                if not disk.readonly:
                    own(disk.image.path, self._connection)
        started = time.monotonic()
        self.machine.start()
        self._progress("booting")
        self.machine.wait_agent(self.patience.boot, self.patience.login_grace)
        self.seconds["agent"] = round(time.monotonic() - started, 1)
        self._progress("agent is up")
        self._wait_ssh()
        self.seconds["ssh"] = round(time.monotonic() - started, 1)

    def close(self) -> None:
        self.machine.destroy()
        self.access.remove()

    def black_box(self, *, quick: bool = False) -> None:
        """Save what the guest can still tell: its screen, and its journal by the agent or else off its disk.

        `quick` takes the screen only: whoever interrupts a build does not wait for a journal.

        The guest stays as it is where the agent answers; a silent one is read at rest, after its end.
        """
        if not self.machine.started:
            return
        self.machine.screenshot(self.logs / "screen.png")
        if quick:
            return
        journal = self.logs / "journal.log"
        if self.machine.running:
            with contextlib.suppress(GoldsmithError):
                said = self.agent.execute(
                    ["/bin/sh", "-c", "journalctl -b --no-pager -o short-precise | tail -n 4000"], deadline=60
                )
                journal.write_text(said.stdout)
                return
        self.machine.destroy()
        try:
            journal.write_text(read_journal(self.disk, self.logs, Store.locate().root))
        except (GoldsmithError, OSError) as error:
            journal.write_text(f"the guest's journal could not be read off its disk: {error}\n")

    # ---- readiness -----------------------------------------------------------------------------------------------

    def _wait_ssh(self) -> None:
        """Wait for cloud-init's end and sshd's banner; name what is missing as soon as it is known."""
        finished_at: list[float] = []

        def ready() -> bool | None:
            finished = self._cloud_init_finished()
            if finished and not finished_at:
                finished_at.append(time.monotonic())
            banner = _banner(self.access.ssh_port)
            if finished and banner:
                return True
            if finished_at and time.monotonic() - finished_at[0] > self.patience.login_grace / 2:
                raise self._diagnose()
            return None

        try:
            self.machine.wait("sshd", ready, deadline=self.patience.ssh, name="guest-sshd-dead")
        except GuestError as error:
            if error.name == "guest-sshd-dead":
                raise self._diagnose() from None
            raise
        self.access.trust(self.agent.read(HOST_KEY, 4096).decode())

    def _cloud_init_finished(self) -> bool:
        return self.agent.execute(["/usr/bin/test", "-e", "/run/cloud-init/result.json"], deadline=60).code == 0

    def unreachable(self) -> GuestError | None:
        """Why sshd does not greet any more, or None when it does."""
        return None if _banner(self.access.ssh_port) else self._diagnose()

    def stopping(self) -> bool:
        """Whether the guest is on its way down. Raises GuestError when its agent is gone already."""
        said = self.agent.execute(["/bin/sh", "-c", "systemctl is-system-running; true"], deadline=30)
        return said.stdout.strip() == "stopping"

    def _diagnose(self) -> GuestError:
        """Why the guest cannot be reached though its agent answers."""
        addresses = self.agent.addresses()
        if not addresses:
            return GuestError(
                "the guest has no network: no interface has an IPv4 address",
                name="guest-no-network",
                hint="look at the guest's netplan or systemd-networkd configuration in the black box's journal",
            )
        state = self.agent.execute(
            ["/bin/sh", "-c", "systemctl is-active ssh.service sshd.service ssh.socket 2>/dev/null | tr '\\n' ' '"],
            deadline=60,
        ).stdout.strip()
        return GuestError(
            f"sshd does not answer in the guest (addresses {', '.join(addresses)}; unit state: {state})",
            name="guest-sshd-dead",
            hint="a step may have stopped or misconfigured sshd; the journal in the black box tells",
        )

    def boot_id(self) -> str:
        return self.agent.read("/proc/sys/kernel/random/boot_id", 64).decode().strip()

    # ---- steps ---------------------------------------------------------------------------------------------------

    def run_ssh(
        self,
        remote: str,
        *,
        stdin: str | bytes | None = None,
        deadline: float,
        on_line: Callable[[str], None] | None = None,
    ) -> command.Result:
        """Run a shell line in the guest over ssh, as the session's user."""
        return command.run(
            self.access.ssh(remote), stdin=stdin, deadline=deadline, on_line=on_line, watch=self.machine.check
        )

    def run_script(self, script: bytes, *, deadline: float, on_line: Callable[[str], None]) -> None:
        """Run a script as root: sent whole over ssh, run by its own `#!` line, removed afterwards."""
        remote = (
            'sudo -n sh -c \'f=$(mktemp /var/tmp/goldsmith-step.XXXXXX) && trap "rm -f $f" EXIT && '
            'cat >"$f" && chmod 700 "$f" && "$f" </dev/null\''
        )
        if not script.startswith(b"#!"):
            script = b"#!/bin/sh\nset -e\n" + script
        self.run_ssh(remote, stdin=script, deadline=deadline, on_line=on_line)

    def copy(self, source: Path, target: str, mode: str | None, *, deadline: float) -> None:
        """Copy a file, or a folder with all below it, to `target`, owned by root."""
        quoted = shlex.quote(target)
        if source.is_dir():
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                archive.add(source, arcname=".", filter=_as_root)
            inner = f"mkdir -p {quoted} && tar -C {quoted} -xf -"
            data = packed.getvalue()
        else:
            wanted = mode or f"{source.stat().st_mode & 0o777:04o}"
            inner = f"install -D -o root -g root -m {shlex.quote(wanted)} /dev/stdin {quoted}"
            data = source.read_bytes()
        self.run_ssh(f"sudo -n sh -c {shlex.quote(inner)}", stdin=data, deadline=deadline)

    def run_playbook(
        self,
        playbook: Path,
        variables: Path | None,
        *,
        ansible: Path,
        deadline: float,
        on_line: Callable[[str], None],
    ) -> None:
        """Run an Ansible playbook against this guest. Raises GuestError naming the task that failed."""
        home = self.access.folder / "private"
        config = home / "ansible.cfg"
        # empty: what stands in /etc or a home folder of the build host must not change a build
        config.write_text("[defaults]\n")
        extra: list[str | Path] = ["-e", f"@{variables}"] if variables else []
        environment = {
            "ANSIBLE_CONFIG": str(config),
            "ANSIBLE_HOME": str(home / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_NOCOWS": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(home / "cp"),
            "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=60s",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
        }
        watcher = TaskWatcher(on_line)
        argv: list[str | Path] = [ansible, "-i", self.access.inventory(), "-l", "guest", *extra, playbook]
        try:
            command.run(
                argv,
                deadline=deadline,
                on_line=watcher,
                env=environment,
                cwd=playbook.parent,
                watch=self.machine.check,
            )
        except command.CommandFailed as error:
            raise GuestError(watcher.reason(error), name="step-failed") from None

    # ---- layers --------------------------------------------------------------------------------------------------

    def rotate(self, overlay: Image) -> None:
        """From now on the guest writes to `overlay`; what it wrote so far is at rest."""
        own(overlay.path, self._connection)
        self.machine.snapshot(linux.BUILD_DISK, overlay)
        self.machine.spec = replace(self.machine.spec, disks=(Disk(overlay),))

    @property
    def disk(self) -> Image:
        return self.machine.spec.disks[0].image


_TASK = re.compile(r"^TASK \[(?P<task>[^\]]*)\]")
_FATAL = re.compile(r"^fatal: \[guest\]: (?P<kind>FAILED|UNREACHABLE)! => (?P<data>.*)$")
_MESSAGE = re.compile(r'"(?:msg|stderr)": "(?P<text>(?:[^"\\]|\\.)+)"')


class TaskWatcher:
    """Follows ansible-playbook's output: which task runs, and what the last failure said."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self.task = ""
        self.fatal: str | None = None

    def __call__(self, line: str) -> None:
        if found := _TASK.match(line):
            self.task = found["task"]
        elif (found := _FATAL.match(line)) and self.fatal is None:
            texts = [m["text"] for m in _MESSAGE.finditer(found["data"])]
            said = max(texts, key=len) if texts else found["data"]
            said = said.replace("\\n", " ").replace('\\"', '"').strip()
            self.fatal = f'task "{self.task}": {said[:300]}'
        self._on_line(line)

    def reason(self, error: command.CommandFailed) -> str:
        if self.fatal:
            return self.fatal
        lines = [line for line in (error.stderr + error.stdout).splitlines() if "ERROR" in line or "error" in line]
        return lines[0].strip() if lines else error.message


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _banner(port: int) -> bool:
    """Whether an sshd greets at this port of the loopback. QEMU accepts before the guest does: only text tells."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as link:
        link.settimeout(5)
        return link.recv(16).startswith(SSH_BANNER)
    return False
