"""The proof on the shipped file: clones of it are started as users start them, and must be what was asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pipeline.base.errors import BuildError, CheckFailed, DiskError
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import Image
from pipeline.checks import list_disk
from pipeline.context import BuildContext
from pipeline.definition import USER_DATA, DataDisk
from pipeline.fabric import Fabric, Site
from pipeline.gallery import data_file, disk_file
from pipeline.prove.clone_test import CloneTest, TestRun
from pipeline.prove.matrix import TARGETS, TestTarget, matrix, without_seeds
from pipeline.prove.result import CloneResult, shared_identities
from pipeline.prove.windows_clone_test import WindowsCloneTest

__all__ = ["CloneResult", "prove"]


def plan_test_runs(targets: Sequence[TestTarget], *, whole: bool) -> list[TestRun]:
    """Who is started where; the longest first, so that none is left over at the end."""
    found = []
    for target in targets:
        if not whole:
            found.append(TestRun(target, target.name))
            continue
        found.append(TestRun(target, target.name, target.again, target.reimage, settles=target.again))
        found += [TestRun(target, f"{target.name}-{number}") for number in range(2, target.clones + 1)]
    return sorted(found, key=lambda test_run: -test_run.boots)


def prove(
    context: BuildContext, master: Image, pictures: Path, names: Sequence[str], *, whole: bool
) -> tuple[list[CloneResult], dict[str, str]]:
    """Start clones of `master` on the targets `names`, by default on all; their results, and the tree digest of each
    of the master's disks by the name that the gallery gives it.

    Screenshots go to `pictures`. `whole`: with second boots, reimages and second clones.

    Raises CheckFailed where a clone is not what it should be, GuestError where one does not come up, BuildError where
    the master changed meanwhile.
    """
    before = _trees(master)
    first_boot = context.definition.first_boot
    site = Site.of(first_boot.source) if first_boot and first_boot.source != USER_DATA else None
    targets = tuple(TARGETS[name] for name in names) or matrix(context.definition.generations)
    if context.definition.os == "windows":
        return _judged(context, master, before, _windows(context, master, pictures, targets, site))
    # with a seed alone a clone would find nobody to ask for its first boot's configuration
    wanted = plan_test_runs(
        targets if first_boot is None and _reads_seeds(master) else without_seeds(targets), whole=whole
    )
    _ = context.accelerator  # measured once, before the threads share it
    results: list[CloneResult] = []
    # an emulated clone lets its processor idle a tenth of the time; another one takes it
    workers = max(1, min(len(wanted), (os.cpu_count() or 1) + (context.accelerator.kind == "tcg")))
    with contextlib.ExitStack() as stack:
        fabric = (
            stack.enter_context(Fabric(context.label, site=site)) if any(t.target.fabric for t in wanted) else None
        )
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=workers))
        disks = _data_disks(context, master)
        tests = [CloneTest(context, master, test_run, workers, disks) for test_run in wanted]
        futures = [pool.submit(test.run, fabric, pictures) for test in tests]
        try:
            for future in as_completed(futures):
                results.append(future.result())
        except BaseException:
            context.cancelled.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return _judged(context, master, before, results)


def _windows(
    context: BuildContext, master: Image, pictures: Path, targets: Sequence[TestTarget], site: Site | None
) -> list[CloneResult]:
    """One clone of Windows after another: each wants what a host has."""
    _ = context.accelerator
    with Fabric(context.label, site=site) as fabric:
        return [
            WindowsCloneTest(context, master, target).run(fabric, pictures) for target in targets if target.fabric
        ]


def _judged(
    context: BuildContext, master: Image, before: dict[str, str], results: list[CloneResult]
) -> tuple[list[CloneResult], dict[str, str]]:
    """The results in order, once the master is found to be what it was. Raises CheckFailed with every failure."""
    results.sort(key=lambda result: result.target)
    context.progress("the master's digests")
    if _trees(master) != before:
        raise BuildError(f"{master.path} changed while it was proven", name="master-changed")
    shared_identities(results)
    failures = [f"{result.target}: {failure}" for result in results for failure in result.failures]
    if failures:
        raise CheckFailed(
            "the master boots, but is not what it should be\n" + "\n".join(f"  {line}" for line in failures),
            name="prove-failed",
            hint=f"screenshots, serial logs and the fabric's records are in {context.run.folder / 'prove'}",
        )
    return results, before


def _trees(master: Image) -> dict[str, str]:
    row = master.format
    files = {disk_file(row): master.path, **{data_file(lun, row): disk.path for lun, disk in master.data}}
    return {name: chunk_digests(path).tree for name, path in files.items()}


def _data_disks(context: BuildContext, master: Image) -> list[DataDisk]:
    """What is on each data disk as it ships; how Azure is to cache it, as far as the definition itself says."""
    caching = {disk.lun: disk.caching for disk in context.definition.data_disks}
    found = []
    for lun, image in master.data:
        rows = list_disk(image.path, image.format.key, what="volumes")
        kind, label = rows[0][1:3] if rows and rows[0][0] == "0" else ("", "")
        found.append(DataDisk(lun, image.size or 0, caching.get(lun, "None"), kind or None, label or None))
    return found


def _reads_seeds(master: Image) -> bool:
    """Whether cloud-init is on the disk. One whose packages cannot be read shows it in the running clone."""
    try:
        listed = list_disk(master.path, master.format.key, what="packages")
    except DiskError:
        return True
    return any(name == "cloud-init" for name, *_ in listed)
