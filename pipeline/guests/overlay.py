"""The disks that guests write to."""

from __future__ import annotations

from pathlib import Path

from pipeline import command
from pipeline.layers import Image


def create_overlay(path: Path, below: Image, size: int | None = None) -> Image:
    """A new qcow2 overlay on `below`; `size` in bytes grows it."""
    base_format = {"vhd": "vpc"}.get(below.format, below.format)
    argv: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", below.path, path]
    if size is not None:
        argv.append(str(size))
    command.run(argv, deadline=60)
    return Image(path, "qcow2", below)
