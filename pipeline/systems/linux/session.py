"""A live guest with a login: booted on an overlay, reached over its own key, and closed without a trace."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.base import process
from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.base.printable import listed
from pipeline.cache.layers import Image
from pipeline.guest.access import Access
from pipeline.guest.agent_script import AgentScript
from pipeline.guest.journal import read_journal
from pipeline.guest.ssh_reach import SshWatch, ask_guest, explain_silence, unexplained_silence
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor.agent import Agent
from pipeline.hypervisor.answers import refuse
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domain import Kernel, Spec
from pipeline.hypervisor.machine import Machine, own
from pipeline.systems.linux import scripts
from pipeline.systems.linux.set_up_session import RESEEDED, Card, new_mac, set_up_script
from pipeline.systems.linux.steps import Steps

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_HOST_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{60,100}={0,2}(\s|$)", re.ASCII)


class GuestSession:
    """A running guest that steps are run in. Enter it to boot; leave it and nothing of it stays."""

    def __init__(
        self,
        connection: Connection,
        spec: Spec,
        access: Access,
        *,
        logs: Path,
        store: Path,
        cancelled: threading.Event | None = None,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.access = access
        self.timeouts = Timeouts.for_kind(spec.kvm, spec.slowness)
        self.logs = logs
        self.machine = Machine(connection, spec, logs, cancelled)
        self.steps = Steps(access, self._alive)
        #: Asks for sshd while a step runs that needs it.
        self.watch: SshWatch | None = None
        #: How often steps have restarted the guest.
        self.restarts = 0
        self._connection = connection
        self._store = store
        self._progress = progress
        #: Gives back the memory snapshot that the guest was started from.
        self.release: Callable[[], object] = lambda: None
        self.seconds: dict[str, float] = {}

    @property
    def agent(self) -> Agent:
        return self.machine.agent

    @property
    def agent_script(self) -> AgentScript:
        return AgentScript(
            self.agent, self.machine.check, restarts=lambda: self.machine.reboots, boot_time=self.timeouts.boot
        )

    def _alive(self) -> None:
        self.machine.check()
        if self.watch is not None:
            self.watch.look()

    def watch_ssh(self) -> SshWatch:
        """Watch over sshd from now on, until `watch` is set to None."""
        self.watch = SshWatch(self.access.greets, lambda: self.agent, self.access.user)
        return self.watch

    @property
    def spec(self) -> Spec:
        return self.machine.spec

    def open(self, user_data: Mapping[str, Any], hostname: str) -> None:
        """Boot the disk whole with a NoCloud seed: wait for the agent, cloud-init and sshd."""
        spec = self.machine.spec = replace(self.spec, seed=self.access.seed)
        self.access.write_seed(
            user_data,
            scripts.network_config(spec.access_mac, spec.outside_mac if spec.outside else None),
            hostname,
        )
        self._own_disks()
        began = time.monotonic()
        self.machine.start()
        self._agent(began)
        self._wait_ssh()
        self.seconds["ssh"] = round(time.monotonic() - began, 1)

    def boot_directly(self, kernel: Kernel) -> None:
        """Boot the disk by its own kernel, as far as its agent."""
        self.machine.spec = replace(self.spec, kernel=kernel)
        self._own_disks()
        began = time.monotonic()
        self.machine.start()
        self._agent(began)

    def restore(self, memory: Path) -> None:
        """Restore a memory snapshot. Raises BuildError or GuestError where that fails."""
        self._own_disks()
        began = time.monotonic()
        self.machine.start(memory)
        self._agent(began)
        messages = self.agent.execute(["/bin/dmesg"], deadline=60).stdout
        if RESEEDED not in messages:
            raise GuestError("the restored kernel has not drawn new randomness", name="guest-not-reseeded")

    def set_up(self, *, new_addresses: bool) -> None:
        """Set up the session: a user and a key of this build, the network, sshd."""
        spec = self.spec
        cards = [Card(spec.access_mac, new_mac() if new_addresses else None, outside=False)]
        if spec.outside:
            cards.append(Card(spec.outside_mac, new_mac() if new_addresses else None, outside=True))
        began = time.monotonic()
        self._progress("setting up the session")
        self.run_over_agent(set_up_script(self.access.public_key, cards), "the session could not be set up")
        self.access.trust(self._host_key())
        self.seconds["ssh"] = round(self.seconds["agent"] + time.monotonic() - began, 1)

    def run_over_agent(self, script: str, what: str) -> None:
        """Run a shell script of ours as root. Raises GuestError with the last thing it said."""
        try:
            done = self.agent.execute(
                ["/bin/sh", "-s"], stdin=script, deadline=self.timeouts.command, check=self.machine.check
            )
        except GuestError as error:
            if error.name != "guest-command-timeout":
                raise
            late = f"did not finish within {self.timeouts.command:.0f} s{self._waiting_jobs()}"
            raise GuestError(f"{what}: {late}", name="guest-entry-failed") from None
        if done.code != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
            raise GuestError(f"{what}: {last}", name="guest-entry-failed")

    def _own_disks(self) -> None:
        for disk in self.spec.disks:
            if not disk.readonly:
                own(disk.image.path, self._connection)

    def _agent(self, began: float) -> None:
        self._progress("booting, waiting for the guest agent")
        self.machine.wait_agent(self.timeouts.boot, self.timeouts.login_grace)
        self.seconds["agent"] = round(time.monotonic() - began, 1)
        self._progress("agent is up")

    def access_facts(self) -> dict[str, Any]:
        """What the run's record says of a guest that is kept: how a person gets in."""
        return self.access.to_json()

    def shut_down(self) -> None:
        """Power off in order, so that the disk is at rest, and close."""
        self.machine.shutdown(self.timeouts.shutdown)
        self.close()

    def close(self) -> None:
        try:
            self.access.hang_up()
            self.machine.destroy()
            self.access.remove()
        finally:
            self.release()

    def black_box(self, *, quick: bool = False) -> None:
        """Save what the guest can still tell: its screen, and its journal by the agent or else off its disk.

        `quick` takes the screen only: anyone who interrupts a build does not wait for a journal.

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
                result = self.agent.execute(
                    ["/bin/sh", "-c", "journalctl -b --no-pager -o short-precise | tail -n 4000"], deadline=60
                )
                journal.write_text(result.stdout)
                return
        self.machine.destroy()
        try:
            journal.write_text(read_journal(self.disk, self.logs, self._store))
        except (GoldsmithError, OSError) as error:
            journal.write_text(f"the guest's journal could not be read from its disk: {error}\n")

    # ---- readiness -----------------------------------------------------------------------------------------------

    def _wait_ssh(self) -> None:
        """Wait for cloud-init's end and sshd's banner; name what is missing as soon as it is known."""
        finished_at: list[float] = []

        def ready() -> bool | None:
            finished = self._cloud_init_finished()
            if finished and not finished_at:
                finished_at.append(time.monotonic())
            banner = self.access.greets()
            if finished and banner:
                return True
            if finished_at and time.monotonic() - finished_at[0] > self.timeouts.login_grace / 2:
                raise self._diagnose_boot()
            return None

        try:
            self.machine.wait("sshd", ready, deadline=self.timeouts.ssh, name="guest-sshd-dead")
        except GuestError as error:
            if error.name == "guest-sshd-dead":
                raise self._diagnose_boot(banner=self.access.greets()) from None
            raise
        self.access.trust(self._host_key())

    def _diagnose_boot(self, *, banner: bool = False) -> GuestError:
        """Why a guest that no step has touched lets nobody in. `banner`: sshd answers, and something else lacks."""
        if banner:
            jobs = self._waiting_jobs()
            return GuestError(
                f"cloud-init had not finished {self.timeouts.ssh:.0f} s after the guest's agent had started{jobs}",
                name="guest-cloud-init-slow",
                hint="cloud-init of the source may wait for a network or a metadata service: see its stages in "
                "journal.log in the run's folder, or set `datasource_list: [NoCloud, Azure]` in the source",
            )
        error = self._diagnose()
        if error.name != "step-cut-ssh":
            return error
        return GuestError(
            error.message, name="guest-unreachable", hint=f"this setting comes from the source disk: {error.hint}"
        )

    def _waiting_jobs(self) -> str:
        """What the guest's systemd still waits for, as an end of a sentence."""
        with contextlib.suppress(GoldsmithError):
            done = self.agent.execute(["/bin/systemctl", "list-jobs", "--no-legend", "--no-pager"], deadline=30)
            units = [line.split()[1] for line in done.stdout.splitlines() if line.split()[3:] == ["running"]]
            return f": still waiting for {listed(units, 3)}" if units else ""
        return ""

    def _cloud_init_finished(self) -> bool:
        return self.agent.execute(["/usr/bin/test", "-e", "/run/cloud-init/result.json"], deadline=60).code == 0

    def unreachable(self, within: float) -> GuestError | None:
        """Why sshd sends no banner within so many seconds, or None when it does. Raises what `check` finds."""

        def greeted() -> bool | None:
            return self.access.greets() or None

        try:
            self.machine.wait("sshd's banner", greeted, deadline=within, name="guest-sshd-dead")
        except GuestError as error:
            if error.name == "guest-sshd-dead":
                return self._diagnose()
            raise
        return None

    def log_in_anew(self) -> None:
        """Log in over a new connection. Raises CommandFailed or CommandTimeout where that does not go."""
        process.run(self.access.ssh("true", shared=False), deadline=self.timeouts.ssh, watch=self.machine.check)

    def sshd_journal(self) -> str:
        """What sshd has written since the boot, or "" where the guest does not tell."""
        with contextlib.suppress(GoldsmithError):
            return ask_guest(self.agent).journal
        return ""

    def _diagnose(self) -> GuestError:
        """Why the guest cannot be reached though its agent answers."""
        reach = ask_guest(self.agent)
        return explain_silence(reach) or unexplained_silence(reach)

    def boot_id(self) -> str:
        return self.agent.read("/proc/sys/kernel/random/boot_id", 64).decode("ascii", "replace").strip()

    def _host_key(self) -> str:
        """The guest's public host key. Raises GuestError where the file holds something else."""
        text = self.agent.read(HOST_KEY, 4096).decode("ascii", "replace")
        if not _HOST_KEY.match(text):
            refuse("guest-file-read", f"{HOST_KEY} is not an Ed25519 key")
        return text

    # ---- layers --------------------------------------------------------------------------------------------------

    def rotate(self, overlay: Image) -> None:
        """From now on the guest writes to `overlay`; what it wrote so far is at rest."""
        self.machine.snapshot(overlay)

    @property
    def disk(self) -> Image:
        return self.machine.spec.disks[0].image
