"""What a reader in the sandbox is asked and how it answers: shapes that both sides of the door share.

A new question is a function `def f(asked: Asked) -> JSON` in any module of the readers, and beside its caller

    PACKAGES = Question("packages", "pipeline.disk.packages:answer_packages", modules=("lxml.etree",))
    answer = sandbox.ask(PACKAGES, path, fmt, within=store)

`answer.value` is what JSON carries, foreign input like any other: the caller checks types. Bytes go beside it, in
`asked.blobs`; the caller gets them as `answer.blobs`. `modules` names what the function would import
late, `prepare` what is to be called while files are still in reach (a cache of compiled patterns).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import DiskError

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk

#: Bytes of an answer without blobs, and blobs of one answer.
ANSWER_LIMIT, MAX_BLOBS = 8 << 20, 64
#: Bytes of JSON that are taken at once: Python's objects take up to twenty times as many.
ROWS_LIMIT = 2 << 20


@dataclass(frozen=True)
class Question:
    """`where` is module:function, and each of `prepare` is one that is called before the rights go.

    `limit` bounds the answer, `memory` the worker's own, in bytes.
    `seconds` for any disk and `seconds_per_gib` for each GiB that its files take: an attack is small, a disk is not.
    """

    name: str
    where: str
    modules: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    limit: int = ANSWER_LIMIT
    memory: int = 208 << 20
    seconds: float = 7.0
    seconds_per_gib: float = 60.0


@dataclass
class Asked:
    """A question as the worker sees it; `blobs` take bytes for the caller."""

    path: Path
    fmt: str | None
    within: Path | None
    parameters: dict[str, Any]
    blobs: list[bytes] = field(default_factory=list)

    @contextmanager
    def disk(self) -> Iterator[Disk]:
        """The disk, opened. Errors as `open_disk`."""
        from pipeline.disk.disk import open_disk

        with open_disk(self.path, self.fmt, allow_backing_within=self.within) as disk:
            yield disk


@dataclass(frozen=True)
class Answer:
    """`value` is JSON of the reader's, which the caller must check; `blobs` are bytes."""

    value: Any
    blobs: tuple[bytes, ...]
    confinement: dict[str, Any]


def pack(fd: int, value: dict[str, Any], blobs: list[bytes]) -> int:
    """Write an answer: lengths, JSON, blobs. Returns its bytes. Raises OSError past the file's limit."""
    if len(blobs) > MAX_BLOBS:
        raise OSError("too many blobs")
    text = json.dumps(value).encode()
    lengths = [len(text), *map(len, blobs)]
    parts = [struct.pack(f"={1 + len(lengths)}Q", len(lengths), *lengths), text, *blobs]
    total = 0
    for part in parts:
        view = memoryview(part)
        while view:
            step = os.write(fd, view[: 8 << 20])
            view, total = view[step:], total + step
    return total


def unpack(fd: int, length: int) -> tuple[Any, tuple[bytes, ...]]:
    """What `pack` wrote, piece by piece. Raises ValueError for anything else."""
    head = os.pread(fd, 8, 0)
    if len(head) < 8:
        raise ValueError("no answer")
    (count,) = struct.unpack("=Q", head)
    if not 1 <= count <= MAX_BLOBS + 1:
        raise ValueError("no answer")
    head = os.pread(fd, 8 * count, 8)
    if len(head) < 8 * count:
        raise ValueError("no answer")
    lengths = struct.unpack(f"={count}Q", head)
    if sum(lengths) != length - 8 * (1 + count) or lengths[0] > ANSWER_LIMIT:
        raise ValueError("lengths that do not fit")
    at, parts = 8 * (1 + count), []
    for each in lengths:
        parts.append(_read(fd, each, at))
        at += each
    try:
        return json.loads(parts[0]), tuple(parts[1:])
    except RecursionError:
        raise ValueError("nested too deep") from None


def _read(fd: int, length: int, at: int) -> bytes:
    data = os.pread(fd, length, at)
    if len(data) < length:
        raise ValueError("an answer that is cut off")
    return data


def pack_rows(asked: Asked, rows: list[list[str]]) -> int:
    """Rows of text as blobs that the caller can take one after the other. Returns how many rows there are."""
    texts, size = [b"["], 1
    for row in rows:
        text = json.dumps(row).encode()
        if size + len(text) > ROWS_LIMIT:
            asked.blobs.append(b"".join(texts)[:-1] + b"]")
            texts, size = [b"["], 1
        texts += [text, b","]
        size += len(text) + 1
    asked.blobs.append((b"".join(texts)[:-1] if len(texts) > 1 else b"[") + b"]")
    return len(rows)


def unpack_rows(answer: Answer, path: Path, width: int, most: int) -> list[list[str]]:
    """What `pack_rows` wrote: at most `most` rows of `width` printable cells. Raises DiskError (reader-lies)."""
    rows: list[list[str]] = []
    # what stands in many rows is kept once: a list of all files has the same owner in most of them
    known: dict[str, str] = {}
    for blob in answer.blobs:
        try:
            part = json.loads(blob) if len(blob) <= 2 * ROWS_LIMIT else None
        except (ValueError, RecursionError):
            part = None
        if not isinstance(part, list) or len(rows) + len(part) > most:
            raise lies(path)
        for row in part:
            if not isinstance(row, list) or len(row) != width:
                raise lies(path)
            cells = [clean_text(cell) for cell in row]
            rows.append([known.setdefault(cell, cell) if len(cell) < 12 else cell for cell in cells])
        if len(known) > 100_000:
            known.clear()
    return rows


def clean_text(value: object, limit: int = 4096) -> str:
    """A foreign text as it may be shown: printable, bounded; tabs and line ends as spaces."""
    text = (" " if char in "\t\n\r" else visible(char) for char in str(value)[:limit])
    return "".join(text)[:limit]


def visible(char: str) -> str:
    """A character as it may be shown: itself, or an escape (a tab is \\t), so that different names stay different."""
    if char.isprintable():
        return char
    # a byte of a name that is no UTF-8
    return f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) <= 0xDCFF else ascii(char)[1:-1]


def clean_name(value: object) -> str:
    """The name of an error, or `disk-unreadable` where it is none."""
    text = str(value)
    return text if text.isascii() and text.replace("-", "").isalnum() and len(text) < 60 else "disk-unreadable"


def lies(path: Path) -> DiskError:
    """The reader's answer has the wrong shape: it may have been taken over."""
    return DiskError(
        f"{path.name}: the disk reader returned an invalid result",
        name="reader-lies",
        hint="the disk may be malicious: do not use it",
        evidence=path,
    )
