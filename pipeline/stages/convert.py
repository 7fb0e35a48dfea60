"""convert: the layers become the disk that ships, by default a fixed VHD.

Cost follows the data; freed blocks are not shipped.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.byte_progress import ByteProgress
from pipeline.base.disk_format import DEFAULT_OUTPUT
from pipeline.base.errors import DiskError
from pipeline.cache.layers import Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.gallery import data_file, disk_file

if TYPE_CHECKING:
    from pipeline.vhd.extents import ExtentSource


class Convert(BaseStage):
    """The disk that ships, by default a fixed VHD."""

    name = "convert"
    version = 2
    makes_master = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        row = context.definition.output
        # the default's inputs are those of older versions, whose layers stay good
        inputs = {"subformat": "fixed"} if row == DEFAULT_OUTPUT else {"format": row.name}
        return (UnitSpec(row.output_title, inputs, _run),)


def _run(context: BuildContext, source: Layer | None, draft: PendingLayer) -> StageResult:
    assert source is not None
    row = context.definition.output
    image, facts = _ship(context, source.image, draft.path / disk_file(row), uuid.UUID(hex=draft.key))
    data = []
    for lun, disk in source.image.data:
        unique_id = uuid.uuid5(uuid.UUID(hex=draft.key), str(lun))
        made, beside = _ship(context, disk, draft.path / data_file(lun, row), unique_id)
        data.append((lun, made))
        facts = {name: facts[name] + beside[name] for name in facts}
    detail = f"{facts['allocated'] >> 20} MiB of {facts['virtual_size'] >> 20} MiB"
    if data:
        detail += f", {len(data)} data disks among it"
    return StageResult(replace(image, data=tuple(data)), facts, detail)


def _with_backup_at_end(disk: ExtentSource) -> ExtentSource:
    """The disk with its second GPT at its end: a guest whose root cannot grow has left it where the disk once ended.

    One without a GPT, or with a damaged one, is as it was: the checks name what is wrong.
    """
    from pipeline.disk.gpt import move_backup

    try:
        return move_backup(disk, disk.size)[0]
    except DiskError:
        return disk


def _ship(context: BuildContext, image: Image, target: Path, unique_id: uuid.UUID) -> tuple[Image, dict[str, int]]:
    """Write one disk; what it takes, in bytes."""
    # a plan needs none of these
    from pipeline.disk.mapping import chain_extents
    from pipeline.disk.punch_holes import punch_free
    from pipeline.vhd.output import writer_of

    row = context.definition.output
    context.progress("reading the layers' map")
    with chain_extents(image.path, image.format.key, within=context.store.root) as disk:
        copied = writer_of(row)(
            _with_backup_at_end(disk),
            target,
            unique_id=unique_id,
            timestamp=int(time.time()),
            progress=ByteProgress(context.progress, target.name),
        )
    context.progress("freed blocks")
    punched = punch_free(target, row.key)
    size = row.verify(target)
    status = target.stat()
    facts = {
        "virtual_size": size,
        "file_size": status.st_size,
        "allocated": status.st_blocks * 512,
        "copied": copied,
        "punched": punched,
    }
    return Image(target, row, size=size), facts
