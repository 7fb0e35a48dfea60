"""Windows Update, until nothing is left: search, download, install, restart where that is wanted, search again.

Each round is a script in the guest (`inside/updates.ps1`), which says what it does in lines; what comes of it is
decided here. The guest asks whomever it is set to ask: Microsoft, or a WSUS that a policy names.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.shell import Shell
from pipeline.systems.windows.update_errors import explained

#: What Windows would install by itself: no drivers, no previews, nothing that somebody has hidden.
CRITERIA = "IsInstalled=0 and IsHidden=0 and Type='Software' and BrowseOnly=0"
#: Microsoft's classifications "Security Updates" and "Critical Updates". Microsoft: Windows Update, CategoryIDs.
SECURITY = ("0fa1201d-4330-4fa8-8ae9-b877473b6441", "e6cf1350-c01b-414d-a61f-263d14d133b4")
#: Rounds from which on it goes in circles. A medium of some years ago takes three or four.
MOST_ROUNDS = 12
#: How often an update may fail, be taken back by a restart, or a search fail, before it is an error.
TRIES, SEARCHES = 2, 3
#: What a line begins with that is for us.
_MARK = "goldsmith "
#: The names of a restart that does not end.
_NO_RESTART = frozenset({"guest-no-restart", "guest-no-agent"})


def script(only: Literal["security", "all"]) -> bytes:
    """One round. Pure but for reading its own file."""
    body = resources.files("pipeline.systems.windows.inside").joinpath("updates.ps1").read_bytes()
    head = [
        f"$only = '{only}'",
        f'$criteria = "{CRITERIA}"',
        "$security = " + ", ".join(f"'{kind}'" for kind in SECURITY),
    ]
    return "\n".join(head).encode() + b"\n" + body


@dataclass(frozen=True)
class Update:
    """One update, as Windows tells of it. `id` is its identity with its revision."""

    id: str
    kb: tuple[str, ...]
    title: str

    def __str__(self) -> str:
        known = [name for name in self.kb if name not in self.title]
        return f"{self.title} ({', '.join(known)})" if known else self.title

    def to_json(self) -> dict[str, Any]:
        return {"kb": list(self.kb), "title": self.title, "id": self.id}


@dataclass
class Round:
    """What one round has said so far. `failed` has the code of each that could not be downloaded or installed."""

    phase: str = "search"
    found: list[Update] = field(default_factory=list)
    skipped: list[Update] = field(default_factory=list)
    installed: list[Update] = field(default_factory=list)
    failed: list[tuple[Update, str, str]] = field(default_factory=list)
    error: tuple[str, str] | None = None
    restart: bool | None = None
    doing: str = ""

    def hear(self, line: str) -> bool:
        """Take in a line; False where it is not for us. Raises GuestError (updates-garbled)."""
        if not line.startswith(_MARK):
            return False
        word, _, text = line[len(_MARK) :].partition(" ")
        try:
            self._take(word, json.loads(text))
        except (ValueError, KeyError, TypeError):
            raise GuestError(
                f"the update script printed an invalid line: {line[:200]}",
                name="updates-garbled",
                hint="a profile or a policy of the guest may add output to PowerShell: see updates.log",
            ) from None
        return True

    def _take(self, word: str, message: dict[str, Any]) -> None:
        if word == "phase":
            self.phase, self.doing = str(message["phase"]), ""
        elif word == "error":
            self.error = str(message["code"]), str(message["message"])
        elif word == "end":
            self.restart = bool(message["restart"])
        else:
            update = Update(str(message["id"]), tuple(str(name) for name in message["kb"]), str(message["title"]))
            self.doing = str(update)
            match word:
                case "found":
                    self.found.append(update)
                case "skipped":
                    self.skipped.append(update)
                case "installed":
                    self.installed.append(update)
                case "failed":
                    self.failed.append((update, self.phase, str(message["code"])))
                case "downloaded" | "installing":
                    pass
                case _:
                    raise ValueError(word)

    def __str__(self) -> str:
        count = f", {len(self.installed)} of {len(self.found)} installed" if self.found else ""
        return f"{self.phase}{count}{f': {self.doing}' if self.doing else ''}"


@dataclass
class Updating:
    """The whole of it, in one guest. `deadline` is in seconds, restarts included."""

    session: WindowsSession
    only: Literal["security", "all"]
    deadline: float
    on_line: Callable[[str], None]
    installed: dict[str, Update] = field(default_factory=dict)
    skipped: dict[str, Update] = field(default_factory=dict)
    rounds: int = 0
    restarts: int = 0
    _failures: Counter[str] = field(default_factory=Counter)
    _installs: Counter[str] = field(default_factory=Counter)
    _searches: int = 0

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.deadline
        self._shell = Shell(self.session)
        self._now = Round()

    def run(self) -> None:
        """Until nothing is left and no restart is wanted.

        Raises GuestError: updates-search-failed, updates-failed, updates-loop, updates-timeout, updates-garbled, or
        what becomes of the guest itself.
        """
        while True:
            self.rounds += 1
            before = self.session.machine.reboots
            whole = self._round(before)
            if whole and self._now.error is not None:
                self._search_again(*self._now.error)
            else:
                self._judge()
                if not whole or self._now.restart:
                    self._restart(before, by_itself=not whole)
                elif not self._now.found:
                    return
            if self.rounds >= MOST_ROUNDS:
                raise self._in_circles()

    def summary(self) -> dict[str, Any]:
        """What the records say of it."""
        return {
            "updates": [update.to_json() for update in self.installed.values()],
            "skipped": [update.to_json() for update in self.skipped.values()],
            "rounds": self.rounds,
            "restarts": self.restarts,
        }

    def _round(self, before: int) -> bool:
        """Run a round; False where the guest has restarted before its end."""
        self._now = Round()
        try:
            self._shell.powershell(script(self.only), deadline=self._left(), on_line=self._hear, reboots=False)
        except process.CommandTimeout:
            raise self._late(str(self._now)) from None
        except process.CommandFailed as error:
            if self._now.error is None:
                last = next((line for line in error.stderr.splitlines() if line.strip()), f"exit code {error.code}")
                raise GuestError(f"a round of updates was interrupted: {last[:300]}", name="updates-broken") from None
        except GuestError:
            if self.session.machine.reboots == before:
                raise
            return False
        if self._now.error is None and self._now.restart is None:
            raise GuestError("a round of updates ended without a result", name="updates-garbled")
        return True

    def _hear(self, line: str) -> None:
        self.on_line(line)
        if self._now.hear(line):
            self.session.progress(f"updates, round {self.rounds}: {self._now}")

    def _judge(self) -> None:
        """Take in what a round came to. Raises GuestError (updates-failed, updates-loop)."""
        now = self._now
        self._searches = 0
        again = [update for update in now.found if self._installs[update.id] >= TRIES]
        if again:
            raise GuestError(
                f"{again[0]} has been installed {self._installs[again[0].id]} times and is still required",
                name="updates-loop",
                hint=r"it is reverted at each restart: see C:\Windows\Logs\CBS\CBS.log in the guest (--keep-failed)",
            )
        self.skipped |= {update.id: update for update in now.skipped}
        for update in now.installed:
            self.installed[update.id] = update
            self._installs[update.id] += 1
        failed = []
        for update, phase, code in now.failed:
            self._failures[update.id] += 1
            if self._failures[update.id] >= TRIES:
                failed.append((update, phase, code))
        if failed:
            lines = [f"{update}: {phase}: {code} {explained(code).what}".strip() for update, phase, code in failed]
            raise GuestError(
                f"failed {TRIES} times: " + "; ".join(lines),
                name="updates-failed",
                hint=explained(failed[0][2]).hint or "read the event log and CBS.log of the guest",
            )

    def _search_again(self, code: str, message: str) -> None:
        """Wait a little, and let it be searched again. Raises GuestError (updates-search-failed)."""
        self._searches += 1
        why = explained(code)
        if why.lasting or self._searches >= SEARCHES:
            raise GuestError(
                f"Windows cannot search for updates: {code} {why.what or message}",
                name="updates-search-failed",
                hint=why.hint or "look the code up in Microsoft's Windows Update error reference",
            )
        self.session.progress(f"the search for updates failed ({code}) and is tried again")
        # a network that comes up after a restart takes a moment; never longer than a command may
        until = time.monotonic() + min(self.session.deadlines.command / 12, self._left())
        while time.monotonic() < until:
            self.session.machine.check()
            time.sleep(0.2)

    def _restart(self, before: int, *, by_itself: bool) -> None:
        self.restarts += 1
        self.session.progress(f"updates, round {self.rounds}: the guest restarts")
        try:
            # Windows goes on with its updates while it goes down and comes up: no ordinary boot
            if by_itself:
                self._shell.back(before, self._left())
            else:
                self._shell.restart(self._left())
        except GuestError as error:
            if error.name not in _NO_RESTART:
                raise
            raise self._late("the restart") from None

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise self._late(str(self._now))
        return left

    def _late(self, doing: str) -> GuestError:
        return GuestError(
            f"the updates did not finish within {self.deadline:.0f} s (round {self.rounds}, {doing})",
            name="updates-timeout",
            hint="raise updates.deadline, or use a newer medium",
        )

    def _in_circles(self) -> GuestError:
        left = ", ".join(str(update) for update in self._now.found[:5]) or "a restart after each restart"
        return GuestError(
            f"after {self.rounds} rounds Windows still requires {left}",
            name="updates-loop",
            hint=r"see updates.log, and C:\Windows\Logs\CBS\CBS.log in the guest (--keep-failed)",
        )
