"""What an initramfs holds: uncompressed early archives (microcode), then a main one, compressed or not."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import lz4.block
import lz4.frame
import zstandard

from pipeline.base.errors import DiskError

#: The kernel's own limit is memory; ours keeps a bomb from filling it. Unpacked bytes, names.
MAX_UNPACKED, MAX_NAMES = 2 << 30, 500_000
#: What goldsmith reads of an image file: a Debian initramfs with all modules has about 40 MiB.
IMAGE_LIMIT = 256 << 20
_NEWC = (b"070701", b"070702")
_HEADER = 110
#: The legacy frame that `lz4 -l` writes for the kernel: 4-byte magic, then (length, block) of at most 8 MiB each.
_LZ4_LEGACY, _LZ4_BLOCK = b"\x02\x21\x4c\x18", 8 << 20


@dataclass(frozen=True)
class Initramfs:
    """`names` without a leading slash, in the order of the archives; `compression` is the main archive's."""

    names: tuple[str, ...]
    compression: str

    def modules(self) -> frozenset[str]:
        """Kernel modules by name, with underscores (hid-hyperv.ko.xz is hid_hyperv)."""
        found = set()
        for name in self.names:
            base = name.rsplit("/", 1)[-1]
            if ".ko" in base:
                found.add(base.split(".ko", 1)[0].replace("-", "_"))
        return frozenset(found)


def read_initramfs(data: bytes) -> Initramfs:
    """Raises DiskError: initramfs-damaged, initramfs-too-large, initramfs-compression."""
    names: list[str] = []
    compression = "none"
    for kind, entry in _entries(data, bodies=False):
        names.append(entry.name)
        compression = kind
    return Initramfs(tuple(names), compression)


def reduced(data: bytes, keep: Callable[[str], bool], programs: Mapping[str, str]) -> bytes:
    """The same initramfs with only the names that `keep` keeps, and `programs` (name to text) on top; uncompressed.

    Raises as `read_initramfs`.
    """
    parts = [entry.raw for _, entry in _entries(data, bodies=True) if keep(entry.name)]
    parts += [_file(name, text.encode()) for name, text in programs.items()]
    return b"".join([*parts, _member("TRAILER!!!", 0, b"")])


def _file(name: str, body: bytes) -> bytes:
    return _member(name, 0o100755, body)


def _member(name: str, mode: int, body: bytes) -> bytes:
    """One member of a newc archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = [0, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name) + 1, 0]
    head = "070701" + "".join(f"{field:08X}" for field in fields) + name + "\0"
    return _padded(head.encode()) + _padded(body)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


@dataclass(frozen=True)
class _Entry:
    """A member of an archive; `raw` is all of it, padding included, where it was asked for."""

    name: str
    raw: bytes


def _entries(data: bytes, *, bodies: bool) -> Iterator[tuple[str, _Entry]]:
    """Every member of every archive, with the main archive's compression (none before it)."""
    view = memoryview(data)
    count = 0
    try:
        while (at := _skip_zeros(view)) < len(view):
            view = view[at:]
            if bytes(view[:6]) in _NEWC:
                stream = io.BytesIO(view)
                for entry in _members(stream, bodies=bodies):
                    count = _counted(count)
                    yield "none", entry
                view = view[stream.tell() :]
                continue
            compression, unpacked = _unpack(view)
            with unpacked:
                buffered = io.BufferedReader(_Limited(unpacked), 1 << 20)
                # a cut frame gives no bytes and no error; _members says so
                for entry in _members(buffered, bodies=bodies):
                    count = _counted(count)
                    yield compression, entry
            return
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
        zstandard.ZstdError,
        lz4.block.LZ4BlockError,
        RuntimeError,
    ):
        # what the unpackers say is their own jargon
        raise DiskError(
            "the initramfs cannot be read: its archive or its compressed data are damaged or cut off",
            name="initramfs-damaged",
            hint="rebuild it inside the system: update-initramfs -u (Debian), dracut --force (Fedora, SUSE)",
        ) from None


