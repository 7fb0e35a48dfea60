"""Damaged inputs of every kind that goldsmith reads, tried in forked processes with limits.

They are drawn from a seed alone. Hypothesis draws from the constants of all imported modules too, so that in a whole
run of the tests hardly an edit hit anything.

`try_kind` is what the unit tests (2,000 inputs) and the campaign (100,000) share.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
import sqlite3
import struct
import time
import traceback
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.errors import DiskError
from pipeline.disk import disk_formats, initramfs, qcow2, vhdx, vmdk, volumes
from pipeline.disk.disk import Disk
from pipeline.disk.packages import parse_header
from pipeline.disk.registry import Hive
from pipeline.disk.rpm_database import read_berkeley, read_ndb, read_sqlite
from pipeline.vhd.chain import overlay, vhd_extents
from pipeline.vhd.extents import Extent, ExtentSource, Reader, file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import EPOCH, MIB, Footer, checksum, fixed_faults
from pipeline.vhd.write import write_differencing, write_dynamic
from tests.fakes import fake_disk, fake_hive, rpm_database

#: Inputs of one forked process, seconds that one input may take, bytes that a process may take.
BATCH, SECONDS, MEMORY = 250, 20, 200 << 20

Look = Callable[[int, bytes, Path], None]
_EDGES = (b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\0\0\0\1\0\0\0\1", b"\1\0\0\0\1\0\0\0", b"\x80" + bytes(7))
#: The edits that a mutation is made of, with the largest value of each, None for a place in the data.
_KINDS = {"flip": 7, "edge": len(_EDGES) - 1, "byte": 255, "word": (1 << 32) - 1, "copy": None}
_LAST_PLACE = (1 << 24) - 1


@dataclass
class Kind:
    """`seeds` are good inputs; `seal` makes the checksums of a damaged one right again, for half of them."""

    seeds: list[bytes]
    look: Look
    seal: Callable[[int, bytes], bytes] = lambda _, data: data
    #: For inputs that are parts of a whole disk: that disk, and where each part lies on it.
    disk: Path | None = None
    places: tuple[int, ...] = ()


@dataclass
class Tally:
    """What came of the inputs of a kind. `failures`: hangs, tracebacks, too much memory.

    `crashes`: inputs that a C reader crashes on, or does not come to an end with; its child process must name them.
    """

    tried: int = 0
    accepted: int = 0
    slowest: float = 0.0
    memory: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    crashes: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def mutated(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, place, value in edits:
        at = place % len(out)
        if kind == "flip":
            out[at] ^= 1 << value
        elif kind == "edge":
            out[at : at + 8] = _EDGES[value]
        elif kind == "byte":
            out[at] = value
        elif kind == "word":
            out[at : at + 4] = struct.pack("<I" if place & 1 else ">I", value)
        else:
            there, size = value % len(out), place // len(out) % 61 + 4
            out[at : at + size] = out[there : there + size]
    return bytes(out[: len(data)].ljust(len(data), b"\0"))


def try_kind(kind: Kind, count: int, folder: Path, *, first_seed: int = 0) -> Tally:
    """Try `count` damaged inputs, in batches of forked processes. Inputs that failed are left in `folder`."""
    tally = Tally()
    number = first_seed
    while tally.tried < count:
        _batch(kind, min(BATCH, count - tally.tried), number, folder, tally)
        number += 1
    return tally


def _batch(kind: Kind, count: int, number: int, folder: Path, tally: Tally) -> None:
    last, report = folder / "last", folder / "report"
    for path in (last, report):
        path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _run(kind, count, number, folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    tally.memory = max(tally.memory, used.ru_maxrss >> 10)
    tried = 0
    for line in report.read_text().splitlines() if report.exists() else []:
        name, seconds = line.rsplit(" ", 1)
        tried += 1
        tally.slowest = max(tally.slowest, float(seconds))
        if name == "ok":
            tally.accepted += 1
        elif name.startswith("!"):
            tally.failures.append(name[1:])
        else:
            tally.errors[name] = tally.errors.get(name, 0) + 1
    if code < 0:
        tried += 1
        kept = folder / f"crash-{number}"
        last.rename(kept)
        if -code == signal.SIGALRM and kind.disk is None:
            tally.failures.append(f"more than {SECONDS} s: {kept}")
        else:
            tally.crashes.append(kept)
    elif code:
        tally.failures.append(f"batch {number} ended with {code}")
        tried = count
    if tally.memory << 10 > MEMORY:
        tally.failures.append(f"batch {number} took {tally.memory} MiB")
    # a crash ends its batch early: the next one, with another seed, goes on
    tally.tried += max(tried, 1)


def _run(kind: Kind, count: int, number: int, folder: Path) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    last = os.open(folder / "last", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with (folder / "report").open("w", buffering=1) as report:
        dice = random.Random(number)
        for _ in range(count):
            index, sealed, edits = dice.randrange(len(kind.seeds)), dice.random() < 0.5, draw_edits(dice)
            data = mutated(kind.seeds[index], edits)
            if sealed:
                data = kind.seal(index, data)
            os.ftruncate(last, 0)
            os.pwrite(last, pickle.dumps((index, data)), 0)
            signal.alarm(SECONDS)
            began = time.monotonic()
            result = _output(kind, index, data, scratch, folder)
            signal.alarm(0)
            report.write(f"{result} {time.monotonic() - began:.4f}\n")


def draw_edits(dice: random.Random) -> list[tuple[str, int, int]]:
    """1 to 12 edits: (kind, place, value)."""
    found = []
    for _ in range(dice.choice((1, 1, 2, 3, 6, 12))):
        kind = dice.choice(list(_KINDS))
        largest = _KINDS[kind]
        value = dice.randint(0, _LAST_PLACE if largest is None else largest)
        # formats keep their numbers at the front: half of the edits go there
        place = dice.randint(0, dice.choice((63, 511, _LAST_PLACE, _LAST_PLACE)))
        found.append((kind, place, value))
    return found


def _output(kind: Kind, index: int, data: bytes, scratch: Path, folder: Path) -> str:
    try:
        kind.look(index, data, scratch)
    except DiskError as error:
        assert error.name and error.message
        return error.name
    except BaseException as error:
        kept = folder / f"failure-{zlib.crc32(data):08x}"
        kept.write_bytes(pickle.dumps((index, data)) + b"\n" + traceback.format_exc().encode())
        return f"!{type(error).__name__} in {kept.name}"
    return "ok"


# --- the kinds ----------------------------------------------------------------------------------------------------


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind, its good inputs built in `folder`."""
    disk = fake_disk.build(folder)
    return {
        "fixed VHD: footer": _fixed(folder),
        "dynamic VHD: footers, header, table, bitmaps": _dynamic(folder),
        "differencing VHD: header, locators, parent": _differencing(folder),
        "GPT and MBR": _tables(disk),
        "ext4: superblock, groups, inodes": _ext4(disk),
        "FAT: boot sector, tables, directories": _fat(disk),
        "marks of volumes": _volumes(),
        "registry hive": _hive(),
        "qcow2, VMDK and VHDX headers": _foreign(),
        "initramfs": _initramfs(),
        "rpm database": _rpm(folder),
    }


