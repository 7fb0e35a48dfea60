"""The map of a master's disk: which parts of it have data, and its partitions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pipeline.base.errors import DiskError
from pipeline.cache.layers import Image
from pipeline.evidence.page_parts import Disk, measure_disk
from pipeline.systems.questions import list_disk
from pipeline.vhd.extents import data_ranges


def draw_disk(image: Image) -> Disk:
    """The map of a disk that ships. Raises OSError where its file cannot be read."""
    volumes: Sequence[Sequence[str]] = ()
    with contextlib.suppress(DiskError):  # a disk whose table cannot be read has a map all the same
        volumes = list_disk(image.path, image.format.key, what="volumes")
    size = image.path.stat().st_size - image.format.trailing
    with image.path.open("rb") as file:
        return measure_disk(size, volumes, list(data_ranges(file.fileno(), 0, size)))
