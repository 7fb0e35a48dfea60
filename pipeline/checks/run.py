"""Running the checks: each on its own, none stops another, none raises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

from pipeline.base.errors import DiskError, UsageError
from pipeline.base.printable import shorten
from pipeline.checks.model import REGISTRY, CannotLook, Check, CheckResult, Skip, Status, Subject
from pipeline.disk.disk import Disk
from pipeline.disk.questions import clean_text
from pipeline.systems.inspection import GENERIC, DetectedSystem, Inspection, inspections, profiles
from pipeline.systems.installed import InstalledSystem, find_or_generic

#: Findings shown before the rest is only counted.
_SHOWN = 5


#: The module whose checks search the whole disk.
_SEARCHING = "pipeline.checks.disk.secret_scan"


@dataclass(frozen=True)
class Inspected:
    """The results of the checks, and the system that was found on the disk."""

    system: DetectedSystem
    results: list[CheckResult]


def all_checks(profile: str | None = None, systems: Sequence[Inspection] | None = None) -> tuple[Check, ...]:
    """Every check of a profile (of all, without one) in the order of the report; of every system, or of `systems`."""
    known = inspections() if systems is None else systems
    wanted = [each for each in known if profile is None or profile in each.profiles]
    order: dict[str, int] = {}
    # the family that most checks are of comes first
    for each in sorted(wanted, key=lambda each: each.system != GENERIC):
        for module in each.checks:
            import_module(module)
            order.setdefault(module, len(order))
    found = [check for check in REGISTRY.values() if check.run.__module__ in order]
    found.sort(key=lambda check: order[check.run.__module__])
    return tuple(check for check in found if profile is None or check.is_for(profile))


def run_checks(
    disk: Disk,
    *,
    profile: str | None = "azure-linux",
    accounts: Collection[str] = (),
    waive: Mapping[str, str] | None = None,
    generations: Collection[int] = (1, 2),
    ports: Collection[tuple[str, int]] | None = None,
    only: Collection[str] | None = None,
) -> list[CheckResult]:
    """Every check of a profile, of the system's own without one. Arguments and errors as `inspect`."""
    waived = prepare(profile, waive)
    inspected = inspect(disk, profile=profile, accounts=accounts, generations=generations, ports=ports, only=only)
    return [waived(result) for result in inspected.results]


def inspect(
    disk: Disk,
    *,
    profile: str | None = None,
    systems: Sequence[Inspection] | None = None,
    accounts: Collection[str] = (),
    generations: Collection[int] = (1, 2),
    ports: Collection[tuple[str, int]] | None = None,
    only: Collection[str] | None = None,
) -> Inspected:
    """Find the system on the disk and run its checks for `profile`, for its usual one without.

    `systems` are those that may be on the disk, by default all that are registered. `only` names the checks where not
    all are wanted. `accounts` may ship; `ports` are open, None where nobody has said which.

    Raises DiskError (nothing-to-inspect) and nothing else: what surprises a check is its result.
    """
    return judge(begin(disk, profile, systems, accounts, generations, ports), only=only)


@dataclass(frozen=True)
class BegunInspection:
    """A disk whose system is found, and what its checks share."""

    detected: DetectedSystem
    inspection: Inspection
    subject: Subject


def begin(
    disk: Disk,
    profile: str | None,
    systems: Sequence[Inspection] | None,
    accounts: Collection[str],
    generations: Collection[int],
    ports: Collection[tuple[str, int]] | None,
) -> BegunInspection:
    """The first half of `inspect`; arguments and errors as there."""
    _need_something(disk)
    known = inspections() if systems is None else systems
    detected, inspection, system = find_or_generic(disk, known, profile)
    declared = None if ports is None else frozenset(ports)
    subject = Subject(
        disk,
        system,
        detected.profile,
        frozenset(accounts),
        frozenset(generations),
        known,
        ports=declared,
    )
    return BegunInspection(detected, inspection, subject)


