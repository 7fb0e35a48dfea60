"""What must be true of a master: small functions with an id, a reason, a remedy and a source."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.checks.model import Check, CheckResult
    from pipeline.checks.run import all_checks, run_checks
    from pipeline.checks.sandbox import inspect, inspect_disk

__all__ = [
    "Check",
    "CheckResult",
    "all_checks",
    "inspect",
    "inspect_disk",
    "run_checks",
]

#: Where each name lives. Loaded when it is asked for: what only names a check needs no reader of disks.
_HOME = {
    "Check": "model",
    "CheckResult": "model",
    "all_checks": "run",
    "run_checks": "run",
    "inspect": "sandbox",
    "inspect_disk": "sandbox",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
