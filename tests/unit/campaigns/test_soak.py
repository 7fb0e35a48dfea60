"""What the campaign of the soak says of two cycles: equal ones pass, and each thing that grew is named."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.store import Store
from tests.campaigns import soak

USE = soak.Use(files=7, threads=2, children=0, domains=0, namespaces=0, mounts=0, memory=100_000, store=50)


@pytest.mark.parametrize(
    ("last", "wrong"),
    [
        (USE, []),
        (replace(USE, memory=105_000, store=50 + soak.CYCLES), []),
        (replace(USE, memory=90_000, store=10), []),
        (replace(USE, memory=105_001), ["memory: 100000 KiB, then 105001 KiB"]),
        (replace(USE, files=8, children=1), ["files: 7, then 8", "children: 0, then 1"]),
        (replace(USE, store=51 + soak.CYCLES), [f"store: 50 MiB, then {51 + soak.CYCLES} MiB"]),
    ],
)
def test_what_grew_is_named(last: soak.Use, wrong: list[str]) -> None:
    assert soak.judge(USE, last) == wrong


def test_an_open_file_and_memory_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "domains", list)
    monkeypatch.setattr(soak, "networks", set)
    store = Store(tmp_path)
    before = soak.measure(store.root)
    kept = bytearray(os.urandom(32 << 20))
    with (tmp_path / "file").open("w+b") as file:
        file.write(kept)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            assert pages[:] == kept
            after = soak.measure(store.root)
    assert after.files >= before.files + 1
    # what is in the memory of this process alone, without the pages of the file
    assert before.memory + (30 << 10) <= after.memory <= before.memory + (48 << 10)
