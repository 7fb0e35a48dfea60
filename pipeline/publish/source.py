"""A version of the gallery as it is published: its disks with the digests of their blocks, and its other files."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import scratch
from pipeline.base.errors import CheckFailed, HostError
from pipeline.base.files import regular_files
from pipeline.cache.digests import BLOCK, FLAT_LIMIT, blocks_size, write_block_digests
from pipeline.gallery import Version, digests_file, disks_of
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish.ranges import BlockDigests, Range
from pipeline.vhd.extents import data_ranges, open_file

_DAMAGED = "goldsmith gallery verify shows the damage; restore the version, or publish another one"


class SourceDisk:
    """One disk of a version. What is read of it is compared with its blocks' digests before it is sent."""

    def __init__(self, path: Path, tree: str, digests: BlockDigests, lun: int | None) -> None:
        self.path = path
        self.file = path.name
        self.size = digests.size
        self.tree = tree
        self.digests = digests
        self.lun = lun
        self._fd = open_file(path)

    def read(self, page: Range) -> bytes:
        """The bytes of a page. Raises CheckFailed (master-damaged), HostError (disk-unreadable)."""
        # a digest is of a whole block; a page may begin or end inside one
        begin = page.start // BLOCK * BLOCK
        end = min(-(-page.end // BLOCK) * BLOCK, self.size)
        try:
            data = _read(self._fd, begin, end - begin)
        except OSError as error:
            raise HostError(
                f"cannot read {self.path}: {error.strerror}",
                name="disk-unreadable",
                hint="check the host's disk with dmesg",
            ) from None
        if wrong := unequal(data, begin, self.digests):
            raise CheckFailed(
                f"{self.path} has changed since it was captured: the block at byte {wrong[0] * BLOCK}",
                name="master-damaged",
                hint=_DAMAGED,
            )
        return data if (begin, end) == (page.start, page.end) else data[page.start - begin : page.end - begin]

    def close(self) -> None:
        os.close(self._fd)
        self.digests.close()


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise OSError(5, "the file became shorter while it was read")
        data += more
    return data


def unequal(data: bytes, start: int, digests: BlockDigests) -> list[int]:
    """The numbers of the blocks in `data`, which begins at the block boundary `start`, that have other digests."""
    view, found = memoryview(data), []
    for at in range(0, len(data), BLOCK):
        piece, number = view[at : at + BLOCK], (start + at) // BLOCK
        expected = digests.of(number)
        same = not any(piece) if not any(expected) else hashlib.sha256(piece).digest() == expected
        if not same:
            found.append(number)
    return found


@contextmanager
def opened(version: Version, temporary: Path) -> Iterator[list[SourceDisk]]:
    """The disks of a version, the OS disk first. Raises CheckFailed (master-damaged)."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch.folder(temporary, "publish"))
        disks = []
        for file, record in disks_of(version.manifest).items():
            path = version.path / file
            if not path.is_file() or path.stat().st_size != record["size"]:
                raise CheckFailed(
                    f"{path} is missing or has another size", name="master-damaged", hint=_DAMAGED, evidence=path
                )
            digests = _digests_of(version, file, folder)
            lun = record.get("lun")
            disk = SourceDisk(path, tree_of_disk(record), BlockDigests(digests, int(record["size"])), lun)
            stack.callback(disk.close)
            disks.append(disk)
        yield disks


def _digests_of(version: Version, file: str, folder: Path) -> Path:
    """The file with the digests of a disk's blocks; versions of older goldsmiths have none, so it is made."""
    record = disks_of(version.manifest)[file]
    beside = version.path / digests_file(file)
    if record.get("digests"):
        if beside.is_file() and beside.stat().st_size == blocks_size(int(record["size"])):
            return beside
        raise CheckFailed(f"{beside} is missing or has another size", name="master-damaged", hint=_DAMAGED)
    made = folder / digests_file(file)
    if write_block_digests(version.path / file, made).tree != tree_of_disk(record):
        raise CheckFailed(
            f"{version.path / file} has changed since it was captured", name="master-damaged", hint=_DAMAGED
        )
    return made


def other_files(version: Version) -> list[str]:
    """The names of a version's files without disks and digests of blocks, as `gallery export` copies them."""
    disks = disks_of(version.manifest)
    digests = {digests_file(file) for file in disks}
    return [name for name in regular_files(version.path)[0] if name not in disks and name not in digests]


@dataclass
class Md5:
    """The MD5 of a disk's whole file, as a blob carries it, taken while the disk is sent. None for a large disk."""

    path: Path
    size: int

    def __post_init__(self) -> None:
        self._found: bytes | None = None
        self._failure: OSError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._take, daemon=True)
        if self.size <= FLAT_LIMIT:
            self._thread.start()

    def _take(self) -> None:
        try:
            self._found = self._digest()
        except OSError as error:  # raised by `result`, in its caller's thread
            self._failure = error

    def _digest(self) -> bytes | None:
        digest, zeros, at = hashlib.md5(usedforsecurity=False), bytes(1 << 20), 0
        with self.path.open("rb") as file:
            ranges = [*data_ranges(file.fileno(), 0, self.size), (self.size, self.size)]
            for begin, end in ranges:
                while at < begin and not self._stopped.is_set():
                    step = min(len(zeros), begin - at)
                    digest.update(memoryview(zeros)[:step])
                    at += step
                while at < end and not self._stopped.is_set():
                    data = os.pread(file.fileno(), min(1 << 20, end - at), at)
                    if not data:
                        return None
                    digest.update(data)
                    at += len(data)
        return None if self._stopped.is_set() else digest.digest()

    def result(self) -> bytes | None:
        """The digest, once the whole file has been read. Raises OSError where it cannot be read."""
        if self.size <= FLAT_LIMIT:
            self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._found

    def stop(self) -> None:
        self._stopped.set()
        if self.size <= FLAT_LIMIT:
            self._thread.join()
