"""What one clone showed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.prove.suites import SuiteResult


@dataclass
class CloneResult:
    """`checks`: what was looked at, and what was seen; `failures`: what was wrong.

    `seconds` are from each power-on; `made` are those before it. `pages`: for each page that was expected, the file
    of its picture, or why there is none. `suites`: for each test suite of others that was run, its version and cases.
    """

    target: str
    checks: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    screenshot: str | None = None
    pages: dict[str, str] = field(default_factory=dict)
    suites: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """In a few words, once it is green."""
        up = self.seconds.get("ssh") or self.seconds.get("agent")
        return f"{self.target} in {up:.0f} s" if up else self.target

    def to_json(self) -> dict[str, Any]:
        """As records and manifests have it: there the target is called `cell`."""
        fields = asdict(self)
        if not self.suites:
            del fields["suites"]
        return {"cell": fields.pop("target"), **fields}

    def see(self, what: str, seen: str, good: bool) -> None:
        self.checks[what] = seen
        if not good:
            self.failures.append(f"{what}: {seen}")

    def see_suite(self, suite: SuiteResult) -> None:
        """A suite's result: in a line, and a failure for each of its cases that failed."""
        self.suites[suite.name] = suite.to_json()
        self.see(f"suite {suite.name}", f"{suite.version}: {suite.count()}", True)
        self.failures += [f"suite {suite.name}: {case.name}: {case.message}" for case in suite.failed]


#: What no two clones may share. The values are what a guest says of itself.
IDENTITY = ("machine-id", "host key", "uuid", "mac")


def shared_identities(results: list[CloneResult]) -> None:
    """Two clones of one master share no identity: a failure of each that has one that another had first."""
    for what in IDENTITY:
        seen: dict[str, str] = {}
        for result in results:
            value = result.checks.get(what)
            if value is None:
                continue
            if value in seen:
                result.failures.append(f"{what}: the same as {seen[value]}'s: {value}")
            seen.setdefault(value, result.target)
