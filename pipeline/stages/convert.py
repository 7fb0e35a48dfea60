"""convert: the layers become one fixed VHD. Cost follows the data; freed blocks are not shipped."""

from __future__ import annotations

import time
import uuid

from pipeline.job import Job, Made, Work
from pipeline.layers import Draft, Image, Layer
from pipeline.offline.containers import extents
from pipeline.offline.scrub import punch_free
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import verify_fixed

NAME = "convert"
VERSION = 2
VHD = "disk.vhd"


def plan(_job: Job) -> tuple[Work, ...]:
    return (Work("fixed VHD", {"subformat": "fixed"}, _run),)


def _run(job: Job, source: Layer | None, draft: Draft) -> Made:
    assert source is not None
    target = draft.path / VHD
    job.progress("reading the layers' map")
    with extents(source.image.path, source.image.format, allow_backing_within=job.store.root) as disk:
        report = write_fixed(
            disk,
            target,
            unique_id=uuid.UUID(hex=draft.key),
            timestamp=int(time.time()),
            progress=lambda done, whole: job.progress(f"{done >> 20} of {whole >> 20} MiB"),
        )
    job.progress("freed blocks")
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
    detail = f"{status.st_blocks * 512 >> 20} MiB of {footer.current_size >> 20} MiB"
    return Made(Image(target, "vpc", size=footer.current_size), facts, detail)
