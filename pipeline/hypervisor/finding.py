"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.hypervisor.host_packages import install_command

Mark = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. `facts` are for scripts; sizes in bytes, rates in instructions/s."""

    name: str
    verdict: Mark
    text: str
    fix: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict != "ok" and not self.fix:
            raise ValueError(f"{self.name} is not ok, but has no remedy: {self.text}")


def component(name: str, there: bool, text: str, package: str, otherwise: Mark) -> Finding:
    """A part of the host. `package`: names of packages that bring it; `otherwise`: the mark if it is missing."""
    if there:
        return Finding(name, "ok", text)
    return Finding(name, otherwise, f"{text}: missing", install_command(package.split()))
