"""convert: the layers become one fixed VHD. Cost follows the data; freed blocks are not shipped."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from pathlib import Path

from pipeline.cache.layers import Draft, Image, Layer
from pipeline.context import BaseStage, BuildContext, StageResult, UnitSpec
from pipeline.gallery import DISK, data_file


class Convert(BaseStage):
    """The fixed VHD that ships."""

    name = "convert"
    version = 2
    makes_master = True

    def units(self, _context: BuildContext) -> tuple[UnitSpec, ...]:
        return (UnitSpec("fixed VHD", {"subformat": "fixed"}, _run),)


def _run(context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    assert source is not None
    image, facts = _ship(context, source.image, draft.path / DISK, uuid.UUID(hex=draft.key))
    data = []
    for lun, disk in source.image.data:
        made, beside = _ship(
            context, disk, draft.path / data_file(lun), uuid.uuid5(uuid.UUID(hex=draft.key), str(lun))
        )
        data.append((lun, made))
        facts = {name: facts[name] + beside[name] for name in facts}
    detail = f"{facts['allocated'] >> 20} MiB of {facts['virtual_size'] >> 20} MiB"
    if data:
        detail += f", {len(data)} data disks among it"
    return StageResult(replace(image, data=tuple(data)), facts, detail)


def _ship(context: BuildContext, image: Image, target: Path, unique_id: uuid.UUID) -> tuple[Image, dict[str, int]]:
    """Write one disk; what it takes, in bytes."""
    # a plan needs none of these
    from pipeline.disk.mapping import chain_extents
    from pipeline.disk.punch_holes import punch_free
    from pipeline.vhd.fixed import write_fixed
    from pipeline.vhd.footer import verify_fixed

    context.progress("reading the layers' map")
    with chain_extents(image.path, image.format, within=context.store.root) as disk:
        report = write_fixed(
            disk,
            target,
            unique_id=unique_id,
            timestamp=int(time.time()),
            progress=lambda done, whole: context.progress(f"{target.name}: {done >> 20} of {whole >> 20} MiB"),
        )
    context.progress("freed blocks")
    punched = punch_free(target)
    footer = verify_fixed(target)
    status = target.stat()
    facts = {
        "virtual_size": footer.current_size,
        "file_size": status.st_size,
        "allocated": status.st_blocks * 512,
        "copied": report.copied,
        "punched": punched,
    }
    return Image(target, "vpc", size=footer.current_size), facts
