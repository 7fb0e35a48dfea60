"""A copy step's files as a tar stream: no file is held in memory, holes are neither read nor sent.

Of the source's permission bits only the owner's executable bit counts, as in git: a checkout under another umask
gives the same tree. Owner and times of the source do not count either.
"""

from __future__ import annotations

import io
import os
import shlex
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.base.errors import UsageError

#: Modes without `mode`: of a file, of one with the executable bit, of a folder.
PLAIN, EXECUTABLE, FOLDER = 0o644, 0o755, 0o755
#: Bytes that go at a time, and between two reports of progress.
BUFFER, REPORT_EVERY = 1 << 20, 16 << 20
#: Bytes of holes from which a file is sent as a sparse one, which only GNU tar unpacks.
_HOLES_WORTH = 1 << 20
_BLOCK = tarfile.BLOCKSIZE

#: What unpacks the stream in the guest: a folder that exists keeps mode and owner, and a link to a folder
#: (/lib, /bin) stays a link. Files get the guest's time.
_UNPACK = (
    "tar -x -f - -p --numeric-owner --touch --no-overwrite-dir --keep-directory-symlink --warning=no-timestamp -C {}"
)
_NEEDS_GNU = (
    "tar --version 2>/dev/null | grep -q GNU || { echo 'copy needs GNU tar in the guest: install tar' >&2; exit 1; }"
)


@dataclass(frozen=True)
class Modes:
    """The modes that a copy gives; `mode` is the definition's, an octal number, or None."""

    mode: int | None = None

    @classmethod
    def parse(cls, text: str | None) -> Modes:
        return cls(int(text, 8) if text else None)

    def file(self, source: int) -> int:
        """Of a file whose own mode is `source`."""
        if self.mode is not None:
            return self.mode
        return EXECUTABLE if source & stat.S_IXUSR else PLAIN

    @property
    def folder(self) -> int:
        """Of a new folder: anyone who may read its files may search it."""
        if self.mode is None:
            return FOLDER
        permissions = self.mode & 0o777
        return permissions | (permissions & 0o444) >> 2


def unpack_script(source_is_folder: bool, target: str, modes: Modes) -> str:
    """The shell script that reads the stream in the guest, as root. Pure."""
    quoted = shlex.quote(target)
    lines = ["set -eu", "umask 022", _NEEDS_GNU]
    if source_is_folder:
        lines += [
            f"if [ ! -d {quoted} ]; then mkdir -p -- {quoted}; chmod {modes.folder:04o} {quoted}; fi",
            _UNPACK.format(quoted),
        ]
    else:
        above = shlex.quote(target.rpartition("/")[0] or "/")
        lines += [
            f"if [ -d {quoted} ]; then echo {quoted}' is a folder: name the file in `to`' >&2; exit 1; fi",
            f"mkdir -p -- {above}",
            _UNPACK.format(above),
        ]
    return "\n".join(lines)


def need_plain_files(source: Path) -> None:
    """Raises UsageError (copy-special-file) where something is neither a file, a folder nor a link."""
    for path, mode in _walk(source):
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise UsageError(
                f"{path} is a socket, a pipe or a device, which cannot be copied",
                name="copy-special-file",
                hint="remove it from the folder, and create it in the guest with a script",
            )


def write_stream(
    sink: IO[bytes],
    source: Path,
    name: str,
    modes: Modes,
    *,
    head: bytes = b"",
    on_bytes: Callable[[int, int], None] = lambda _done, _all: None,
) -> None:
    """Write `source` as a tar archive: a file under `name`, or what is below a folder.

    `head` goes before a file's own bytes. `on_bytes` gets the bytes of data sent and those of all. Raises OSError,
    UsageError (source-changed) where a file becomes shorter meanwhile.
    """
    entries = list(_walk(source))
    total = sum(_allocated(path) for path, mode in entries if stat.S_ISREG(mode))
    counter = _Counter(total, on_bytes)
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BUFFER) as archive:
        for path, mode in entries:
            if source.is_dir():
                if path == source:
                    continue
                member = f"./{path.relative_to(source)}"
            else:
                member = name
            info = tarfile.TarInfo(member)
            info.uname = info.gname = "root"
            if stat.S_ISDIR(mode):
                info.type, info.mode = tarfile.DIRTYPE, modes.folder
                archive.addfile(info)
            elif stat.S_ISLNK(mode):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
                archive.addfile(info)
            else:
                info.mode = modes.file(mode)
                _add_file(archive, info, path, head, counter)


def _walk(source: Path) -> Iterator[tuple[Path, int]]:
    """Everything from `source` down, folders before what is in them, each with its type and mode."""
    mode = source.stat().st_mode
    yield source, mode
    if stat.S_ISDIR(mode):
        yield from _below(source)


def _below(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        yield path, mode
        if stat.S_ISDIR(mode):
            yield from _below(path)


def _allocated(path: Path) -> int:
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)


class _Counter:
    def __init__(self, total: int, on_bytes: Callable[[int, int], None]) -> None:
        self._total, self._on_bytes = total, on_bytes
        self._done = self._reported = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._done - self._reported >= REPORT_EVERY:
            self._reported = self._done
            self._on_bytes(self._done, self._total)


def _add_file(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path, head: bytes, counter: _Counter) -> None:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        pieces = _data_pieces(file.fileno(), size) if not head else [(0, size)]
        sent = sum(length for _, length in pieces)
        if size - sent < _HOLES_WORTH:
            pieces, sent = [(0, size)], size
        else:
            # GNU's sparse format 1.0 in pax headers: a map of the data before the data
            head = _sparse_map(pieces, size)
            info.pax_headers = {
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": info.name,
                "GNU.sparse.realsize": str(size),
            }
        info.size = len(head) + sent
        archive.addfile(info, _Pieces(path, file.fileno(), head, pieces, counter))


def _data_pieces(fd: int, size: int) -> list[tuple[int, int]]:
    """(start, length) of each piece of a file outside holes, in order; each hole costs one call."""
    found = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: a hole up to the end; a file system without holes answers `at`
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        # a region in the archive begins with a block of its own: only the last may end within one
        start -= start % _BLOCK
        at = min(at + -at % _BLOCK, size)
        found.append((start, at - start))
    return found


def _sparse_map(pieces: list[tuple[int, int]], size: int) -> bytes:
    rows = [*pieces, (size, 0)]
    text = "".join(f"{number}\n" for number in (len(rows), *(part for row in rows for part in row))).encode()
    return text + bytes(-len(text) % _BLOCK)


class _Pieces(io.RawIOBase):
    """A file's pieces behind `head`, as one stream to read from."""

    def __init__(self, path: Path, fd: int, head: bytes, pieces: list[tuple[int, int]], counter: _Counter) -> None:
        super().__init__()
        self._path, self._fd, self._counter = path, fd, counter
        self._head = head
        self._pieces = list(reversed(pieces))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = size if size >= 0 else BUFFER
        out = bytearray()
        while len(out) < wanted:
            if self._head:
                part, self._head = self._head[: wanted - len(out)], self._head[wanted - len(out) :]
            elif self._pieces:
                start, length = self._pieces.pop()
                part = os.pread(self._fd, min(length, wanted - len(out)), start)
                if not part and length:
                    raise UsageError(
                        f"{self._path} became shorter while it was copied",
                        name="source-changed",
                        hint="stop the program that writes to the file, and build again",
                    )
                if length > len(part):
                    self._pieces.append((start + len(part), length - len(part)))
                self._counter.add(len(part))
            else:
                break
            out += part
        return bytes(out)
