"""acquire: the disk to start from. A bootstrap, a file brought by the user, or a master of the gallery."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.base.disk_format import QCOW2, find_format, known_format
from pipeline.base.errors import BuildError, CheckFailed, UsageError
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import DISK, Draft, Image, Layer
from pipeline.context import BaseStage, BuildContext, StageResult, UnitSpec
from pipeline.definition import DataDisk, DebianSource, Definition, DiskSource, IsoSource, MasterSource
from pipeline.gallery import Version, disks_of
from pipeline.gallery.manifest import tree_of_disk
from pipeline.systems.debian import bootstrap

#: Seconds for a whole bootstrap; 100 s on a quiet host with a near mirror.
BOOTSTRAP_DEADLINE = 1800.0


class Acquire(BaseStage):
    """The disk to start from."""

    name = "acquire"
    version = 1
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec, ...]:
        return (_first(context), *_beside(context))

    def why_root(self, definition: Definition) -> str:
        source = definition.source
        return "it bootstraps a file system, whose files belong to root" if isinstance(source, DebianSource) else ""


def _first(context: BuildContext) -> UnitSpec:
    source = context.definition.source
    if isinstance(source, DebianSource):
        inputs: dict[str, object] = {
            "source": "debian",
            "suite": source.suite,
            "packages": sorted(source.packages),
            "package index": context.package_index(source.suite),
            "recipe": bootstrap.recipe(),
        }
        return UnitSpec(f"bootstrap {source.suite}", inputs, partial(_bootstrap, source))
    if isinstance(source, DiskSource):
        inputs = {"source": "disk", "sha256": source.sha256 or _file_digest(source), "format": source.format}
        return UnitSpec("disk", inputs, partial(_disk, source))
    if isinstance(source, MasterSource):
        master = master_of(context, source)
        inputs = {"source": "master", "image": master.name, "version": master.version, "sha256": master.digest}
        if master.data_disks:
            inputs["data disks"] = [one["tree_sha256"] for one in master.manifest["data_disks"]]
        return UnitSpec(f"{master.name} {master.version}", inputs, partial(_master, master))
    assert isinstance(source, IsoSource)
    inputs = {"source": "iso", "sha256": [source.sha256, source.drivers_sha256], "disk size": context.definition.disk}
    return UnitSpec(source.path.name, inputs, partial(_media, source))


def _beside(context: BuildContext) -> tuple[UnitSpec, ...]:
    """The data disks that the image begins with; what a parent has comes with its OS disk."""
    source = context.definition.source
    parent = (
        {disk.lun for disk in master_of(context, source).data_disks} if isinstance(source, MasterSource) else set()
    )
    new = [disk for disk in context.data_disks if disk.lun not in parent]
    if not new:
        return ()
    # caching is Azure's business, not the disk's
    told: list[object] = [[disk.lun, disk.size, disk.filesystem, disk.label] for disk in new]
    return (UnitSpec("data disks", {"disks": told}, partial(_data_disks, new)),)


def _data_disks(new: Sequence[DataDisk], _context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    from pipeline.guest.disks import create_data_disk

    assert source is not None
    made = [(disk.lun, create_data_disk(draft.path / f"data-{disk.lun}.raw", disk)) for disk in new]
    data = sorted([*source.image.data, *made], key=lambda pair: pair[0])
    told = f"{len(new)} data disk{'s' if len(new) > 1 else ''}"
    return StageResult(replace(source.image, data=tuple(data)), {**source.facts}, told)


def master_of(context: BuildContext, source: MasterSource) -> Version:
    """The gallery version that a master source names. Raises UsageError when there is none."""
    return context.gallery.get(str(source))


def _bootstrap(source: DebianSource, context: BuildContext, _source: Layer | None, draft: Draft) -> StageResult:
    work = context.store.tmp / f"bootstrap-{context.run.id}"
    log = context.log_file("bootstrap.log")
    with log.open("a", encoding="utf-8") as file:

        def said(text: str) -> None:
            file.write(text + "\n")
            file.flush()
            context.progress(text)

        facts = bootstrap.bootstrap(
            source.suite,
            source.packages,
            draft.path / DISK,
            work=work,
            seed=draft.key,
            progress=said,
            deadline=BOOTSTRAP_DEADLINE,
        )
    return StageResult(_plain(draft), {**facts, "suite": source.suite}, f"{facts.get('packages', '?')} packages")


def _media(source: IsoSource, context: BuildContext, _source: Layer | None, draft: Draft) -> StageResult:
    """The media are what the definition says, and can do what it asks; the disk is blank."""
    from pipeline.base import qemu_img
    from pipeline.systems.windows.preflight import preflight
    from pipeline.systems.windows.product_keys import product_key

    definition = context.definition
    edition = preflight(source.path, source.edition, definition.generations[0], source.drivers, definition.locale)
    product_key(source.product_key, edition)
    for path in (source.path, source.drivers):
        _qemu_reads(context, path)
    _verify(context, source.path, source.sha256, "source.iso.sha256")
    _verify(context, source.drivers, source.drivers_sha256, "source.drivers.sha256")
    overlay = draft.path / DISK
    assert definition.disk is not None, "the definition's rules: an installation says its disk's size"
    qemu_img.create(overlay, "qcow2", definition.disk)
    return StageResult(_plain(draft), {"edition": edition.name, "build": edition.build, "suite": None}, edition.name)


def _qemu_reads(context: BuildContext, path: Path) -> None:
    """Raises UsageError (medium-unreadable): media stay where they are, and whose they are."""
    from pipeline.base import process

    user, group = context.connection.qemu_owner
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--"]
    if process.run([*become, "test", "-r", path], deadline=30, ok_codes=(0, 1)).code != 0:
        raise UsageError(
            f"{path}: libvirt's qemu may not read it",
            name="medium-unreadable",
            hint=f"chmod o+r {path}, and o+x for the folders above it; or put it into {context.store.root}",
        )


def _plain(draft: Draft) -> Image:
    return Image(draft.path / DISK, QCOW2)


def _file_digest(source: DiskSource) -> str:
    if source.path is None:
        raise UsageError("a disk by URL needs its sha256", name="checksum-missing")
    # by data, not by virtual size: a plan must not read eight sparse GiB to say that nothing changed
    return chunk_digests(source.path).tree


def _verify(context: BuildContext, path: Path, wanted: str, key: str) -> None:
    """Raises CheckFailed (checksum-mismatch)."""
    context.progress(f"checksum of {path.name}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise CheckFailed(
            f"{path}: its sha256 is {found}, the definition says {wanted}",
            name="checksum-mismatch",
            hint=f"download it again, or correct {key}",
        )


def _disk(source: DiskSource, context: BuildContext, _source: Layer | None, draft: Draft) -> StageResult:
    # a plan needs none of these
    from pipeline.cache.download import download
    from pipeline.checks.disk.source_disk import judge_size
    from pipeline.disk import mapping, transfer

    path = source.path
    if path is None:
        assert source.url is not None and source.sha256 is not None
        path = download(source.url, context.store.downloads, source.sha256, progress=context.progress)
    if source.sha256:
        _verify(context, path, source.sha256, "source.disk.sha256")
    # before qemu-img opens it: a foreign disk may name other files of this host
    # its content decides: the definition says the format, so that a file's name need not
    detected = mapping.detect(path, named=False)
    if source.format and find_format(source.format) != known_format(detected):
        raise UsageError(
            f"{path} is {detected}, the definition says {source.format}",
            name="disk-format",
            hint="copy the disk again from its source, or correct source.disk.format",
        )
    mapping.disk_format(path, detected)
    context.progress(f"copying the {detected} disk")
    with transfer.open_source(path, detected) as source_disk:
        judge_size(path.name, source_disk.size, context.definition.disk)
        transfer.convert(
            source_disk,
            draft.path / DISK,
            "qcow2",
            timestamp=int(time.time()),
            progress=lambda done, whole: context.progress(f"{done >> 20} of {whole >> 20} MiB"),
        )
    _judge_brought(context, path.name, draft.path / DISK)
    return StageResult(_plain(draft), {"format": detected, "suite": None}, detected)


def _judge_brought(context: BuildContext, name: str, disk: Path) -> None:
    """Say what a build on this disk would only find out after its guest's boot, or at the end. Raises DiskError."""
    from pipeline.checks.disk.source_disk import judge_source, look_at_source

    definition = context.definition
    context.progress("does it boot?")
    found = look_at_source(
        disk,
        "qcow2",
        profile="azure-windows" if definition.os == "windows" else "azure-linux",
        generations=definition.generations,
    )
    builds = bool(definition.steps) or definition.generalize.agent != "outside"
    for line in judge_source(
        found, name, generations=definition.generations, waived=definition.waive.keys(), builds=builds
    ):
        context.run.emit("note", "", line)


def _master(master: Version, context: BuildContext, _source: Layer | None, draft: Draft) -> StageResult:
    from pipeline.guest.disks import create_overlay

    if not master.disk.exists():
        raise BuildError(f"{master.disk} is gone", name="master-missing")
    context.progress("the parent's digests")
    for name, told in disks_of(master.manifest).items():
        if chunk_digests(master.path / name).tree != tree_of_disk(told):
            raise CheckFailed(
                f"{master.path / name} is not what was captured",
                name="master-damaged",
                hint=f"goldsmith gallery verify {master.name}; goldsmith gallery rollback {master.name}",
            )
    overlay = create_overlay(draft.path / DISK, master.image)
    suite = master.manifest.get("suite")
    return StageResult(overlay, {"suite": suite, "parent": f"{master.name}@{master.version}"}, master.version)
