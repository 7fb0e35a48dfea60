"""Compressed data inside other data: how it begins, and its bytes in pieces, so that no bomb fills memory."""

from __future__ import annotations

import bz2
import lzma
import struct
from collections.abc import Iterator

import zstandard
from isal import isal_zlib

#: Bytes of a piece, and of memory that xz and zstandard may ask for. `xz -9` needs 65 MiB.
PIECE, MEMORY = 1 << 20, 72 << 20
#: How liblzma and zstandard name it when that is too little.
_TOO_LITTLE = ("Memory usage limit", "too much memory")

#: What compressed data begins with (in Hyperscan's syntax, with DOTALL), the length of that, and its name.
MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (rb"\x1f\x8b\x08[\x00-\x1f]", 4, "gzip"),
    (rb"\xfd7zXZ\x00", 6, "xz"),
    (rb"BZh[1-9]1AY&SY", 10, "bzip2"),
    (rb"\x28\xb5\x2f\xfd", 4, "zstd"),
    (rb"PK\x03\x04..[\x00-\x0f][\x00-\x0f]\x08\x00", 10, "zip"),
    (rb"\x78[\x01\x5e\x9c\xda]", 2, "zlib"),
)
#: Loose objects of git are the only files that are zlib and nothing else; they begin so.
_GIT = (b"blob ", b"commit ", b"tree ", b"tag ")


_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    isal_zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    struct.error,
)


class Broken(Exception):
    """The data ends early, has another format or, with `too_large`, needs more than MEMORY.

    `begun`: something was unpacked before.
    """

    def __init__(self, begun: bool, too_large: bool = False) -> None:
        super().__init__("broken")
        self.begun = begun
        self.too_large = too_large


def unpack(kind: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of one compressed stream, each of at most PIECE bytes. Raises Broken."""
    begun = False
    try:
        for piece in _STREAMS[kind](chunks):
            if piece:
                begun = True
                yield piece
    # the stubs of isal take the class of its errors for an instance
    except _ERRORS as error:  # type: ignore[misc]
        raise Broken(begun, any(words in str(error) for words in _TOO_LITTLE)) from None


def _inflate(chunks: Iterator[bytes], bits: int) -> Iterator[bytes]:
    reader = isal_zlib.decompressobj(bits)
    for chunk in chunks:
        data = chunk
        while data and not reader.eof:
            yield reader.decompress(data, PIECE)
            data = reader.unconsumed_tail
        if reader.eof:
            return
    raise EOFError


def _gzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _inflate(chunks, 31)


def _zlib(chunks: Iterator[bytes]) -> Iterator[bytes]:
    pieces = _inflate(chunks, 15)
    first = next(pieces, b"")
    if not first.startswith(_GIT):
        raise ValueError
    yield first
    yield from pieces


def _zip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """One deflated member; its local header is APPNOTE's 4.3.7."""
    head = next(chunks, b"")
    flags, name, extra = struct.unpack_from("<6xH18xHH", head)
    if flags & 1:
        raise ValueError

    def rest() -> Iterator[bytes]:
        yield head[30 + name + extra :]
        yield from chunks

    return _inflate(rest(), -15)


def _bounded(reader: bz2.BZ2Decompressor | lzma.LZMADecompressor, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield reader.decompress(chunk, PIECE)
        while not reader.eof and not reader.needs_input:
            yield reader.decompress(b"", PIECE)
        if reader.eof:
            return
    raise EOFError


def _xz(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY), chunks)


def _bzip2(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _bounded(bz2.BZ2Decompressor(), chunks)


class _Chunks:
    """Chunks as the file that zstandard wants to read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1) -> bytes:
        """One chunk, whatever the size: zstandard takes less."""
        del size
        return next(self._chunks, b"")


def _zstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MEMORY)
    with decompressor.stream_reader(_Chunks(chunks), read_across_frames=False) as reader:  # type: ignore[arg-type]
        begun = False
        while piece := _read_zstd(reader, begun):
            begun = True
            yield piece


def _read_zstd(reader: zstandard.ZstdDecompressionReader, begun: bool) -> bytes:
    try:
        return reader.read(PIECE)
    except zstandard.ZstdError as error:
        # behind a whole frame it looks for another one, and finds what else is on the disk
        if begun and "Unknown frame descriptor" in str(error):
            return b""
        raise


_STREAMS = {"gzip": _gzip, "xz": _xz, "bzip2": _bzip2, "zstd": _zstd, "zip": _zip, "zlib": _zlib}