ID = uuid.UUID(int=1)


def _raw(folder: Path) -> Path:
    path = folder / "small.raw"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        for at in (0, 3 * MIB, 5 * MIB + 512):
            file.seek(at)
            file.write(b"x" * 5000)
    return path


def _sealed_footer(data: bytes) -> bytes:
    return data[:64] + struct.pack(">I", checksum(data)) + data[68:]


def _whole(path: Path) -> None:
    """What the CLI does with a VHD: judge it, find its data, read some of it; never outside the file."""
    disk_formats.detect(path)
    sizes: dict[Path, int] = {}
    with vhd_extents(path, check_time=False) as source:
        for each in source.extents:
            size = sizes.setdefault(each.path, each.path.stat().st_size)
            assert each.offset >= 0 and each.offset + each.length <= size
        reader = Reader(source)
        for at in (0, 3 * MIB, max(0, source.size - 512)):
            assert len(reader.read(at, 512)) <= 512
        reader.close()


def _fixed(folder: Path) -> Kind:
    path = folder / "fixed.vhd"
    write_fixed(file_extents(_raw(folder)), path, unique_id=ID, timestamp=EPOCH)
    whole = path.read_bytes()[-MIB - 512 :]

    def look(_: int, data: bytes, scratch: Path) -> None:
        here = scratch / "disk.vhd"
        here.write_bytes(whole[:4096] + data)
        footer = Footer.parse(data)
        fixed_faults(footer, len(whole))
        assert footer.created and footer.pack()
        _whole(here)

    return Kind([whole[-512:]], look, lambda _, data: _sealed_footer(data))


def _sparse(whole: bytes, head: int) -> Kind:
    def look(index: int, data: bytes, scratch: Path) -> None:
        here = scratch / "child.vhd"
        here.write_bytes(data + whole[head:] if index == 0 else whole[:-512] + data)
        _whole(here)

    def seal(index: int, data: bytes) -> bytes:
        if index == 1:
            return _sealed_footer(data)
        header = data[512:1536]
        header = header[:36] + struct.pack(">I", checksum(header, 36)) + header[40:]
        return _sealed_footer(data[:512]) + header + data[1536:]

    return Kind([whole[:head], whole[-512:]], look, seal)


