"""Secrets in a guest's memory: what a guest that cannot keep or give back one is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.base.errors import GuestError
from pipeline.systems.linux.session import GuestSession
from pipeline.systems.linux.step_secrets import FOLDER, VARIABLE, step_secrets


class Guest:
    """Answers each command with the next code; keeps what it was given."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.commands: list[tuple[list[str], object]] = []

    def execute(self, argv: list[str], *, stdin: object = None, **_others: Any) -> SimpleNamespace:
        self.commands.append((argv, stdin))
        return SimpleNamespace(code=self.codes.pop(0), stdout="", stderr="mount: permission denied")


def session(guest: Guest) -> GuestSession:
    machine = SimpleNamespace(check=lambda: None)
    return cast(GuestSession, SimpleNamespace(agent=guest, machine=machine, timeouts=SimpleNamespace(command=60.0)))


def test_a_value_goes_in_on_the_input_of_a_command() -> None:
    guest = Guest(0, 0, 0)
    with step_secrets(session(guest), {"token": b"4b1c77d0a9"}) as variables:
        assert variables == {VARIABLE: FOLDER}
    assert [data for _, data in guest.commands] == [b"", b"4b1c77d0a9", None]
    assert not any("4b1c77d0a9" in word for argv, _ in guest.commands for word in argv)


def test_no_secret_is_no_command() -> None:
    guest = Guest()
    with step_secrets(session(guest), {}) as variables:
        assert variables == {}
    assert guest.commands == []


@pytest.mark.parametrize("codes", [(32,), (0, 1, 0)])
def test_a_guest_that_cannot_keep_a_secret(codes: tuple[int, ...]) -> None:
    with pytest.raises(GuestError) as caught, step_secrets(session(Guest(*codes)), {"token": b"x"}):
        pass
    assert caught.value.name == "secret-not-written" and "permission denied" in caught.value.message


def test_a_guest_that_keeps_it_longer() -> None:
    with pytest.raises(GuestError) as caught, step_secrets(session(Guest(0, 0, 1)), {"token": b"x"}):
        pass
    assert caught.value.name == "secret-not-removed"


def test_the_steps_own_failure_is_what_is_told(tmp_path: Path) -> None:
    del tmp_path
    guest = Guest(0, 0, 1)
    with pytest.raises(KeyError), step_secrets(session(guest), {"token": b"x"}):
        raise KeyError
    assert len(guest.commands) == 3, "it was removed all the same"
