"""Running the checks: each on its own, none stops another, none raises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from pipeline.base.errors import DiskError, UsageError
from pipeline.base.printable import shorten
from pipeline.checks.disk import boot, config_files, partitions, secret_scan, vhd_file
from pipeline.checks.linux import (
    agents,
    build_config,
    build_residue,
    host_name,
    identity,
    kernel,
    network,
    network_names,
    resolver,
    resume,
    service_identity,
    system,
    system_folders,
)
from pipeline.checks.model import ALL, REGISTRY, WINDOWS, CannotLook, Check, CheckResult, Skip, Status, Subject
from pipeline.checks.verdict import UNCHECKED
from pipeline.checks.windows import access, state
from pipeline.checks.windows import boot as windows_boot
from pipeline.checks.windows import secrets as windows_secrets
from pipeline.disk.disk import Disk
from pipeline.disk.questions import clean_text
from pipeline.disk.secret_search import Found

PROFILES = ALL
#: The order of the report: what makes the rest worthless comes first.
_MODULES = (partitions, vhd_file, boot, kernel, resume, system, system_folders, network, network_names, resolver,
            host_name, agents, identity, service_identity, build_residue, build_config, config_files, secret_scan,
            state, windows_secrets, windows_boot, access)  # fmt: skip
#: Findings shown before the rest is only counted.
_SHOWN = 5


def all_checks(profile: str | None = None) -> tuple[Check, ...]:
    """Every check of a profile (of all, without one), in the order of the report."""
    order = {module.__name__: index for index, module in enumerate(_MODULES)}
    found = sorted(REGISTRY.values(), key=lambda check: order[check.run.__module__])
    return tuple(check for check in found if profile is None or profile in check.profiles)


def run_checks(
    disk: Disk,
    *,
    profile: str = "azure-linux",
    accounts: Collection[str] = (),
    waive: Mapping[str, str] | None = None,
    generations: Collection[int] = (1, 2),
    ports: Collection[tuple[str, int]] | None = None,
    searches: bool | None = None,
    found: Found | None = None,
    only: Collection[str] | None = None,
) -> list[CheckResult]:
    """Run every check of a profile; those that search the whole disk alone, or the others, where `searches` says so.

    `found` is what a search has found already; `only` names the checks where not all are wanted.

    `accounts` may ship; `ports` are open, None where nobody has said which; `waive` maps check ids to the reason why
    a finding is accepted. Raises UsageError (unknown-profile, unknown-check, waive-not-possible), DiskError
    (nothing-to-inspect) and nothing else: what surprises a check is its result.
    """
    waived = prepare(profile, waive)
    _need_something(disk)
    declared = None if ports is None else frozenset(ports)
    subject = Subject(disk, profile, frozenset(accounts), frozenset(generations), declared, found=found)
    missing = _why_no_root(disk, profile)
    wanted = [each for each in all_checks(profile) if searches in (None, each.run.__module__ == secret_scan.__name__)]
    wanted = [each for each in wanted if only is None or each.id in only]
    return [waived(_run(check, subject, missing)) for check in wanted]


def _need_something(disk: Disk) -> None:
    """Raises DiskError (nothing-to-inspect) where nothing is a disk's: a text file, an empty one, zeros."""
    if disk.table.kind == "none" and not any(volume.kind for volume in disk.filesystems):
        raise DiskError(
            f"{disk.path.name}: {disk.size} bytes without a partition table or a file system that goldsmith knows",
            name="nothing-to-inspect",
            hint="name the image of a disk; if it is packed or in another format, unpack or convert it first",
        )


def _why_no_root(disk: Disk, profile: str) -> str | None:
    """Why the files cannot be judged: there is no root, or a reader would see stale data."""
    try:
        if profile in WINDOWS:
            _ = disk.windows
            return None
        facts = disk.root_volume.facts
    except DiskError as error:
        return error.message
    except Exception as error:
        return _surprise(error)
    if facts is not None and facts.needs_recovery:
        return "the root file system's journal is to be replayed first"
    return None


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
        return _result(check, status, _shown([*lines[: _SHOWN - 1], f"could not be looked at: {why_not}"]))
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


def prepare(profile: str, waive: Mapping[str, str] | None) -> Callable[[CheckResult], CheckResult]:
    """Verify what the caller asks for, and give the function that waives. Raises UsageError as `run_checks`."""
    reasons = waive or {}
    if profile not in PROFILES:
        raise UsageError(f"no profile {profile!r} ({', '.join(PROFILES)})", name="unknown-profile")
    unknown = sorted(set(reasons) - set(REGISTRY))
    if unknown:
        raise UsageError(
            f"no check {unknown[0]!r} to waive", name="unknown-check", hint="goldsmith checks lists them"
        )
    for name in reasons:
        if not REGISTRY[name].waivable:
            raise UsageError(
                f"{name} cannot be waived: other checks stand on it, and would pass unlooked at",
                name="waive-not-possible",
                hint=f"mend the disk: {REGISTRY[name].remedy}",
            )

    def waived(result: CheckResult) -> CheckResult:
        if result.id not in reasons or result.status not in ("fail", "warn", UNCHECKED):
            return result
        return replace(result, status="waived", evidence=f"{result.evidence} (waived: {reasons[result.id]})")

    return waived
