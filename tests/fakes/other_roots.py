"""The fake disk with its root on XFS, on btrfs, or in a striped logical volume: the same files, owners, modes, times.

A Linux kernel writes the first two, lvm2 lays out the third: root, loop devices and their programs are needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pipeline.disk.disk import open_disk
from pipeline.disk.root import Root
from pipeline.vhd.extents import Reader, file_extents
from tests.fakes import fake_disk
from tests.fakes.fake_disk import CORE_AT, ESP_AT, MIB, ROOT_AT, ROOT_SIZE, ROOT_UUID
from tests.fixtures.make_roots import lay_out, mounted, run

#: MiB of the partition that holds the root; XFS takes no less than 300.
_SIZES = {"XFS": 320, "btrfs": 128, "striped LVM": 30}
#: An extent of LVM has 4 MiB, and the first one begins behind 1 MiB of each physical volume.
_EXTENTS = -(-ROOT_SIZE // (8 * MIB)) * 2


def move(disk: Path, kind: str, folder: Path) -> Path:
    """A VHD with the root of `disk`, a fake disk that may have a defect, in another place."""
    target = folder / "moved.raw"
    target.unlink(missing_ok=True)
    size = _SIZES[kind]
    volumes = 2 if kind == "striped LVM" else 1
    with target.open("wb") as file:
        file.truncate(ROOT_AT + (volumes * size + 2) * MIB)
    type_code = "8304" if volumes == 1 else "8e00"
    parts = {3 + number: (ROOT_AT // MIB + number * size, size, type_code) for number in range(volumes)}
    layout = []
    for number, (start, mib, code) in parts.items():
        layout += [f"-n{number}:{start * MIB // 512}:{(start + mib) * MIB // 512 - 1}", f"-t{number}:{code}"]
    fake_disk.tool("sgdisk", f"-n1:2048:{ESP_AT // 512 - 1}", "-t1:EF02", f"-n2:{ESP_AT // 512}:{ROOT_AT // 512 - 1}",
                   "-t2:EF00", *layout, target)  # fmt: skip
    with open_disk(disk) as opened, target.open("r+b") as file:
        # boot code, GRUB's core and the ESP are where they were
        file.write(opened.read(0, 440))
        file.seek(CORE_AT)
        file.write(opened.read(CORE_AT, ROOT_AT - CORE_AT))
        _MOVERS[kind](opened.read, Root(opened.filesystem(opened.root_volume)), target, parts, folder)
    moved = folder / "moved.vhd"
    moved.unlink(missing_ok=True)
    return fake_disk.as_vhd(target, moved)


Read = Callable[[int, int], bytes]
Parts = dict[int, tuple[int, int, str]]


def _copied(maker: list[str]) -> Callable[[Read, Root, Path, Parts, Path], None]:
    def move_to(_: Read, root: Root, target: Path, parts: Parts, folder: Path) -> None:
        start, mib, _kind = parts[3]
        image = folder / "root.img"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(mib * MIB)
        run(*maker, image)
        with mounted(image) as top:
            _copy_tree(root, top)
        _write(image, target, [(start * MIB, mib * MIB)])

    return move_to


def _copy_tree(root: Root, top: Path) -> None:
    folders = [(top, "/")]
    for path, kind in root.walk():
        here = top / path[1:]
        if kind == "dir":
            here.mkdir()
            folders.append((here, path))
        elif kind == "link":
            here.symlink_to(root.read_link(path) or "")
        elif kind == "file":
            here.write_bytes(root.read_whole(path) or b"")
            _dress(root, here, path)
    # what is put into a folder changes its time
    for here, path in reversed(folders):
        _dress(root, here, path)


def _dress(root: Root, here: Path, path: str) -> None:
    stat = root.stat(path, follow=False)
    assert stat is not None
    os.chown(here, stat.uid, stat.gid)
    here.chmod(stat.mode)
    os.utime(here, (stat.mtime, stat.mtime))


def _striped(read: Read, _: Root, target: Path, parts: Parts, folder: Path) -> None:
    """The ext4 as it is, in a logical volume of two stripes."""
    image = folder / "root.img"
    with image.open("wb") as file:
        file.write(read(ROOT_AT, ROOT_SIZE))
        file.truncate(_EXTENTS * 4 * MIB)
    plan = [("lvcreate", "-n", "root", "-l", _EXTENTS, "-i", 2, "-I", "64k", "my-group")]
    lay_out(target, parts, {"root": image}, [tuple(map(str, row)) for row in plan])


def _write(image: Path, target: Path, places: list[tuple[int, int]]) -> None:
    # where its data is, is asked of the host's file system, which may still be writing what the loop device gave it
    with image.open("rb") as file:
        os.fsync(file.fileno())
    source = file_extents(image)
    reader = Reader(source)
    with target.open("r+b") as file:
        for place, length in places:
            for extent in source.extents:
                file.seek(place + extent.start)
                file.write(reader.read(extent.start, min(extent.length, length - extent.start)))
    reader.close()


_MOVERS: dict[str, Callable[[Read, Root, Path, Parts, Path], None]] = {
    "XFS": _copied(["mkfs.xfs", "-q", "-m", f"uuid={ROOT_UUID}", "-L", "root"]),
    "btrfs": _copied(["mkfs.btrfs", "-q", "-U", ROOT_UUID, "-L", "root"]),
    "striped LVM": _striped,
}
KINDS = tuple(_MOVERS)
