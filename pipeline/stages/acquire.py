"""acquire: the disk to start from. A bootstrap, a file brought by the user, or a master of the gallery."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from pipeline.base.byte_progress import ByteProgress
from pipeline.base.disk_format import QCOW2, find_format, known_format
from pipeline.base.errors import BuildError, CheckFailed, DiskError, UsageError
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import DISK, Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import DataDisk, DataDiskFile, Definition, DiskSource, MasterSource
from pipeline.definition.step_digest import SETTLED
from pipeline.gallery import Version, disks_of
from pipeline.gallery.manifest import tree_of_disk
from pipeline.guest.source_files import verify_checksum
from pipeline.systems import registry


class Acquire(BaseStage):
    """The disk to start from."""

    name = "acquire"
    version = 1
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        return (_first(context), *_beside(context))

    def why_root(self, definition: Definition) -> str:
        return registry.for_definition(definition, None).needs_root_for_source(definition.source)


def _first(context: BuildContext) -> UnitSpec[BuildContext]:
    source = context.definition.source
    inputs: dict[str, object]
    if isinstance(source, DiskSource):
        reread = partial(_disk_inputs, source)
        return UnitSpec("disk", {"source": "disk", **reread()}, partial(_disk, source), reread=reread)
    if isinstance(source, MasterSource):
        master = master_of(context, source)
        inputs = {"source": "master", "image": master.name, "version": master.version, "sha256": master.digest}
        if master.data_disks:
            inputs["data disks"] = [disk["tree_sha256"] for disk in master.manifest["data_disks"]]
        return UnitSpec(f"{master.name} {master.version}", inputs, partial(_master, master))
    return context.system.source_unit(context, source)


def _beside(context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
    """The data disks that the image begins with; what a parent or a foreign disk has comes with its OS disk."""
    source = context.definition.source
    there: set[int] = set()
    if isinstance(source, MasterSource):
        there = {disk.lun for disk in master_of(context, source).data_disks}
    elif isinstance(source, DiskSource):
        there = {disk.lun for disk in source.data}
    new = [disk for disk in context.data_disks if disk.lun not in there]
    if not new:
        return ()
    # caching is Azure's business, not the disk's
    rows: list[object] = [[disk.lun, disk.size, disk.filesystem, disk.label] for disk in new]
    return (UnitSpec("data disks", {"disks": rows}, partial(_data_disks, new)),)


def _data_disks(
    new: Sequence[DataDisk], _context: BuildContext, source: Layer | None, draft: PendingLayer
) -> StageResult:
    from pipeline.guest.disks import create_data_disk

    assert source is not None
    made = [(disk.lun, create_data_disk(draft.path / f"data-{disk.lun}.raw", disk)) for disk in new]
    data = sorted([*source.image.data, *made], key=lambda pair: pair[0])
    summary = f"{len(new)} data disk{'s' if len(new) > 1 else ''}"
    return StageResult(replace(source.image, data=tuple(data)), {**source.facts}, summary)


def master_of(context: BuildContext, source: MasterSource) -> Version:
    """The gallery version that a master source names. Raises UsageError when there is none."""
    return context.gallery.get(str(source))


def _plain(draft: PendingLayer) -> Image:
    return Image(draft.path / DISK, QCOW2)


def _disk_inputs(source: DiskSource) -> dict[str, object]:
    inputs: dict[str, object] = {"sha256": source.sha256 or _disk_digest(source), "format": source.format}
    if source.data:
        inputs["data disks"] = [[each.lun, _tree_digest(each.path), each.format] for each in source.data]
    return inputs


def _disk_digest(source: DiskSource) -> str:
    assert source.path is not None, "a URL has its sha256"
    return _tree_digest(source.path)


def _tree_digest(path: Path) -> str:
    # by data, not by virtual size: a plan must not read eight sparse GiB to say that nothing changed
    status = path.stat()
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED
    if not stat.S_ISREG(status.st_mode) or not settled:
        return chunk_digests(path).tree
    return _remembered_tree(
        path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


@lru_cache(maxsize=64)
def _remembered_tree(path: Path, *_unchanged: int) -> str:
    """The digest of a file, read once in a process as long as its inode, size and times stay what they are."""
    return chunk_digests(path).tree


def _disk(source: DiskSource, context: BuildContext, _source: Layer | None, draft: PendingLayer) -> StageResult:
    # a plan needs none of these
    from pipeline.cache.download import download

    path = source.path
    if path is None:
        assert source.url is not None and source.sha256 is not None
        path = download(source.url, context.store.downloads, source.sha256, progress=context.progress)
    if source.sha256:
        verify_checksum(context, path, source.sha256, "source.disk.sha256")
    with _unpacked(context, path, draft.path) as plain:
        detected, _ = _copy(context, plain, source.format, draft.path / DISK)
    _judge_brought(context, path.name, draft.path / DISK)
    data = [(each.lun, _copy_data(context, each, draft)) for each in source.data]
    summary = f"{detected}, {len(data)} data disks" if data else detected
    return StageResult(replace(_plain(draft), data=tuple(data)), {"format": detected, "suite": None}, summary)


def _copy_data(context: BuildContext, file: DataDiskFile, draft: PendingLayer) -> Image:
    """Copy a data disk that belongs to a foreign disk. Raises UsageError (data-disk-size)."""
    target = draft.path / f"data-{file.lun}.qcow2"
    with _unpacked(context, file.path, draft.path) as plain:
        _, size = _copy(context, plain, file.format, target)
    wanted = next(disk.size for disk in context.data_disks if disk.lun == file.lun)
    if size != wanted:
        raise UsageError(
            f"{file.path} has {size} bytes, but data_disks says {wanted} for LUN {file.lun}",
            name="data-disk-size",
            hint="correct its size in data_disks",
        )
    return Image(target, QCOW2, size=size)


@contextmanager
def _unpacked(context: BuildContext, path: Path, folder: Path) -> Iterator[Path]:
    """The disk in a compressed file, unpacked in `folder` until the block ends; another file is itself.

    Raises DiskError (disk-packed: compressed twice; packed-damaged, packed-too-large, and those of `mapping.detect`),
    HostError (no-space, sandbox-unavailable).
    """
    from pipeline.disk.unpack import unpacked

    if not _is_packed(path):
        yield path
        return
    context.progress(f"unpacking {path.name}")
    with unpacked(path, folder) as plain:
        if _is_packed(plain):
            raise DiskError(
                f"{path.name} is compressed twice",
                name="disk-packed",
                hint="unpack it once yourself, and name the file that comes of it with its own checksum",
            )
        yield plain


def _is_packed(path: Path) -> bool:
    """Whether a file is compressed in a way that a build unpacks. Raises DiskError as `mapping.detect` does."""
    from pipeline.disk import mapping

    try:
        mapping.detect(path, named=False)
    except DiskError as error:
        if error.name != "disk-packed":
            raise
        return True
    return False


def _copy(context: BuildContext, path: Path, fmt: str | None, target: Path) -> tuple[str, int]:
    """Copy a foreign disk to a qcow2 file; its format and its virtual size in bytes. Raises UsageError, DiskError."""
    from pipeline.checks.disk.source_disk import judge_size
    from pipeline.disk import mapping, transfer

    # before qemu-img opens it: a foreign disk may name other files of this host
    # its content decides: the definition says the format, so that a file's name need not
    detected = mapping.detect(path, named=False)
    if fmt and find_format(fmt) != known_format(detected):
        raise UsageError(
            f"{path} is a {detected} disk, but the definition says {fmt}",
            name="disk-format",
            hint="copy the disk again from its source, or correct source.disk.format",
        )
    mapping.disk_format(path, detected)
    context.progress(f"copying the {detected} disk")
    with transfer.open_source(path, detected) as disk:
        if target.name == DISK:
            judge_size(path.name, disk.size, context.definition.disk)
        transfer.convert(
            disk,
            target,
            "qcow2",
            timestamp=int(time.time()),
            progress=ByteProgress(context.progress, f"copying the {detected} disk"),
        )
        return detected, disk.size


def _judge_brought(context: BuildContext, name: str, disk: Path) -> None:
    """Say what a build on this disk would only find out after its guest's boot, or at the end. Raises DiskError."""
    from pipeline.checks.disk.source_disk import judge_source, look_at_source

    definition = context.definition
    context.progress("checking whether the disk boots")
    found = look_at_source(
        disk,
        "qcow2",
        profile=context.system.profile,
        generations=definition.generations,
    )
    builds = bool(definition.steps) or definition.generalize.agent != "outside"
    for line in judge_source(
        found, name, generations=definition.generations, waived=definition.waive.keys(), builds=builds
    ):
        context.run.emit("note", "", line)


def _master(master: Version, context: BuildContext, _source: Layer | None, draft: PendingLayer) -> StageResult:
    from pipeline.guest.disks import create_overlay

    if not master.disk.exists():
        raise BuildError(f"{master.disk} is missing", name="master-missing")
    context.progress("the parent's digests")
    for name, entry in disks_of(master.manifest).items():
        progress = ByteProgress(context.progress, f"the parent's digests: {name}")
        if chunk_digests(master.path / name, progress).tree != tree_of_disk(entry):
            raise CheckFailed(
                f"{master.path / name} has changed since it was captured",
                name="master-damaged",
                hint=f"goldsmith gallery verify {master.name}; goldsmith gallery rollback {master.name}",
            )
    overlay = create_overlay(draft.path / DISK, master.image)
    suite = master.manifest.get("suite")
    return StageResult(overlay, {"suite": suite, "parent": f"{master.name}@{master.version}"}, master.version)
