"""Inputs that strangers brought: a folder beside the checkout, which a clone elsewhere need not have."""

from __future__ import annotations

import bz2
import lzma
import os
from pathlib import Path

import pytest

#: The folder of cases; GOLDSMITH_CASES names another.
CASES = Path(os.environ.get("GOLDSMITH_CASES") or Path(__file__).parents[2] / "shared/cases")


def case(name: str) -> Path:
    """The path of a case, `files/tiny.vhd`. Skips the test where the folder does not exist."""
    path = CASES / name
    if not path.exists():
        pytest.skip(f"no case {name}: the folder of cases is not beside the checkout (GOLDSMITH_CASES names it)")
    return path


def unpacked(name: str, folder: Path) -> Path:
    """The case `files/NAME.xz` (or .bz2) unpacked into `folder`. Skips as `case` does."""
    packed = case(name)
    opener = {".xz": lzma.open, ".bz2": bz2.open}.get(packed.suffix)
    if opener is None:
        return packed
    target = folder / packed.stem
    with opener(packed) as source, target.open("wb") as sink:
        while block := source.read(1 << 20):
            # holes stay holes: some cases are large and empty
            if block.count(0) == len(block):
                sink.seek(len(block), os.SEEK_CUR)
            else:
                sink.write(block)
        sink.truncate(sink.tell())
    return target
