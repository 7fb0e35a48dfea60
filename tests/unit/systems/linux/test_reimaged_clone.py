"""A clone that a proof reimages keeps its data disks: the disks of a real clone, without its guest."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.base.disk_format import RAW
from pipeline.cache.layers import Image
from pipeline.prove.matrix import TARGETS, plan_test_runs
from pipeline.systems.linux.clone_test import CloneTest

MIB = 1 << 20


def flat(image: Image, target: Path) -> bytes:
    words = ["qemu-img", "convert", "-U", "-f", image.format.driver, "-O", "raw", str(image.path), str(target)]
    subprocess.run(words, check=True)
    return target.read_bytes()


def test_its_os_disk_is_new_and_its_data_disks_are_not(tmp_path: Path) -> None:
    for name in ("disk", "data"):
        (tmp_path / f"{name}.raw").write_bytes(bytes(2 * MIB))
    master = Image(tmp_path / "disk.raw", RAW, data=((3, Image(tmp_path / "data.raw", RAW)),))
    context: Any = SimpleNamespace(
        run=SimpleNamespace(folder=tmp_path, id="R1"),
        store=SimpleNamespace(tmp=tmp_path),
        definition=SimpleNamespace(expect=[]),
    )
    (test_run,) = plan_test_runs([TARGETS["gen2"]], whole=True)
    test = CloneTest(context, master, test_run, 1)
    test.scratch.mkdir()
    disk = test._overlay("disk")
    data = dict(disk.data)[3]
    for image in (disk, data):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64k", str(image.path)], check=True)
    written = flat(data, tmp_path / "flat")
    assert written[MIB] == 7
    new = test.reimaged(disk)
    assert flat(dict(new.data)[3], tmp_path / "flat") == written
    assert not any(flat(new, tmp_path / "flat")) and new.path != disk.path
