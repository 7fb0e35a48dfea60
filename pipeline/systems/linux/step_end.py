"""How a step of a Linux build ends: the guest is as it was, it has restarted, it is gone, or nobody gets in any more.

A step that restarts the guest as the last thing it does is waited for. One that restarts it in its middle, powers it
off, or closes goldsmith's own way in is a failure with the step's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.base.process import CommandFailed
from pipeline.guest.ssh_reach import GuestState, ask_state, refused_login
from pipeline.systems.linux.session import GuestSession

#: What Ansible and ssh say of a connection that they do not get, or that has gone.
_NO_CONNECTION = re.compile(
    r"UNREACHABLE|Failed to connect to the host via ssh|Permission denied \(|Connection closed"
)
#: ssh's own exit code, which no command in the guest has given.
_SSH_FAILED = 255

_REBOOT_HINT = (
    "to restart the guest, make `reboot` the last command of a script, or use Ansible's module "
    "ansible.builtin.reboot; put the rest into the next step"
)
_POWER_HINT = (
    "keep the guest running at the end of a step; goldsmith powers it off after the last step. To "
    "restart it, end the script with `reboot`, or use Ansible's module ansible.builtin.reboot"
)


class StepEnd:
    """One step's end. `begin` before the step; then `settle` where it ended well, `cause` where it broke off."""

    def __init__(self, session: GuestSession, progress: Callable[[str], None] = lambda _text: None) -> None:
        self._session = session
        self._progress = progress
        self.restarted = False
        self._before = GuestState("", "", "", "")

    def begin(self) -> None:
        """Remember what the guest is like. Raises GuestError where it is lost."""
        self._session.machine.check()
        self._before = self._state()

    @property
    def boot_before(self) -> str:
        return self._before.boot

    def settle(self, *, logs_in: bool) -> None:
        """After a step that ended well: wait for a guest that restarts, and make sure that goldsmith still gets in.

        `logs_in`: whether a later step needs ssh. Raises GuestError: step-took-guest-down, step-cut-ssh,
        guest-sshd-dead, guest-no-network, guest-root-read-only, or what the console shows.
        """
        after = self._state_or_none()
        if after is not None and after.scheduled:
            raise GuestError(
                f"the step has scheduled a {after.scheduled} of the guest, which would interrupt a later step",
                name="step-took-guest-down",
                hint=_REBOOT_HINT,
            )
        if after is None or after.systemd == "stopping" or after.boot != self._before.boot:
            after = self._wait_restart()
        greeting = self._session.timeouts.ssh if self.restarted else self._session.timeouts.greeting
        if lost := self._session.unreachable(greeting) or self._read_only(after):
            raise lost
        if logs_in and (self.restarted or after.login != self._before.login):
            self._verify_login()

    def cause(self, error: Exception) -> GuestError | None:
        """Why a step broke off, where it was not the step itself that failed. None where it was, or nobody knows."""
        try:
            after = self._state_or_none()
            if after is None or after.systemd == "stopping" or after.boot != self._before.boot:
                self._wait_restart()
                return GuestError(
                    "the guest restarted in the middle of the step", name="guest-rebooted", hint=_REBOOT_HINT
                )
            if lost := self._session.unreachable(self._session.timeouts.greeting) or self._read_only(after):
                return lost
            if _lost_connection(error):
                self._verify_login()
        except GuestError as found:
            return found
        return self._full_disk()

    # ---- the guest ----------------------------------------------------------------------------------------------

    def _state(self) -> GuestState:
        return ask_state(self._session.agent, self._session.access.user, self._session.machine.check)

    def _state_or_none(self) -> GuestState | None:
        """The guest's state; None where its agent is gone, as in a guest that shuts down. Raises where it is lost."""
        try:
            self._check()
            return self._state()
        except GuestError as error:
            if error.name == "guest-agent-silent":
                return None
            raise _taken_down(error) from None

    def _check(self) -> None:
        try:
            self._session.machine.check()
        except GuestError as error:
            raise _taken_down(error) from None

    def _wait_restart(self) -> GuestState:
        """Wait until the guest is up as another boot, and has come to its end of that."""
        session = self._session
        self._progress("the guest restarts")
        session.access.hang_up()  # ssh would wait for the guest that was
        reboots_before = session.machine.reboots

        def back() -> GuestState | None:
            self._check()
            try:
                state = self._state()
            except GuestError as error:
                if error.name == "guest-agent-silent":
                    return None
                raise _taken_down(error) from None
            return (
                state if state.boot != self._before.boot and state.systemd not in ("starting", "stopping") else None
            )

        try:
            state = session.machine.wait(
                "the guest's restart",
                back,
                deadline=session.timeouts.shutdown + session.timeouts.boot,
                name="step-took-guest-down",
                hint=_POWER_HINT,
            )
        except GuestError as error:
            raise _taken_down(error) from None
        self.restarted = True
        session.restarts += max(1, session.machine.reboots - reboots_before)
        return state

    def _verify_login(self) -> None:
        """Log in on a connection of its own. Raises GuestError (step-cut-ssh) in sshd's own words."""
        session = self._session
        try:
            session.log_in_anew()
        except GoldsmithError as error:
            words = error.message
            if isinstance(error, CommandFailed):
                words = (error.stderr.strip().splitlines() or [error.message])[-1]
            raise refused_login(session.sshd_journal(), session.access.user, words) from None

    def _read_only(self, after: GuestState) -> GuestError | None:
        """The error of a root file system that the guest's kernel made read-only: it does so at an error of a disk.

        A guest that restarted may have been made so on purpose.
        """
        if (self._before.root, after.root) != ("rw", "ro") or after.boot != self._before.boot:
            return None
        return GuestError(
            "the guest's root file system has turned read-only",
            name="guest-root-read-only",
            hint="read the kernel's error in serial.log and journal.log in the run's folder; if it is an error of "
            "the disk, check the host's disk with dmesg; then build again",
        )

    def _full_disk(self) -> GuestError | None:
        script = "df -P / | awk 'NR==2 {print $4}'; df -Pi / | awk 'NR==2 {print $4}'"
        try:
            free = self._session.agent.execute(["/bin/sh", "-c", script], deadline=60).stdout.split()
        except GuestError as error:
            return error
        if any(number.isdigit() and int(number) < 64 for number in free):
            return GuestError(
                "the guest's root file system is full",
                name="guest-disk-full",
                hint="set a larger `disk` in the definition, or delete unneeded files in the step",
            )
        return None


def _taken_down(error: GuestError) -> GuestError:
    """A guest that has powered off during a step, by the name for that; any other failure as it is."""
    what = {"guest-powered-off": "powered off", "guest-halted": "halted"}.get(error.name, "")
    if not what or what not in error.message:  # a guest also ends by a crash, of itself or of its qemu
        return error
    return GuestError(f"the guest {what}", name="step-took-guest-down", hint=_POWER_HINT)


def _lost_connection(error: Exception) -> bool:
    if isinstance(error, CommandFailed) and error.code == _SSH_FAILED:
        return True
    return bool(_NO_CONNECTION.search(str(error)))
