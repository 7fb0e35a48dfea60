"""Damaged inputs: no hang, no traceback, no read outside the file, no memory eaten. 2,000 here, 100,000 in
`make campaign-mutations`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import fuzz

COUNT = 200


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fuzz.Kind]:
    return fuzz.kinds(tmp_path_factory.mktemp("good"))


NAMES = (
    "fixed VHD: footer",
    "dynamic VHD: footers, header, table, bitmaps",
    "differencing VHD: header, locators, parent",
    "GPT and MBR",
    "ext4: superblock, groups, inodes",
    "FAT: boot sector, tables, directories",
    "marks of volumes",
    "registry hive",
    "qcow2, VMDK and VHDX headers",
    "initramfs",
    "rpm database",
)


def test_every_kind_is_tried(kinds: dict[str, fuzz.Kind]) -> None:
    assert tuple(kinds) == NAMES and COUNT * len(NAMES) >= 2000


@pytest.mark.parametrize("name", NAMES)
def test_mutations(kinds: dict[str, fuzz.Kind], tmp_path: Path, name: str) -> None:
    kind = kinds[name]
    tally = fuzz.try_kind(kind, COUNT, tmp_path)
    assert tally.failures == [] and tally.crashes == []
    assert tally.tried >= COUNT and tally.errors