def _counted(count: int) -> int:
    if count >= MAX_NAMES:
        raise DiskError(f"the initramfs has more than {MAX_NAMES} names", name="initramfs-too-large")
    return count + 1


def _skip_zeros(view: memoryview) -> int:
    """How many padding bytes the view begins with; archives are padded to 512 bytes, so the run is short or all."""
    at = 0
    while at < len(view):
        chunk = bytes(view[at : at + 65536])
        rest = chunk.lstrip(b"\0")
        if rest:
            return at + len(chunk) - len(rest)
        at += len(chunk)
    return at


def _unpack(view: memoryview) -> tuple[str, IO[bytes]]:
    magic = bytes(view[:6])
    source = io.BytesIO(view)
    if magic.startswith(b"\x1f\x8b"):
        return "gzip", gzip.GzipFile(fileobj=source)  # type: ignore[return-value]
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd", zstandard.ZstdDecompressor(max_window_size=1 << 28).stream_reader(
            source, read_across_frames=True
        )
    if magic.startswith(b"\xfd7zXZ\0") or magic.startswith(b"\x5d\0\0"):
        return "xz", lzma.LZMAFile(source)
    if magic.startswith(_LZ4_LEGACY):
        return "lz4", io.BufferedReader(_Chunks(_lz4_legacy(view)), 1 << 20)
    if magic.startswith(b"\x04\x22\x4d\x18"):
        return "lz4", lz4.frame.LZ4FrameFile(source)
    raise DiskError(
        f"the initramfs begins with {magic.hex()}, which is not a known compression format",
        name="initramfs-compression",
    )


def _lz4_legacy(view: memoryview) -> Iterator[bytes]:
    at = 4
    while at + 4 <= len(view):
        (length,) = struct.unpack_from("<I", view, at)
        if length == struct.unpack("<I", _LZ4_LEGACY)[0]:
            at += 4
            continue
        if not 0 < length <= len(view) - at - 4:
            return
        yield lz4.block.decompress(bytes(view[at + 4 : at + 4 + length]), uncompressed_size=_LZ4_BLOCK)
        at += 4 + length


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        step = min(len(buffer), len(self._rest))
        buffer[:step] = self._rest[:step]
        self._rest = self._rest[step:]
        return step


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than MAX_UNPACKED bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._given = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._given += length
        if self._given > MAX_UNPACKED:
            raise DiskError(f"the initramfs has more than {MAX_UNPACKED >> 20} MiB", name="initramfs-too-large")
        return length


def _members(stream: IO[bytes], *, bodies: bool) -> Iterator[_Entry]:
    """The members of one newc archive; the stream stands behind its trailer afterwards."""
    at = 0
    while True:
        header = stream.read(_HEADER)
        if len(header) < _HEADER or header[:6] not in _NEWC:
            raise DiskError("the initramfs ends inside an archive", name="initramfs-damaged")
        size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        if not 0 < name_size <= 4096:
            raise DiskError(f"the initramfs has a name of {name_size} bytes", name="initramfs-damaged")
        written = stream.read(name_size)
        name = written.rstrip(b"\0")
        at += _HEADER + name_size
        at += _skip(stream, -at % 4)
        if name == b"TRAILER!!!":
            return
        body = _exactly(stream, size) if bodies else b""
        at += size if bodies else _skip(stream, size)
        at += _skip(stream, -at % 4)
        raw = _padded(header + written) + _padded(body) if bodies else b""
        yield _Entry(name.decode("utf-8", "replace").removeprefix("./").lstrip("/"), raw)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    if length > IMAGE_LIMIT:
        raise DiskError(f"the initramfs has a file of {length} bytes", name="initramfs-too-large")
    data = stream.read(length)
    if len(data) < length:
        raise DiskError("the initramfs ends inside a file", name="initramfs-damaged")
    return data


def _skip(stream: IO[bytes], length: int) -> int:
    left = length
    while left:
        step = len(stream.read(min(left, 1 << 20)))
        if not step:
            raise DiskError("the initramfs ends inside a file", name="initramfs-damaged")
        left -= step
    return length
