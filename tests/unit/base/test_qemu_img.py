"""The wrapper of qemu-img on the package `sh`, with the real program."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base import process, qemu_img

MIB = 1 << 20


def test_an_overlay_states_the_format_of_what_is_below(tmp_path: Path) -> None:
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    qemu_img.create(base, "raw", 8 * MIB)
    # a raw disk whose guest wrote the header of a qcow2: probed, it would be another disk
    base.write_bytes(b"QFI\xfb" + bytes(8 * MIB - 4))
    qemu_img.create_overlay(top, base, "raw", 16 * MIB)
    found = qemu_img.info(top, "qcow2")
    assert found["virtual-size"] == 16 * MIB
    assert found["backing-filename-format"] == "raw" and found["backing-filename"] == str(base)


def test_bytes_are_patched_converted_and_checked(tmp_path: Path) -> None:
    disk, raw = tmp_path / "disk.qcow2", tmp_path / "disk.raw"
    qemu_img.create(disk, "qcow2", 8 * MIB)
    qemu_img.patch(disk, "qcow2", [(0, 0x5A), (MIB + 3, 0x00), (MIB + 4, 0xFF)])
    percents: list[float] = []
    qemu_img.convert(disk, "qcow2", raw, "raw", on_percent=percents.append)
    content = raw.read_bytes()
    assert len(content) == 8 * MIB and content[0] == 0x5A and content[MIB + 3 : MIB + 6] == b"\x00\xff\x00"
    assert percents[-1] == 100.0 and percents == sorted(percents)
    assert qemu_img.check(disk, "qcow2")["check-errors"] == 0


def test_a_corruption_is_an_answer_of_check(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img.create(disk, "qcow2", 8 * MIB)
    qemu_img.patch(disk, "qcow2", [(0, 1)])
    with disk.open("r+b") as file:
        # the reference count of the cluster that the header is in (version 3: 16 bits each, third cluster)
        file.seek(2 * 65536)
        file.write(bytes(2))
    assert qemu_img.check(disk, "qcow2")["corruptions"] > 0


def test_resize_grows_and_refuses_to_shrink(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img.create(disk, "qcow2", 8 * MIB)
    qemu_img.resize(disk, "qcow2", 16 * MIB)
    assert qemu_img.info(disk, "qcow2")["virtual-size"] == 16 * MIB
    with pytest.raises(process.CommandFailed) as caught:
        qemu_img.resize(disk, "qcow2", 8 * MIB)
    assert "--shrink" in caught.value.stderr


def test_a_map_and_an_unpacking_are_argument_lists_for_the_confined_child(tmp_path: Path) -> None:
    disk, raw = tmp_path / "disk.qcow2", tmp_path / "disk.raw"
    qemu_img.create(disk, "qcow2", 8 * MIB)
    qemu_img.patch(disk, "qcow2", [(MIB, 7)])
    with raw.open("wb") as file:
        file.truncate(8 * MIB)
    assert '"data": true' in subprocess.check_output(qemu_img.map_argv(disk, "qcow2"), text=True)
    subprocess.run(qemu_img.unpack_argv(disk, "qcow2", raw), check=True)
    assert raw.read_bytes()[MIB] == 7


def test_a_failure_is_told_in_qemu_imgs_own_words(tmp_path: Path) -> None:
    with pytest.raises(process.CommandFailed) as caught:
        qemu_img.info(tmp_path / "none.qcow2", "qcow2")
    assert "No such file" in caught.value.stderr and caught.value.code == 1


def test_many_threads_lose_nothing_and_leave_nothing_open(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())

    def work(number: int) -> int:
        disk = tmp_path / f"{number}.qcow2"
        qemu_img.create(disk, "qcow2", (number + 1) * MIB)
        return int(qemu_img.info(disk, "qcow2")["virtual-size"])

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(30))) == [(number + 1) * MIB for number in range(30)]
    assert set(Path("/proc/self/fd").iterdir()) <= before
    assert threading.active_count() < 10


def test_sh_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, pipeline.cli.app, pipeline.base.qemu_img; sys.exit('sh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
