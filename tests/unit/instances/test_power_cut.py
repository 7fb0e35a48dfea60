"""A power cut of the host: what of a guest's writes is on the disk, by the cache mode of the disk.

QEMU's block layer stands in for the guest's machine: qemu-io opens the disk with the product's cache mode, writes,
flushes, writes again, and is aborted (tests.fakes.power_cut). A guest does the same in tests/vm/test_instances.py.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.base import qemu_img
from pipeline.base.disk_format import QCOW2, RAW, VHD
from pipeline.cache.layers import Image
from pipeline.guest.disks import create_overlay
from pipeline.hypervisor.domain import FLUSHED, Disk, Spec, domain_xml
from pipeline.instances.disks import CACHE_MODES, READ_WRITE_WARNING, cache_mode
from tests.fakes.power_cut import LENGTH, read, replay

MIB = 1 << 20
SIZE = 16 * MIB
#: Where the guest writes: what it then flushes, and what it is only told to be written.
FLUSHED_AT, ACKNOWLEDGED_AT = 2 * MIB, 6 * MIB


def cut_power(image: Image, mode: str, commands: list[str], folder: Path) -> Image:
    """Run a machine's writes in a cache mode, cut its host's power, and give the disk as it then is."""
    after = folder / "after.qcow2"
    shutil.copyfile(image.path, after)
    log = folder / "log"
    log.touch()
    options = (
        f"driver={image.format.driver},file.driver=blklogwrites,file.file.driver=file,"
        f"file.file.filename={image.path},file.log.driver=file,file.log.filename={log}"
    )
    argv = ["stdbuf", "-oL", "qemu-io", "-t", mode, "--image-opts", options]
    for command in (*commands, "abort"):
        argv += ["-c", command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode < 0, f"it was to be aborted: {done.stdout}{done.stderr}"
    assert done.stdout.count("wrote") == sum(command.startswith("write") for command in commands), done.stdout
    replay(log, after)
    return Image(after, image.format, image.backing)


def data_disk(folder: Path) -> Image:
    path = folder / "disk.qcow2"
    qemu_img.create(path, QCOW2.driver, SIZE)
    return Image(path, QCOW2)


def os_disk(folder: Path) -> Image:
    master = folder / "master.raw"
    with master.open("wb") as file:
        file.truncate(SIZE)
    return create_overlay(folder / "disk.qcow2", Image(master, RAW))


WRITES = [
    f"write -P 1 {FLUSHED_AT} {LENGTH}",
    "flush",
    f"write -P 2 {ACKNOWLEDGED_AT} {LENGTH}",
]


@pytest.mark.parametrize("make", [data_disk, os_disk])
@pytest.mark.parametrize("caching", list(CACHE_MODES))
def test_what_was_flushed_is_there_and_the_warning_is_right(make: object, caching: str, tmp_path: Path) -> None:
    assert callable(make)
    image: Image = make(tmp_path)
    after = cut_power(image, cache_mode(caching, image), WRITES, tmp_path)
    assert read(after, FLUSHED_AT) == 1
    # the mode that the user is warned of loses what was acknowledged and not flushed; the others keep it
    warned = caching in READ_WRITE_WARNING.partition(",")[0]
    assert read(after, ACKNOWLEDGED_AT) == (0 if warned else 2)
    assert qemu_img.check(after.path, after.format.driver).get("corruptions", 0) == 0


def test_a_mode_that_ignores_flushes_is_seen(tmp_path: Path) -> None:
    """The defect that the test above is to catch: a build's own mode, which flushes nothing."""
    image = data_disk(tmp_path)
    after = cut_power(image, "unsafe", WRITES, tmp_path)
    assert read(after, FLUSHED_AT) == 0


@pytest.mark.parametrize(("caching", "mode"), [*CACHE_MODES.items(), (None, FLUSHED)])
def test_the_machine_has_the_mode_of_each_disk(caching: str | None, mode: str, tmp_path: Path) -> None:
    """A disk without a mode of its own has the machine's."""
    path = tmp_path / "disk.qcow2"
    path.touch()
    disk = Disk(Image(path, QCOW2), "scsi", cache=CACHE_MODES[caching] if caching else None)
    spec = Spec("web", "vms", "instance", False, 1, MIB << 8, (disk,), tmp_path / "serial.log", cache=FLUSHED)
    assert f'cache="{mode}"' in domain_xml(spec)


def test_a_file_system_without_direct_access_keeps_the_promise() -> None:
    """/proc stands for a file system that cannot bypass the page cache."""
    image = Image(Path("/proc/self/status"), RAW)
    assert cache_mode("None", image) == "writethrough"
    assert cache_mode("ReadWrite", image) == "writeback"


def test_a_vhd_keeps_the_promise_without_direct_access(tmp_path: Path) -> None:
    """Its footer ends in the middle of a sector of 4096 bytes: QEMU would refuse to write it with direct access."""
    path = tmp_path / "disk.vhd"
    path.touch()
    assert cache_mode("None", Image(path, VHD, size=MIB)) == "writethrough"
