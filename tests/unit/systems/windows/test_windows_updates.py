"""Windows Update's state machine: what a guest says round by round, and what comes of it. NOT WINDOWS."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.systems.windows import release_days, updates
from pipeline.systems.windows.session import Deadlines
from pipeline.systems.windows.update_errors import MEANINGS, explained

Script = list[Any]


def line(word: str, describe: dict[str, Any]) -> str:
    return f"goldsmith {word} {json.dumps(describe)}"


def describe(number: int) -> dict[str, Any]:
    return {"id": f"u{number}.1", "kb": [f"KB{number}"], "title": f"Update for NOT WINDOWS (KB{number})", "size": 1}


def round_of(*numbers: int, fail: dict[int, str] | None = None, restart: bool = False) -> Script:
    """What a round says in which `numbers` are found, and those in `fail` end with a code."""
    codes = fail or {}
    good = [number for number in numbers if number not in codes]
    return [
        line("phase", {"phase": "search"}),
        *(line("found", describe(number)) for number in numbers),
        line("phase", {"phase": "download"}),
        *(line("downloaded", describe(number)) for number in numbers),
        line("phase", {"phase": "install"}),
        *(line("failed", {**describe(number), "code": code}) for number, code in codes.items()),
        *(
            message
            for number in good
            for message in (line("installing", describe(number)), line("installed", describe(number)))
        ),
        line("end", {"restart": restart}),
    ]


def no_search(code: str) -> Script:
    return [
        line("phase", {"phase": "search"}),
        line("error", {"code": code, "message": "COM says so"}),
        process.CommandFailed(["step"], 1, "", "", None),
    ]


class Guest:
    """A machine and its shell: each round says its lines; an exception among them is raised. Time stands in `now`."""

    def __init__(self, *rounds: Script) -> None:
        self.rounds = list(rounds)
        self.now = 0.0
        self.reboots = self.restarts = 0
        self.restart_takes = 30.0
        self.output: list[str] = []
        self.machine = self
        self.deadlines = Deadlines(*(9 * [60.0]))

    def check(self) -> None:
        pass

    def progress(self, text: str) -> None:
        self.output.append(text)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def powershell(self, script: bytes, *, deadline: float, on_line: Callable[[str], None], reboots: bool) -> None:
        assert b"Microsoft.Update.Session" in script and not reboots
        for each in self.rounds.pop(0):
            if isinstance(each, float):
                if each > deadline:
                    raise process.CommandTimeout(["step"], deadline)
                self.now += each
            elif isinstance(each, Exception):
                if getattr(each, "name", "") == "guest-rebooted":
                    self.reboots += 1
                raise each
            else:
                on_line(each)

    def restart(self, deadline: float) -> None:
        self.reboots += 1
        self.back(self.reboots, deadline)

    def back(self, _before: int, deadline: float) -> None:
        self.restarts += 1
        if self.restart_takes > deadline:
            raise GuestError("the restart", name="guest-no-restart")
        self.now += self.restart_takes


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def begin(guest: Guest, *, deadline: float = 3600.0) -> updates.Updating:
        monkeypatch.setattr(updates.time, "monotonic", lambda: guest.now)
        monkeypatch.setattr(updates.time, "sleep", guest.sleep)
        monkeypatch.setattr(updates, "Shell", lambda session: session)
        made = updates.Updating(guest, "all", deadline, guest.output.append)  # type: ignore[arg-type]  # a likeness
        made.run()
        return made

    return begin


def test_until_nothing_is_left(run: Any) -> None:
    guest = Guest(round_of(1, 2, restart=True), round_of(3), round_of())
    made = run(guest)
    assert [update["kb"] for update in made.summary()["updates"]] == [["KB1"], ["KB2"], ["KB3"]]
    assert (made.summary()["rounds"], made.summary()["restarts"], guest.restarts) == (3, 1, 1)
    assert "updates, round 1: install, 1 of 2 installed: Update for NOT WINDOWS (KB2)" in guest.output
    assert guest.rounds == []


def test_a_restart_that_waits_from_before_comes_first(run: Any) -> None:
    made = run(Guest(round_of(restart=True), round_of()))
    assert (made.rounds, made.restarts, made.summary()["updates"]) == (2, 1, [])


def test_what_failed_once_is_tried_again(run: Any) -> None:
    made = run(Guest(round_of(1, 2, fail={2: "0x80240016"}, restart=True), round_of(2), round_of()))
    assert [update["kb"] for update in made.summary()["updates"]] == [["KB1"], ["KB2"]]


def test_what_wants_a_person_is_skipped_and_named(run: Any) -> None:
    asks = [line("phase", {"phase": "search"}), line("skipped", describe(7)), line("end", {"restart": False})]
    assert [update["kb"] for update in run(Guest(asks)).summary()["skipped"]] == [["KB7"]]


def test_a_guest_that_restarts_by_itself_is_waited_for(run: Any) -> None:
    torn = [*round_of(1)[:-1], GuestError("the guest restarted", name="guest-rebooted")]
    made = run(Guest(torn, round_of()))
    assert (made.restarts, list(made.installed)) == (1, ["u1.1"])


def test_a_search_that_fails_now_and_then(run: Any) -> None:
    guest = Guest(no_search("0x8024402c"), no_search("0x80244022"), round_of())
    assert run(guest).rounds == 3
    assert guest.now > 0


ENDS: dict[str, tuple[list[Script], str, str]] = {
    "no network": (3 * [no_search("0x8024402c")], "updates-search-failed", "the update server's name is not known"),
    "the service is off": ([no_search("0x80070422")], "updates-search-failed", "service is disabled"),
    "a policy": ([no_search("0x8024500c")], "updates-search-failed", "a policy forbids Microsoft's servers"),
    "a code that nobody knows": (3 * [no_search("0x80249999")], "updates-search-failed", "0x80249999 COM says so"),
    "one fails twice": (
        [round_of(1, 2, fail={2: "0x800f0922"}, restart=True), round_of(2, fail={2: "0x800f0922"})],
        "updates-failed",
        "Update for NOT WINDOWS (KB2): install: 0x800f0922 its installers failed, and it was reverted",
    ),
    "each restart takes it back": (
        [round_of(1, restart=True), round_of(1, restart=True), round_of(1)],
        "updates-loop",
        "(KB1) has been installed 2 times and is still required",
    ),
    "ever new ones": ([round_of(number) for number in range(1, 20)], "updates-loop", "after 12 rounds"),
    "a restart after each restart": (20 * [round_of(restart=True)], "updates-loop", "a restart after each restart"),
    "too long": ([[*round_of(1)[:-1], 4000.0]], "updates-timeout", "round 1, install, 1 of 1 installed"),
    "a line that is none": ([["goldsmith found {"]], "updates-garbled", "goldsmith found {"),
    "a word that is none": ([[line("what", describe(1))]], "updates-garbled", "what"),
    "a round without an end": ([round_of(1)[:-1]], "updates-garbled", "ended without a result"),
    "PowerShell fails": (
        [[process.CommandFailed(["step"], 1, "", "\nNew-Object : no such class\n  + x", None)]],
        "updates-broken",
        "New-Object : no such class",
    ),
    "the guest is lost": (
        [[GuestError("gone", name="guest-agent-silent")]],
        "guest-agent-silent",
        "gone",
    ),
}


@pytest.mark.parametrize("what", ENDS)
def test_each_end_has_its_name(run: Any, what: str) -> None:
    rounds, name, message = ENDS[what]
    with pytest.raises(GuestError) as caught:
        run(Guest(*rounds))
    assert caught.value.name == name
    assert message in caught.value.message
    assert not name.startswith("updates-") or caught.value.hint or name in ("updates-broken", "updates-garbled")


def test_a_restart_that_does_not_end_is_late(run: Any) -> None:
    guest = Guest(round_of(1, restart=True))
    guest.restart_takes = 1e6
    with pytest.raises(GuestError) as caught:
        run(guest)
    assert (caught.value.name, "round 1, the restart" in caught.value.message) == ("updates-timeout", True)


def test_codes_are_spelt_as_the_script_spells_them() -> None:
    assert all(code == f"0x{int(code, 16):08x}" and meaning.what for code, meaning in MEANINGS.items())
    assert explained("0x80070422".upper().replace("X", "x")).lasting
    assert explained("0x12345678").what == ""


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (datetime(2026, 11, 25, 3, tzinfo=UTC), date(2026, 11, 10)),
        (datetime(2026, 11, 10, 17, 59, tzinfo=UTC), date(2026, 10, 13)),
        (datetime(2026, 11, 10, 18, tzinfo=UTC), date(2026, 11, 10)),
        (datetime(2027, 1, 1, 0, tzinfo=UTC), date(2026, 12, 8)),
        (datetime(2026, 9, 8, 18, tzinfo=UTC), date(2026, 9, 8)),
        (datetime(2025, 7, 31, tzinfo=UTC), date(2025, 7, 8)),
    ],
)
def test_the_day_of_a_months_updates(now: datetime, day: date) -> None:
    assert release_days.released(now) == day


@pytest.mark.parametrize("only", ["security", "all"])
def test_the_script_is_pinned(only: Any, golden: Any) -> None:
    golden(f"windows/updates-{only}.ps1", updates.script(only).decode())


def test_what_the_script_says_is_what_is_heard() -> None:
    """Every word that the script may say is one that a round takes."""
    text = updates.script("all").decode()
    words = {part.split("'")[0] for part in text.split("Say '")[1:]}
    assert words == {"phase", "error", "found", "skipped", "downloaded", "installing", "installed", "failed", "end"}
    heard = updates.Round()
    for word in words - {"phase", "error", "end"}:
        assert heard.hear(line(word, {**describe(1), "code": "0x0"}))
    assert not heard.hear("WARNING: something of PowerShell's")
    # one round restarts nothing: when is for the state machine to say
    assert "Restart-Computer" not in text and "shutdown" not in text


def test_the_package_ships_its_scripts() -> None:
    assert '"**/*.ps1"' in (Path(__file__).parents[4] / "pyproject.toml").read_text()
