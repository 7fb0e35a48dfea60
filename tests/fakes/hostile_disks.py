"""Disks made to exhaust anyone who reads them: small files that name much. Each maker writes one file."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.block
import zstandard

from pipeline.systems.linux import direct_boot
from pipeline.vhd.footer import DiskType, Footer
from pipeline.vhd.sparse import Header
from tests.fakes import fake_disk

GIB = 1 << 30
CLUSTER = 1 << 16


def _qcow2(path: Path, size: int, table: bytes, data: bytes, l1_entries: int | None = None) -> None:
    """A version 3 qcow2 whose every L1 entry names one L2 table, at the fourth cluster; data from the fifth on."""
    count = -(-size // (CLUSTER * (CLUSTER // 8))) if l1_entries is None else l1_entries
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 0, 0, 16, size, 0, count, 8 * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104,
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(head)
        file.seek(CLUSTER)
        file.write(struct.pack(">Q", 2 * CLUSTER))
        file.seek(4 * CLUSTER)
        file.write(table)
        file.seek(5 * CLUSTER)
        file.write(data)
        file.seek(8 * CLUSTER)
        file.write(struct.pack(">Q", 4 * CLUSTER) * min(count, 1 << 16))
        file.truncate(max(8 * CLUSTER + 8 * count, 10 * CLUSTER))


def qcow2_checkerboard(path: Path) -> None:
    """256 GiB in four million pieces, from one table of 64 KiB that 512 entries share."""
    entries = [5 * CLUSTER if number % 2 == 0 else 0 for number in range(CLUSTER // 8)]
    _qcow2(path, 256 * GIB, struct.pack(f">{len(entries)}Q", *entries), bytes(CLUSTER))


def qcow2_shared_packed(path: Path) -> None:
    """64 GiB that are one packed cluster over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(b"x" * CLUSTER) + packer.flush()
    entry = 1 << 62 | 5 * CLUSTER
    _qcow2(path, 64 * GIB, struct.pack(">Q", entry) * (CLUSTER // 8), packed)


def qcow2_huge_l1(path: Path) -> None:
    _qcow2(path, 1 << 50, bytes(CLUSTER), bytes(CLUSTER), l1_entries=1 << 22)


def _vhd(path: Path, size: int, header: Header, table: bytes, blocks: Callable[[io.BufferedWriter], None]) -> None:
    foot = Footer.build(size, disk_type=DiskType.DYNAMIC, unique_id=uuid.UUID(int=1), timestamp=946684800).pack()
    with path.open("wb") as file:
        file.write(foot + header.pack())
        file.seek(header.table_offset)
        file.write(table)
        blocks(file)
        file.seek(0, 2)
        file.write(foot)


def vhd_checkerboard(path: Path) -> None:
    """8 GiB of every other sector: eight million pieces from 2 MiB of bitmaps."""
    count, block = 4096, 2 << 20
    first = 64 << 10
    places = [(first + number * (block + 512)) // 512 for number in range(count)]

    def bitmaps(file: io.BufferedWriter) -> None:
        for place in places:
            file.seek(place * 512)
            file.write(b"\xaa" * 512)
        file.truncate((places[-1] * 512) + 512 + block)

    header = Header(table_offset=1536, entries=count)
    _vhd(path, count * block, header, struct.pack(f">{count}I", *places), bitmaps)


def vhd_huge_table(path: Path) -> None:
    """Blocks of one sector: a table of four thousand million entries, in a hole."""
    size = 2040 * GIB
    entries = min(size // 512, (1 << 32) - 1)
    header = Header(table_offset=1536, entries=entries, block_size=512)
    _vhd(path, size, header, b"\xff" * 4096, lambda file: file.truncate(1536 + 4 * (size // 512)) and None)


def vhdx_huge(path: Path, size: str = "60T") -> None:
    """A VHDX of 60 TiB: its table alone has 16 million entries."""
    fake_disk.tool("qemu-img", "create", "-q", "-f", "vhdx", path, size)


def vmdk_huge(path: Path) -> None:
    fake_disk.tool("qemu-img", "create", "-q", "-f", "vmdk", path, "8T")
    with path.open("r+b") as file:
        file.seek(44)
        # entries of one grain table: qemu takes 512, the header may say anything
        file.write(struct.pack("<I", 0xFFFFFFFF))


def vmdk_shared_grains(path: Path) -> None:
    """Every grain table of 1 TiB is the first one."""
    fake_disk.tool("qemu-img", "create", "-q", "-f", "vmdk", path, "1T")
    with path.open("r+b") as file:
        head = file.read(80)
        (directory,) = struct.unpack_from("<Q", head, 56)
        file.seek(directory * 512)
        (table,) = struct.unpack("<I", file.read(4))
        file.seek(directory * 512)
        file.write(struct.pack("<I", table) * 32768)
        file.seek(0, 2)
        grain = -(-file.tell() // 512)
        file.seek(grain * 512)
        file.write(b"x" * CLUSTER)
        file.seek(table * 512)
        file.write(struct.pack("<II", grain, 0) * 256)


def _gpt(path: Path, entries: int, size: int) -> None:
    head = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        b"EFI PART", 0x10000, 92, 0, 0, 1, (64 << 20) // 512 - 1, 34, 100_000, bytes(16), 2, entries, size, 0,
    )  # fmt: skip
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(510)
        file.write(b"\x55\xaa")
        file.seek(446)
        file.write(struct.pack("<B3xB3xII", 0, 0xEE, 1, 0xFFFFFFFF))
        file.seek(512)
        file.write(head)


def gpt_many_entries(path: Path) -> None:
    _gpt(path, 0xFFFFFFFF, 128)


def gpt_huge_entries(path: Path) -> None:
    _gpt(path, 128, 0x80000000)


def mbr_loop(path: Path) -> None:
    """Logical partitions in a circle."""
    entry = struct.Struct("<B3xB3xII")
    with path.open("wb") as file:
        file.truncate(64 << 20)
        for at, entries in ((0, entry.pack(0, 5, 2048, 100_000)), (2048, entry.pack(0, 5, 0, 8) * 2)):
            file.seek(at * 512 + 446)
            file.write(entries.ljust(64, b"\0") + b"\x55\xaa")


def fat_huge(path: Path) -> None:
    """FAT32 whose table has 268 million entries, all in a hole."""
    boot = bytearray(512)
    boot[:11] = b"\xeb\x58\x90MSDOS5.0"
    struct.pack_into("<HBHBHHBH", boot, 11, 512, 8, 32, 2, 0, 0, 0xF8, 0)
    sectors = 0xFFFFFFFF
    struct.pack_into("<III", boot, 28, 0, sectors, (0x0FFFFFF0 * 4) // 512)
    struct.pack_into("<HHIHH", boot, 40, 0, 0, 2, 1, 6)
    boot[66], boot[82:90] = 0x29, b"FAT32   "
    boot[510:512] = b"\x55\xaa"
    with path.open("wb") as file:
        file.write(boot)
        file.truncate(sectors * 512)


def _ext4(path: Path, template: Path, *commands: str) -> Path:
    shutil.copy(template, path)
    fake_disk.debugfs(path, *commands)
    return path


def ext4_huge_link(path: Path, template: Path) -> None:
    """A symlink that says it has 2^62 bytes; /etc/os-release leads there."""
    _ext4(path, template, "symlink /etc/huge /x", "set_inode_field /etc/huge size 0x3fffffffffffffff",
          "rm /etc/os-release", "symlink /etc/os-release huge")  # fmt: skip
    fake_disk.debugfs(path, "set_inode_field /etc/localtime size 0x3fffffffffffffff",
                  "set_inode_field /etc/resolv.conf size 0x3fffffffffffffff")  # fmt: skip


def ext4_huge_files(path: Path, template: Path) -> None:
    """Files in holes of many TiB, where every reader looks."""
    _ext4(path, template, *(f"set_inode_field {name} size 0xfffffffff000" for name in (
        "/etc/passwd", "/etc/shadow", "/var/lib/dpkg/status", "/boot/grub/grub.cfg", "/etc/fstab", "/etc/machine-id",
        "/usr/lib/os-release",
    )))  # fmt: skip


def ext4_loops(path: Path, template: Path) -> None:
    """Folders in each other: /var/log/back is /var, /etc/self is /etc."""
    _ext4(path, template, "link /var /var/log/back", "link /etc /etc/self", "link / /home/top", "link /home /home/me")


def ext4_deep(path: Path, template: Path) -> None:
    """Four hundred folders in each other."""
    names = ["/home" + "/d" * depth for depth in range(1, 400)]
    _ext4(path, template, *(f"mkdir {name}" for name in names))


def ext4_blocks(path: Path, template: Path) -> None:
    """A superblock that counts 2^48 blocks of groups in a hole."""
    _ext4(path, template, "set_super_value blocks_count 0xffffffff", "set_super_value inodes_per_group 0x10000")


def ext4_noise(path: Path, template: Path) -> None:
    """Inode tables full of the same bytes: every file has four thousand million extents in no order."""
    shutil.copy(template, path)
    with path.open("r+b") as file:
        for at in range(fake_disk.ROOT_AT + (1 << 20), fake_disk.ROOT_AT + (3 << 20), 8192):
            file.seek(at)
            file.write(struct.pack("<HHHHI", 0xF30A, 340, 340, 5, 0) * 300)


def _initramfs(packed: bytes) -> Callable[[Path, Path], None]:
    def make(path: Path, template: Path) -> None:
        shutil.copy(template, path)
        fake_disk.put(path, f"/boot/initrd.img-{fake_disk.KERNEL}", packed, path.parent)

    return make


def _bomb(names: int = 1, size: int = 200 << 20) -> io.BytesIO:
    """A cpio of files of zeros that everybody would keep; written in pieces by the packer."""
    out = io.BytesIO()
    for number in range(names):
        name = f"usr/bin/big{number}".encode() + b"\0"
        fields = (number, 0o100644, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name), 0)
        out.write(b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name)
        out.write(bytes(-out.tell() % 4))
    return out


def _packed(pack: Callable[[bytes], bytes], finish: Callable[[], bytes], files: int, size: int) -> bytes:
    out, zeros = [], bytes(4 << 20)
    for _ in range(files):
        out.append(pack(_bomb(1, size).getvalue()))
        out += [pack(zeros) for _ in range(size // len(zeros))]
    out.append(finish())
    return b"".join(out)


def initramfs_gzip() -> Callable[[Path, Path], None]:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        _packed(lambda data: (file.write(data), b"")[1], lambda: b"", 5, 248 << 20)
    return _initramfs(buffer.getvalue())


def initramfs_zstd() -> Callable[[Path, Path], None]:
    packer = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    return _initramfs(_packed(packer.compress, packer.flush, 7, 252 << 20))


def initramfs_window() -> Callable[[Path, Path], None]:
    """A frame that asks for a window of 2 GiB."""
    return _initramfs(b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + b"\x03\x00\x00" + bytes(400))


def initramfs_xz() -> Callable[[Path, Path], None]:
    """A dictionary of 1.5 GiB for a few bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}]
    packed = bytearray(lzma.compress(bytes(1 << 20), check=lzma.CHECK_CRC32, filters=filters))
    # the block header: size, flags, filter 0x21, one byte of properties, the dictionary's; its CRC-32 follows
    at = 12
    length = (packed[at] + 1) * 4
    packed[at + 4] = 39
    packed[at + length - 4 : at + length] = struct.pack("<I", zlib.crc32(packed[at : at + length - 4]))
    return _initramfs(bytes(packed))


def initramfs_lz4() -> Callable[[Path, Path], None]:
    """Legacy blocks of 8 MiB of zeros."""
    block = lz4.block.compress(bytes(8 << 20), store_size=False)
    first = _bomb(1, 252 << 20).getvalue()
    head = lz4.block.compress(first + bytes((8 << 20) - len(first)), store_size=False)
    blocks = [struct.pack("<I", len(each)) + each for each in (head, block)]
    return _initramfs(b"\x02\x21\x4c\x18" + blocks[0] + blocks[1] * 250)


def initramfs_cpio() -> Callable[[Path, Path], None]:
    """No compression: one file that says it has 4 GiB, and half a million without a body."""
    return _initramfs(_bomb(1, 0xFFFFFFFC).getvalue() + _bomb(20_000, 0).getvalue())


def template(folder: Path) -> Path:
    """A small disk that can be booted directly: every question finds what it asks for."""
    disk = fake_disk.build(folder)
    link = direct_boot.NEEDED[3]
    for path in direct_boot.NEEDED:
        if path != link and path not in ("/usr/sbin/sshd", "/usr/lib/systemd/system/ssh.service"):
            fake_disk.put(disk, path, "x", folder)
    fake_disk.debugfs(disk, f"symlink {link} /lib/systemd/system/systemd-networkd.service")
    return disk


#: Makers of containers and tables, and of file systems on the template.
CONTAINERS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        qcow2_checkerboard, qcow2_shared_packed, qcow2_huge_l1, vhd_checkerboard, vhd_huge_table, vhdx_huge,
        vmdk_huge, vmdk_shared_grains, gpt_many_entries, gpt_huge_entries, mbr_loop, fat_huge,
    )
}  # fmt: skip
FILE_SYSTEMS: dict[str, Callable[[Path, Path], None]] = {
    each.__name__: each for each in (ext4_huge_link, ext4_huge_files, ext4_loops, ext4_deep, ext4_blocks, ext4_noise)
}
INITRAMFS: dict[str, Callable[[], Callable[[Path, Path], None]]] = {
    each.__name__: each
    for each in (initramfs_gzip, initramfs_zstd, initramfs_window, initramfs_xz, initramfs_lz4, initramfs_cpio)
}