def _dynamic(folder: Path) -> Kind:
    path = folder / "dynamic.vhd"
    write_dynamic(file_extents(_raw(folder)), path, unique_id=ID, timestamp=EPOCH)
    return _sparse(path.read_bytes(), 8192)


def _differencing(folder: Path) -> Kind:
    parent, path = folder / "parent.vhd", folder / "good.vhd"
    raw = file_extents(_raw(folder))
    write_fixed(raw, parent, unique_id=ID, timestamp=EPOCH)
    changed = ExtentSource(raw.size, raw.extents[1:])
    write_differencing(changed, raw, parent, path, unique_id=uuid.UUID(int=2), timestamp=EPOCH)
    kind = _sparse(path.read_bytes(), 4096)
    inner = kind.look

    def look(index: int, data: bytes, scratch: Path) -> None:
        beside = scratch / "parent.vhd"
        if not beside.exists():
            beside.hardlink_to(parent)
        inner(index, data, scratch)

    return Kind(kind.seeds, look, kind.seal)


def _patched(
    disk: Path, places: list[tuple[int, int]], use: Callable[[Disk], None], seal: Callable[[int, bytes], bytes]
) -> Kind:
    base, whole = file_extents(disk), disk.read_bytes()

    def look(index: int, data: bytes, scratch: Path) -> None:
        patch = scratch / "patch"
        patch.write_bytes(data)
        extents = overlay(list(base.extents), [Extent(places[index][0], len(data), patch, 0)])
        with Disk(disk, "raw", ExtentSource(base.size, tuple(extents)), file_size=base.size, tail=b"") as opened:
            use(opened)

    seeds = [whole[at : at + length] for at, length in places]
    return Kind(seeds, look, seal, disk, tuple(at for at, _ in places))


def _unsealed(_: int, data: bytes) -> bytes:
    return data


def _tables(disk: Path) -> Kind:
    def use(opened: Disk) -> None:
        for volume in opened.filesystems:
            assert 0 <= volume.start <= volume.start + volume.size <= opened.size or opened.table.kind == "mbr"
        for header in (opened.table.primary, opened.table.backup):
            if header is not None and header.fault:
                raise DiskError(header.fault, name="gpt-fault-told")

    end = fake_disk.SIZE - 512
    places = [(0, 512), (512, 512), (0, 1024 + 16384), (end, 512), (end - 16384, 16896)]

    def seal(index: int, data: bytes) -> bytes:
        header, entries = {0: (None, None), 1: (0, None), 2: (512, 1024), 3: (0, None), 4: (16384, 0)}[index]
        if header is None:
            return data
        head = bytearray(data[header : header + 512])
        if entries is not None:
            head[88:92] = struct.pack("<I", zlib.crc32(data[entries : entries + 16384]))
        head[16:20] = bytes(4)
        head[16:20] = struct.pack("<I", zlib.crc32(bytes(head[:92])))
        return data[:header] + bytes(head) + data[header + 512 :]

    return _patched(disk, places, use, seal)


def _ext4(disk: Path) -> Kind:
    def use(opened: Disk) -> None:
        root = opened.root
        root.text("/etc/passwd")
        root.listdir("/usr/lib/systemd/system")
        sum(1 for _ in root.walk("/etc", limit=10_000))

    at = fake_disk.ROOT_AT
    places = [(at + 1024, 1024), (at + 1024, 3072), (at + 2048, 2048), (at + 4096, 262144)]
    return _patched(disk, places, use, _unsealed)


def _fat(disk: Path) -> Kind:
    def use(opened: Disk) -> None:
        for volume in opened.filesystems:
            if volume.kind == "vfat":
                found = opened.filesystem(volume)
                for entry in found.entries(found.root).values():
                    if entry.type == "dir":
                        found.entries(entry.inode)
                    else:
                        found.read(entry.inode, 0, 4096)

    at = fake_disk.ESP_AT
    # the first chains and the root folder stand for themselves too: most edits of a larger part hit what nobody reads
    table, root = at + 2048, at + 2048 + 36864
    places = [(at, 512), (at, 4096), (table, 65536), (table, 16), (root, 96)]
    return _patched(disk, places, use, _unsealed)


