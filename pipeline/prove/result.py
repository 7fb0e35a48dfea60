"""What one clone showed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Verdict:
    """`checks`: what was looked at, and what was seen; `failures`: what was wrong.

    `seconds` are from each power-on; `made` are those before it. `pages`: for each page that was expected, the file
    of its picture, or why there is none.
    """

    cell: str
    checks: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    screenshot: str | None = None
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """In a few words, once it is green."""
        up = self.seconds.get("ssh") or self.seconds.get("agent")
        return f"{self.cell} in {up:.0f} s" if up else self.cell

    def see(self, what: str, seen: str, good: bool) -> None:
        self.checks[what] = seen
        if not good:
            self.failures.append(f"{what}: {seen}")


#: What no two clones may share. The values are what a guest says of itself.
IDENTITY = ("machine-id", "host key", "uuid", "mac")


def shared_identities(verdicts: list[Verdict]) -> None:
    """Two clones of one master share no identity: a failure of each that has one that another had first."""
    for what in IDENTITY:
        seen: dict[str, str] = {}
        for verdict in verdicts:
            value = verdict.checks.get(what)
            if value is None:
                continue
            if value in seen:
                verdict.failures.append(f"{what}: the same as {seen[value]}'s: {value}")
            seen.setdefault(value, verdict.cell)
