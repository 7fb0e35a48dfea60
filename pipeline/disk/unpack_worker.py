"""The process that unpacks: `python -m pipeline.disk.unpack_worker`, its order as JSON on stdin.

It opens both files, is confined as every reader of disks is, then reads a first byte. One word on stdout says how it
ended: done, damaged, large, space; or unfit and why, where it cannot be confined: then nothing was read.
"""

from __future__ import annotations

import bz2
import errno
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pipeline.disk.confinement import Limits, Rule
from pipeline.disk.sandbox_worker import confine

#: Bytes of a read of the source, of an output that is asked for, and of a block that may be a hole.
_READ, _CHUNK, _BLOCK = 1 << 16, 1 << 20, 1 << 16
#: zstd has no bound of its own on what one input gives: a block of 4 bytes may give 128 KiB.
_READ_ZSTD = 1 << 10
#: The dictionary of xz -9 has 64 MiB; `xz --memlimit` as Debian's package uses it has 128 MiB to spare.
_XZ_MEMORY, _ZSTD_WINDOW = 192 << 20, 1 << 27
#: Bytes beside what the process has when it begins: a decompressor's, and some MiB of input and output.
_MEMORY = 320 << 20
#: What a reader does not need: it has one file that it writes.
_WRITES = (Rule("pwrite64"), Rule("ftruncate"))


class Damaged(Exception):
    """The input is not what it begins as, or ends early."""


class TooLarge(Exception):
    """More comes out than may."""


class NoSpace(Exception):
    """More data comes out than the host has room for."""


class _Decoder(Protocol):
    """One member, stream or frame; `feed` gives what the input is good for, `rest` what lies behind its end."""

    ended: bool
    rest: bytes

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Bounded:
    """xz, lzma, bzip2 and lz4: their decompressors give as much as they are asked for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield self._inner.decompress(data, _CHUNK)
            if self._inner.eof:
                self.ended, self.rest = True, self._inner.unused_data or b""
                return
            if self._inner.needs_input:
                return
            data = b""


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._inner.eof:
            yield self._inner.decompress(data, _CHUNK)
            data = self._inner.unconsumed_tail
        if self._inner.eof:
            self.ended, self.rest = True, self._inner.unused_data


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _READ_ZSTD):
            yield self._inner.decompress(data[at : at + _READ_ZSTD])
            if self._inner.eof:
                self.ended, self.rest = True, self._inner.unused_data + data[at + _READ_ZSTD :]
                return


def _lz4() -> _Decoder:
    import lz4.frame

    return _Bounded(lz4.frame.LZ4FrameDecompressor())


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "xz": lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)),
    "lzma": lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY)),
    "gz": _Gzip,
    "bz2": lambda: _Bounded(bz2.BZ2Decompressor()),
    "zst": _Zstd,
    "lz4": _lz4,
}


def decompressed(kind: str, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What a compressed stream holds, member after member, in pieces of some MiB. Raises Damaged."""
    decoder = _DECODERS[kind]()
    data, began = b"", False
    while True:
        if not data:
            data = read(_READ)
            if not data:
                break
        if decoder.ended:
            # zeros pad the members of archives on tape
            data = data.lstrip(b"\0")
            if not data:
                continue
            decoder, began = _DECODERS[kind](), False
        began = True
        try:
            yield from decoder.feed(data)
        except MemoryError:
            raise
        except Exception as error:
            # a hostile input is judged: each library has an error of its own, and RuntimeError besides
            raise Damaged(str(error)) from None
        data = decoder.rest if decoder.ended else b""
    if not began or not decoder.ended:
        raise Damaged("it ends early")


def write_sparse(pieces: Iterator[bytes], fd: int, limit: int, budget: int) -> int:
    """Write a stream, zeros as holes; the size. Raises TooLarge past `limit` bytes, NoSpace past `budget` of data."""
    size = written = 0
    zeros = bytes(_BLOCK)
    for piece in pieces:
        if size + len(piece) > limit:
            raise TooLarge
        for at in range(0, len(piece), _BLOCK):
            block = piece[at : at + _BLOCK]
            if block != zeros[: len(block)]:
                written += len(block)
                if written > budget:
                    raise NoSpace
                done = 0
                while done < len(block):
                    done += os.pwrite(fd, block[done:], size + at + done)
        size += len(piece)
    os.ftruncate(fd, size)
    return size


def _run(order: dict[str, Any]) -> str:
    source = os.open(order["source"], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    target = os.open(order["target"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    # what these load late would be out of reach without rights
    _DECODERS[order["kind"]]()
    limits = Limits(_MEMORY, order["seconds"], order["limit"], open_files=64)
    try:
        confine(limits, more_calls=_WRITES)
    except OSError as error:
        return f"unfit {error.strerror or error}"
    try:
        pieces = decompressed(order["kind"], lambda length: os.read(source, length))
        write_sparse(pieces, target, order["limit"], order["budget"])
    except (Damaged, MemoryError):
        return "damaged"
    except TooLarge:
        return "large"
    except NoSpace:
        return "space"
    except OSError as error:
        return "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "damaged"
    return "done"


if __name__ == "__main__":
    print(_run(json.load(sys.stdin)), flush=True)
    # what Python does at its end needs files
    os._exit(0)
