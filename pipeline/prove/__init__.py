"""The proof on the shipped file: clones of it are started as users start them, and must be what was asked for.

What a clone is, and what it must show, its operating system says, which is handed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from pipeline.base.byte_progress import ByteProgress
from pipeline.base.errors import BuildError, CheckFailed, UsageError
from pipeline.base.store import Store
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import Image
from pipeline.definition import USER_DATA, DataDisk
from pipeline.fabric import Fabric, Site
from pipeline.gallery import data_file, disk_file
from pipeline.guest.build import Build
from pipeline.prove.matrix import TARGETS, TestRun, TestTarget, matrix, with_revocation_list, with_suites
from pipeline.prove.result import CloneResult, shared_identities
from pipeline.prove.suites import TestSuite, need_installed

__all__ = ["CloneResult", "CloneTest", "TestedSystem", "prove"]


class CloneTest(Protocol):
    """The test of one clone."""

    def run(self, fabric: Fabric | None, pictures: Path) -> CloneResult:
        """The result; screenshots go to `pictures`. Raises GuestError where the clone does not come up."""
        ...


class TestedSystem(Protocol):
    """What a proof asks of an operating system; `pipeline.systems.base.GuestSystem` says what each answer means."""

    @property
    def name(self) -> str: ...

    @property
    def suites(self) -> frozenset[str]: ...

    def test_runs(
        self, build: Build, master: Image, targets: Sequence[TestTarget], *, whole: bool
    ) -> list[TestRun]: ...

    def clone_test(
        self, build: Build, master: Image, test_run: TestRun, beside: int, disks: Sequence[DataDisk]
    ) -> CloneTest: ...

    def clones_at_once(self, build: Build, wanted: int) -> int: ...


def prove(
    context: Build,
    system: TestedSystem,
    master: Image,
    pictures: Path,
    names: Sequence[str],
    *,
    whole: bool,
    revocation_list: Path | None = None,
    suites: Sequence[TestSuite] = (),
) -> tuple[list[CloneResult], dict[str, str]]:
    """Start clones of `master` on the targets `names`, by default on all; their results, and the tree digest of each
    of the master's disks by the name that the gallery gives it.

    Screenshots go to `pictures`. `whole`: with second boots, reimages and second clones. `revocation_list`: what the
    targets with Secure Boot revoke. `suites` are run against one clone, after its own tests.

    Raises UsageError (suite-not-installed, suite-unsupported) before anything starts, CheckFailed where a clone is
    not what it should be, GuestError where one does not come up, BuildError where the master changed meanwhile.
    """
    for suite in suites:
        need_suite(context.store, system, suite)
    before = _trees(context, master)
    first_boot = context.definition.first_boot
    site = Site.of(first_boot.source) if first_boot and first_boot.source != USER_DATA else None
    definition = context.definition
    targets = tuple(TARGETS[name] for name in names) or matrix(definition.generations, definition.secure_boot_keys)
    if revocation_list is not None:
        targets = with_revocation_list(targets, revocation_list)
    wanted = with_suites(system.test_runs(context, master, targets, whole=whole), suites)
    _ = context.accelerator  # measured once, before the threads share it
    results: list[CloneResult] = []
    workers = system.clones_at_once(context, len(wanted))
    with contextlib.ExitStack() as stack:
        fabric = (
            stack.enter_context(Fabric(context.label, site=site)) if any(t.target.fabric for t in wanted) else None
        )
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=workers))
        disks = _data_disks(context, master)
        tests = [system.clone_test(context, master, test_run, workers, disks) for test_run in wanted]
        futures = [pool.submit(test.run, fabric, pictures) for test in tests]
        try:
            for future in as_completed(futures):
                results.append(future.result())
        except BaseException:
            context.cancelled.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return _judged(context, master, before, results)


def need_suite(store: Store, system: TestedSystem, suite: TestSuite) -> None:
    """Raises UsageError: suite-unsupported, suite-not-installed."""
    if suite.name not in system.suites:
        raise UsageError(
            f"the test suite {suite.name} cannot be run against {system.name}",
            name="suite-unsupported",
            hint=f"leave --suite {suite.name} out, or name another image",
        )
    need_installed(store, suite)


def _judged(
    context: Build, master: Image, before: dict[str, str], results: list[CloneResult]
) -> tuple[list[CloneResult], dict[str, str]]:
    """The results in order, once the master is found to be what it was. Raises CheckFailed with every failure."""
    results.sort(key=lambda result: result.target)
    if _trees(context, master) != before:
        raise BuildError(f"{master.path} changed while it was proven", name="master-changed")
    shared_identities(results)
    refuse_failures(results, context.run.folder / "prove")
    return results, before


def refuse_failures(results: Sequence[CloneResult], folder: Path) -> None:
    """Raises CheckFailed with every failure: suite-case-failed where all are of test suites of others."""
    failures = [(result.target, failure) for result in results for failure in result.failures]
    if not failures:
        return
    lines = "\n".join(f"  {target}: {failure}" for target, failure in failures)
    raise CheckFailed(
        f"the master boots, but some tests failed\n{lines}",
        name="suite-case-failed" if all(each.startswith("suite ") for _, each in failures) else "prove-failed",
        hint=f"screenshots, serial logs and the fabric's records are in {folder}",
    )


def _trees(context: Build, master: Image) -> dict[str, str]:
    """The tree digest of each of the master's disks, by the name that the gallery gives it."""
    row = master.format
    files = {disk_file(row): master.path, **{data_file(lun, row): disk.path for lun, disk in master.data}}
    found = {}
    for name, path in files.items():
        progress = ByteProgress(context.progress, f"the master's digests: {name}")
        found[name] = chunk_digests(path, progress).tree
    return found


def _data_disks(context: Build, master: Image) -> list[DataDisk]:
    """What is on each data disk as it ships; how Azure is to cache it, as far as the definition itself says."""
    caching = {disk.lun: disk.caching for disk in context.definition.data_disks}
    found = []
    for lun, image in master.data:
        rows = context.list_disk(image, what="volumes")
        kind, label = rows[0][1:3] if rows and rows[0][0] == "0" else ("", "")
        found.append(DataDisk(lun, image.size or 0, caching.get(lun, "None"), kind or None, label or None))
    return found