def _volumes() -> Kind:
    """What is only named: its label and UUID are found by following numbers on the disk."""

    def seed(size: int, *parts: tuple[int, bytes]) -> bytes:
        data = bytearray(size)
        for at, piece in parts:
            data[at : at + len(piece)] = piece
        return bytes(data)

    record = bytearray(1024)
    struct.pack_into("<4sHH12xH", record, 0, b"FILE", 48, 3, 56)
    struct.pack_into("<IIB7xIH", record, 56, 0x60, 32, 0, 6, 24)
    record[80:86] = "Vol".encode("utf-16-le")
    descriptor = bytearray(512)
    descriptor[:2], descriptor[84:88], descriptor[211] = b"\6\0", b"\x08abc", 4
    seeds = [
        seed(8192, (3, b"NTFS    "), (11, b"\0\2\1"), (48, b"\2"), (64, b"\xf6"), (1024 + 3072, bytes(record))),
        seed(8192, (3, b"EXFAT   "), (88, b"\4"), (96, b"\2"), (108, b"\x09\1"), (2048, b"\x83\3a\0b\0c\0")),
        seed(70000, (32769, b"CD001"), (32808, b"LABEL"), (32768 + 813, b"2026010203040506")),
        seed(600_000, (32769, b"BEA01"), (34817, b"NSR02"), (524288, b"\2\0"), (524304, b"\0\x10\0\0\1\1\0\0"),
             (526336, bytes(descriptor))),
        seed(4096, (512, b"LABELONE"), (532, b"\x20"), (536, b"LVM2 001" + b"a" * 32)),
        seed(8192, (1024, b"\1\0\0\0"), (1036, b"u" * 16 + b"label"), (4086, b"SWAPSPACE2")),
        seed(131072, (65536, b"\xfc\x4e\x2b\xa9" + struct.pack("<II", 0, 90))),
        seed(4096, (0, b"LUKS\xba\xbe\0\2"), (24, b"label"), (168, b"f" * 36)),
    ]  # fmt: skip

    def look(_: int, data: bytes, __: Path) -> None:
        def read(at: int, length: int) -> bytes:
            assert at >= 0 and length >= 0
            return data[at : at + length]

        found = volumes.probe(read, 1, 0, len(data))
        if not found.readable:
            raise DiskError(f"{found.kind or 'nothing'} {found.label} {found.uuid}", name="fs-unsupported")

    return Kind(seeds, look)


def _hive() -> Kind:
    tree = {
        "Setup": {"SetupType": 2, "CmdLine": "oobe\\windeploy.exe", "Many": ["a", "b"], "": b"12345678"},
        "Select": {"Current": 1},
        "ControlSet001": {"Services": {f"service{number}": {"Start": 3, "Path": "x" * 40} for number in range(60)}},
    }

    def look(_: int, data: bytes, scratch: Path) -> None:
        hive = Hive(data)
        for _ in hive.walk():
            pass
        for path in ("", "Setup", "Select", "ControlSet001\\Services"):
            for key in hive.keys(path) or ():
                hive.values(f"{path}\\{key}")
            hive.values(path)

    def seal(_: int, data: bytes) -> bytes:
        return fake_hive.seal(data[:4] + data[4:8] + data[4:8] + data[12:])

    return Kind([fake_hive.build(tree)], look, seal)


def _foreign() -> Kind:
    seeds = [
        b"QFI\xfb\0\0\0\3" + bytes(12) + b"\0\0\0\x10" + bytes(76) + b"\0\0\0\x68" + bytes(400),
        b"KDMV\1\0\0\0\3\0\0\0\0\x40" + bytes(14) + b"\1" + bytes(7) + b"\x14" + bytes(471)
        + b'# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\nRW 16384 SPARSE "disk.vmdk"\n' * 20,
        b"vhdxfile".ljust(192 << 10, b"\0") + b"regi" + bytes(60) + b"metadata" + bytes(400),
    ]  # fmt: skip

    def look(index: int, data: bytes, _: Path) -> None:
        path = Path("disk")

        def read(at: int, length: int) -> bytes:
            return data[at : at + length]

        if index == 0:
            qcow2.judge(read, path)
        elif index == 1:
            vmdk.refuse_foreign(read, len(data), path)
        else:
            vhdx.refuse_parent(read, path)

    return Kind(seeds, look)


def _initramfs() -> Kind:
    packs = [fake_disk.initramfs(pack=pack) for pack in ("gzip", "xz", "zstd", "lz4", "none")]
    return Kind(packs, lambda _, data, __: void(initramfs.read_initramfs(data)))


def _rpm(folder: Path) -> Kind:
    path = folder / "rpmdb.sqlite"
    blob = struct.pack(">IIIIII", 1, 5, 1000, 6, 0, 1) + b"bash\0"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    base.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,)] * 40)
    base.commit()
    base.close()
    seeds = [path.read_bytes(), rpm_database.sample("el8-libuuid.Packages.xz")]
    # the slots of ndb and its first header, without the other 34
    ndb = bytearray(rpm_database.sample("sles15-bci.Packages.db.xz")[:65536])
    for at in range(48, 4096, 16):
        ndb[at + 4 : at + 16] = bytes(12)
    readers = (read_sqlite, read_berkeley, read_ndb)

    def look(index: int, data: bytes, _: Path) -> None:
        for header in readers[index](data):
            parse_header(header)

    return Kind([*seeds, bytes(ndb)], look)


def void(_: object) -> None:
    return None
