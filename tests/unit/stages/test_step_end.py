"""How a step ends, by what its guest is like before and after. The guests of tests/campaigns/faults.py are real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base.errors import GuestError
from pipeline.base.process import CommandFailed
from pipeline.guest.ssh_reach import GuestState
from pipeline.guest.timeouts import Timeouts
from pipeline.systems.linux import step_end
from pipeline.systems.linux.step_end import StepEnd

WELL = GuestState("boot-1", "running", "", "files-1")
SILENT = GuestError("no answer", name="guest-agent-silent")
OFF = GuestError("the guest powered off during the build", name="guest-powered-off")
REFUSED = "Nov 26 01:00:00 web sshd[9]: User goldsmith-build from 10.9.8.2 not allowed because listed in DenyUsers\n"


class Session:
    """A guest session by a list of states: each question takes the next, the last one stays."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *states: GuestState | GuestError, before: GuestState = WELL
    ) -> None:
        self.states = [before, *states]
        self.timeouts = Timeouts.for_kind(kvm=True)
        self.access = SimpleNamespace(user="goldsmith-build", hang_up=lambda: None)
        self.machine = SimpleNamespace(check=lambda: None, reboots=0, wait=self.wait)
        self.agent = SimpleNamespace(execute=lambda *_, **__: SimpleNamespace(stdout="900000\n90000\n"))
        self.restarts = 0
        self.silent: GuestError | None = None
        self.refused: CommandFailed | None = None
        self.logins = 0
        self.waits: list[float] = []
        monkeypatch.setattr(step_end, "ask_state", lambda *_: self.next())

    def next(self) -> GuestState:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, GuestError):
            raise state
        return state

    def wait(self, what: str, probe: Callable[[], Any], *, deadline: float, name: str, hint: str) -> Any:
        for _ in range(20):
            if (found := probe()) is not None:
                return found
        raise GuestError(f"{what}: not within {deadline:.0f} s", name=name, hint=hint)

    def unreachable(self, within: float) -> GuestError | None:
        self.waits.append(within)
        return self.silent

    def log_in_anew(self) -> None:
        self.logins += 1
        if self.refused:
            raise self.refused

    def sshd_journal(self) -> str:
        return REFUSED

    def end(self) -> StepEnd:
        end = StepEnd(self)  # type: ignore[arg-type]  # a likeness
        end.begin()
        return end


def test_a_step_that_changes_nothing_costs_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, WELL)
    end = session.end()
    end.settle(logs_in=True)
    assert (session.logins, end.restarted) == (0, False)


