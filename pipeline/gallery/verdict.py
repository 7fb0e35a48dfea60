"""The verdict on a disk: how many checks passed, failed, were skipped for a reason, or could not look.

The gate needs no failure and nothing unchecked. It counts results as they are recorded, old manifests' too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

#: The status of a check that could not look: its subject is absent, or cannot be read.
UNCHECKED = "unchecked"
#: Statuses that shut the gate.
BLOCKING = ("fail", UNCHECKED)


@dataclass(frozen=True)
class Verdict:
    """Numbers of checks. The four of the gate, then what passed it with a word: warnings, and findings waived."""

    passed: int
    failed: int
    skipped: int
    unchecked: int
    warnings: int
    waived: int
    #: The ids of the waived checks, in the order of the report.
    waived_checks: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Did every check look, and none fail? Of no check at all: no."""
        return not (self.failed or self.unchecked) and bool(self.passed or self.warnings or self.waived)

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped, {self.unchecked} unchecked"
        if self.warnings:
            text += f", {self.warnings} {'warning' if self.warnings == 1 else 'warnings'}"
        if self.waived:
            text += f", {self.waived} waived ({', '.join(self.waived_checks)})"
        return text

    @property
    def short(self) -> str:
        """For a column of a table: the numbers that are not zero."""
        names = ("passed", "failed", "unchecked", "skipped", "warnings", "waived")
        return ", ".join(f"{getattr(self, name)} {name}" for name in names if getattr(self, name)) or "none"

    def to_json(self) -> dict[str, Any]:
        """The numbers by their names; `waived_checks` is a list."""
        return {**asdict(self), "waived_checks": list(self.waived_checks)}

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> Verdict:
        """What `to_json` made it from."""
        values = {each.name: numbers[each.name] for each in fields(cls)}
        return cls(**{**values, "waived_checks": tuple(numbers["waived_checks"])})


def count(checks: object) -> Verdict:
    """The verdict on a list of recorded results. What is not a known result counts as unchecked."""
    numbers = dict.fromkeys(("pass", "fail", "skip", UNCHECKED, "warn", "waived"), 0)
    waived = []
    for check in checks if isinstance(checks, list | tuple) else ():
        facts = check if isinstance(check, Mapping) else {}
        status = str(facts.get("status"))
        numbers[status if status in numbers else UNCHECKED] += 1
        if status == "waived":
            waived.append(str(facts.get("id")))
    passed, failed, skipped, unchecked, warnings, accepted = numbers.values()
    return Verdict(passed, failed, skipped, unchecked, warnings, accepted, tuple(waived))