def judge(begun: BegunInspection, *, searches: bool | None = None, only: Collection[str] | None = None) -> Inspected:
    """The results of the checks; `searches`: of those alone that search the whole disk, or of the others."""
    missing = _why_no_root(begun.subject.system)
    wanted = [
        check
        for check in all_checks(begun.detected.profile, [begun.inspection])
        if searches in (None, check.run.__module__ == _SEARCHING) and (only is None or check.id in only)
    ]
    return Inspected(begun.detected, [_run(check, begun.subject, missing) for check in wanted])


def _need_something(disk: Disk) -> None:
    """Raises DiskError (nothing-to-inspect) where nothing is a disk's: a text file, an empty one, zeros."""
    if disk.table.kind == "none" and not any(volume.kind for volume in disk.filesystems):
        raise DiskError(
            f"{disk.path.name}: {disk.size} bytes without a partition table or a file system that goldsmith knows",
            name="nothing-to-inspect",
            hint="name the image of a disk; if it is packed or in another format, unpack or convert it first",
        )


def _why_no_root(system: InstalledSystem) -> str | None:
    """Why the files cannot be judged: there is no root, or a reader would see stale data."""
    try:
        _ = system.root
        return system.stale
    except DiskError as error:
        return error.message
    except Exception as error:
        return _surprise(error)


def _run(check: Check, subject: Subject, missing: str | None) -> CheckResult:
    """One check's result. What it found before it could not go on is kept, and never becomes a pass."""
    if check.needs_root and missing is not None:
        return _result(check, "unchecked", missing)
    subject.notes = []
    findings: dict[str, None] = {}
    why_not = None
    try:
        for finding in check.run(subject):
            findings[finding] = None
    except Skip as reason:
        if not findings:
            return _result(check, "skip", str(reason))
    except CannotLook as reason:
        why_not = str(reason)
    except DiskError as error:
        why_not = error.message
    except Exception as error:
        # a hostile disk may surprise any reader: that stops this check, not the others
        why_not = _surprise(error)
    lines = list(findings)
    if why_not is not None:
        status: Status = "fail" if lines and check.severity == "fail" else "unchecked"
        return _result(check, status, _shown([*lines[: _SHOWN - 1], f"could not be run: {why_not}"]))
    if not lines:
        return _result(check, "pass", _shown(subject.notes))
    return _result(check, check.severity, _shown(lines))


def _surprise(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _shown(lines: list[str]) -> str:
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    # what a disk says is not trusted: no control characters reach a terminal or a log
    text = "; ".join(shorten(line, 1000) for line in lines[:_SHOWN]) + more
    return clean_text(text, len(text))


def _result(check: Check, status: Status, evidence: str) -> CheckResult:
    return CheckResult(check.id, check.title, status, check.severity, evidence, check.remedy, check.why)


def prepare(profile: str | None, waive: Mapping[str, str] | None) -> Callable[[CheckResult], CheckResult]:
    """Verify what the caller asks for, and give the function that waives. Raises UsageError as `run_checks`."""
    reasons = waive or {}
    if profile is not None and profile not in profiles():
        raise UsageError(f"no profile {profile!r} ({', '.join(profiles())})", name="unknown-profile")
    all_checks()
    unknown = sorted(set(reasons) - set(REGISTRY))
    if unknown:
        raise UsageError(
            f"the waived check {unknown[0]!r} does not exist",
            name="unknown-check",
            hint="goldsmith checks lists all checks",
        )
    for name in reasons:
        if not REGISTRY[name].waivable:
            raise UsageError(
                f"{name} cannot be waived, because other checks depend on it",
                name="waive-not-possible",
                hint=f"correct the disk: {REGISTRY[name].remedy}",
            )

    def waived(result: CheckResult) -> CheckResult:
        if result.id not in reasons or result.status not in ("fail", "warn", "unchecked"):
            return result
        return replace(result, status="waived", evidence=f"{result.evidence} (waived: {reasons[result.id]})")

    return waived