@pytest.mark.parametrize("first", [GuestState("boot-1", "stopping", "", ""), SILENT])
def test_a_guest_that_restarts_at_the_end_is_waited_for(
    first: GuestState | GuestError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reboot` as the last line: it was `guest-agent-silent`, with no step's name."""
    booting = GuestState("boot-2", "starting", "", "files-1")
    back = GuestState("boot-2", "running", "", "files-1")
    session = Session(monkeypatch, first, SILENT, booting, SILENT, booting, back)
    end = session.end()
    end.settle(logs_in=True)
    assert end.restarted and session.restarts == 1
    # sshd comes up late in a boot, and the connection of before is of no use
    assert session.waits == [session.timeouts.ssh] and session.logins == 1


def test_a_guest_that_has_restarted_already_is_seen_by_its_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, GuestState("boot-2", "running", "", "files-1"))
    end = session.end()
    end.settle(logs_in=False)
    assert end.restarted


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (OFF, "the guest powered off"),
        (GuestError("the guest halted: reboot: System halted", name="guest-halted"), "the guest halted"),
    ],
)
def test_a_step_that_ends_the_guest_is_named(seen: GuestError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, GuestState("boot-1", "stopping", "", ""), SILENT, seen)
    with pytest.raises(GuestError) as caught:
        session.end().settle(logs_in=False)
    assert (caught.value.name, caught.value.message) == ("step-took-guest-down", words)
    assert "ansible.builtin.reboot" in str(caught.value.hint)


def test_a_crash_keeps_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = GuestError("the guest failed with its QEMU while it was needed", name="guest-powered-off")
    with pytest.raises(GuestError) as caught:
        Session(monkeypatch, crash).end().settle(logs_in=False)
    assert caught.value.name == "guest-powered-off"


def test_a_guest_that_does_not_come_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GuestError) as caught:
        Session(monkeypatch, SILENT).end().settle(logs_in=False)
    assert caught.value.name == "step-took-guest-down" and "restart: not within" in caught.value.message


@pytest.mark.parametrize("mode", ["reboot", "poweroff"])
def test_a_shutdown_that_is_to_come_is_refused_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`shutdown -r +1` would end the guest in the middle of the next step."""
    session = Session(monkeypatch, GuestState("boot-1", "running", mode, "files-1"))
    with pytest.raises(GuestError, match=f"scheduled a {mode}") as caught:
        session.end().settle(logs_in=False)
    assert caught.value.name == "step-took-guest-down"


def test_a_login_is_tried_where_its_files_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps' shared connection outlives AllowUsers; the step that wrote it is named, not the next."""
    session = Session(monkeypatch, GuestState("boot-1", "running", "", "files-2"))
    session.refused = CommandFailed(
        ["ssh"], 255, "", "goldsmith-build@127.0.0.1: Permission denied (publickey).", None
    )
    with pytest.raises(GuestError, match="listed in DenyUsers") as caught:
        session.end().settle(logs_in=True)
    assert caught.value.name == "step-cut-ssh"
    # nobody logs in any more after the last step: the proof will tell
    again = Session(monkeypatch, GuestState("boot-1", "running", "", "files-2"))
    again.refused = session.refused
    again.end().settle(logs_in=False)


def test_what_broke_off_is_told_by_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CommandFailed(["script"], 3, "", "no such package", None)
    assert Session(monkeypatch, WELL).end().cause(plain) is None

    back = GuestState("boot-2", "running", "", "files-1")
    restarted = Session(monkeypatch, SILENT, back).end().cause(plain)
    assert restarted is not None and restarted.name == "guest-rebooted"

    off = Session(monkeypatch, OFF).end().cause(plain)
    assert off is not None and off.name == "step-took-guest-down"

    session = Session(monkeypatch, WELL)
    session.silent = GuestError("the firewall", name="step-cut-ssh", hint="open it")
    cut = session.end().cause(plain)
    assert cut is not None and cut.name == "step-cut-ssh"

    session = Session(monkeypatch, WELL)
    session.refused = CommandFailed(["ssh"], 255, "", "Permission denied (publickey).", None)
    unreachable = GuestError('task "Gathering Facts": Failed to connect to the host via ssh: x', name="step-failed")
    refused = session.end().cause(unreachable)
    assert refused is not None and "DenyUsers" in refused.message

    session = Session(monkeypatch, WELL)
    session.agent.execute = lambda *_, **__: SimpleNamespace(stdout="12\n90000\n")
    full = session.end().cause(plain)
    assert full is not None and full.name == "guest-disk-full"


def test_a_root_file_system_that_turned_read_only_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does so at an error of the disk. A root that was read-only before, or after a restart, is meant."""
    well, broken = replace(WELL, root="rw"), replace(WELL, root="ro")
    plain = CommandFailed(["script"], 1, "", "touch: cannot touch '/x': Read-only file system", None)
    found = Session(monkeypatch, broken, before=well).end().cause(plain)
    assert found is not None and found.name == "guest-root-read-only"
    with pytest.raises(GuestError, match="turned read-only"):
        Session(monkeypatch, broken, before=well).end().settle(logs_in=False)
    assert Session(monkeypatch, broken, before=broken).end().cause(plain) is None
    Session(monkeypatch, replace(broken, boot="boot-2"), before=well).end().settle(logs_in=False)
