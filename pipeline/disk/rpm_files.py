"""The files that rpm's packages brought, with their digests. By rpm's docs/manual/tags and format."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from pipeline.base.errors import DiskError
from pipeline.disk.root import Root
from pipeline.disk.rpm_database import rpm_headers

_DIGESTS, _INDEXES, _NAMES, _FOLDERS, _ALGORITHM = 1035, 1116, 1117, 1118, 5011
_NUMBERS, _STRINGS = 4, 8
#: RFC 4880's numbers of hash algorithms; without one it is MD5.
_ALGORITHMS = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512"}
_MAX_FILES = 2_000_000


def rpm_files(root: Root) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """(path, (algorithm, digest)) of each; none where the database is not there or cannot be read.

    That it cannot be read is found by the list of packages; here no file is then taken for a package's.
    """
    with suppress(DiskError):
        for header in rpm_headers(root):
            yield from header_files(header)


def header_files(blob: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """The files of one package's header; none of a header that is damaged."""
    try:
        tags = dict(_tags(blob))
    except (struct.error, ValueError):
        return []
    names, folders, digests = (tags.get(tag, []) for tag in (_NAMES, _FOLDERS, _DIGESTS))
    indexes = tags.get(_INDEXES, [])
    algorithm = _ALGORITHMS.get(next(iter(tags.get(_ALGORITHM, [1])), 1), "md5")  # type: ignore[call-overload]
    found = []
    for name, index, digest in zip(names, indexes, digests, strict=False):
        if isinstance(index, int) and index < len(folders):
            found.append((f"{folders[index]}{name}", (algorithm, bytes.fromhex(str(digest)) if digest else b"")))
    return found


def _tags(blob: bytes) -> Iterator[tuple[int, list[int] | list[str]]]:
    count, size = struct.unpack_from(">II", blob)
    store = 8 + 16 * count
    if count > 10_000 or store + size > len(blob):
        raise ValueError
    for number in range(count):
        tag, kind, offset, length = struct.unpack_from(">IIiI", blob, 8 + 16 * number)
        if tag not in (_DIGESTS, _INDEXES, _NAMES, _FOLDERS, _ALGORITHM) or offset < 0 or length > _MAX_FILES:
            continue
        at = store + offset
        if kind == _NUMBERS:
            yield tag, list(struct.unpack_from(f">{length}I", blob, at))
        elif kind == _STRINGS:
            yield tag, [part.decode("utf-8", "surrogateescape") for part in blob[at:].split(b"\0", length)[:length]]
