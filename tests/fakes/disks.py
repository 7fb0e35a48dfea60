"""Masters for tests of instances: the two guests without a system, each on a disk that a BIOS boots, in a gallery."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from pipeline.base.runs import now
from pipeline.cache.digests import chunk_digests, flat_digest
from pipeline.gallery import DISK, Gallery, Version, data_file
from pipeline.hypervisor.domain import Kernel
from pipeline.vhd.footer import DiskType, Footer
from tests.fakes.fake_windows.parts import Parts
from tests.fakes.small_linux import COMMAND_LINE

MIB = 1 << 20
#: Where the file system of the small Linux begins; GRUB lies before it, behind the partition table.
_START = MIB
_GRUB = Path("/usr/lib/grub/i386-pc")
_MODULES = ("biosdisk", "part_msdos", "ext2", "linux")
_CONFIG = f"set root=(hd0,msdos1)\nlinux /vmlinuz {COMMAND_LINE}\ninitrd /initrd\nboot\n"


def small_linux_disk(parts: Parts, kernel: Kernel, folder: Path, target: Path) -> None:
    """Write a raw disk from which a BIOS starts the small Linux: GRUB, and an ext4 with its kernel and initramfs."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    shutil.copyfile(parts.vmlinuz, tree / "vmlinuz")
    # packed: an emulated BIOS reads slower than the kernel unpacks
    (tree / "initrd").write_bytes(gzip.compress(kernel.initrd.read_bytes(), 1))
    need = sum(path.stat().st_size for path in tree.iterdir()) // MIB + 16
    size = _START + need * MIB
    with target.open("wb") as file:
        file.truncate(size)
    mke2fs = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", f"offset={_START}", "-d", str(tree)]
    subprocess.run([*mke2fs, str(target), f"{need}M"], check=True)
    config, core = folder / "grub.cfg", folder / "core.img"
    config.write_text(_CONFIG)
    mkimage = ["grub-mkimage", "-O", "i386-pc", "-p", "/", "-c", str(config), "-o", str(core), *_MODULES]
    subprocess.run(mkimage, check=True)
    with target.open("r+b") as file:
        # the boot sector looks for the rest of GRUB in sector 1, which is where it looks by itself
        file.write((_GRUB / "boot.img").read_bytes()[:440])
        file.seek(446)
        file.write(_entry(_START // 512, need * MIB // 512) + bytes(48) + b"\x55\xaa")
        file.write(core.read_bytes())
        assert file.tell() < _START


def _entry(first: int, sectors: int) -> bytes:
    """A bootable partition of Linux' type, by its sectors alone."""
    where = bytes((0xFE, 0xFF, 0xFF))
    return b"\x80" + where + b"\x83" + where + first.to_bytes(4, "little") + sectors.to_bytes(4, "little")


def add_master(
    gallery: Gallery, name: str, raw: Path, *, data: Mapping[int, Path] | None = None, **more: object
) -> Version:
    """A golden version of an image whose disk is a raw file's. `data` are raw files of data disks by LUN, `more`
    fields of its manifest.
    """
    disk, described = _vhd(raw)
    beside = {lun: _vhd(path) for lun, path in (data or {}).items()}

    def manifest(version: str) -> dict[str, object]:
        return {
            "name": name,
            "version": version,
            "created": now(),
            "state": "proven",
            "start": "cold",
            "os": "linux",
            "generations": [1],
            "machine": {"cpus": 1, "memory": 128 * MIB},
            "disk": described,
            "data_disks": [
                {"lun": lun, "caching": "ReadOnly", "filesystem": None, "label": None, **record}
                for lun, (_, record) in beside.items()
            ],
            "checks": [],
            **more,
        }

    files = {DISK: disk, **{data_file(lun): path for lun, (path, _) in beside.items()}}
    made = gallery.capture(name, files, [], manifest)
    for path in files.values():
        path.unlink()
    gallery.promote(made)
    return made


def _vhd(raw: Path) -> tuple[Path, dict[str, object]]:
    """A fixed VHD beside a raw file, and what a manifest has of it."""
    disk = raw.with_suffix(".vhd")
    size = raw.stat().st_size
    shutil.copyfile(raw, disk)
    footer = Footer.build(size, disk_type=DiskType.FIXED, unique_id=uuid.uuid4(), timestamp=int(time.time()))
    with disk.open("ab") as file:
        file.write(footer.pack())
    disk.chmod(0o444)
    digests = chunk_digests(disk)
    return disk, {
        "size": digests.size,
        "virtual_size": digests.size - 512,
        "sha256": flat_digest(disk),
        "chunk_size": 2 * MIB,
        "chunks_sha256": list(digests.chunks),
    }
