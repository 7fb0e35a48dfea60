"""What goldsmith wants to know of a disk at rest beside its checks, asked of the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.disk import sandbox
from pipeline.disk.questions import Question, clean_text, lies

FILES = Question("files", "pipeline.disk.answers:files", limit=64 << 20)
DPKG = Question("dpkg", "pipeline.disk.answers:dpkg_versions")
JOURNAL = Question("journal", "pipeline.disk.answers:journal", limit=96 << 20)


def read_files(
    path: Path, fmt: str, names: Sequence[str], *, limit: int, within: Path | None = None
) -> list[bytes | None]:
    """The first `limit` bytes of each file by name, None where the root has none. Errors as `Disk.root`."""
    answer = sandbox.ask(FILES, path, fmt, parameters={"paths": list(names), "limit": limit}, within=within)
    found, blobs = answer.value, list(answer.blobs)
    if not isinstance(found, list) or len(found) != len(names) or sum(map(bool, found)) != len(blobs):
        raise lies(path)
    return [blobs.pop(0)[:limit] if each else None for each in found]


def dpkg_versions(path: Path, fmt: str, *, within: Path | None = None) -> dict[str, str]:
    """The version of each installed Debian package. Errors as `Disk.root`."""
    rows = sandbox.ask(DPKG, path, fmt, within=within).value
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise lies(path)
    return {clean_text(name, 300): clean_text(version, 300) for name, version in rows}


def journal_files(path: Path, fmt: str, folder: str, *, within: Path | None = None) -> list[tuple[str, bytes]]:
    """A guest's journal files by name, those in use first. Errors as `Disk.root`."""
    answer = sandbox.ask(JOURNAL, path, fmt, parameters={"folder": folder}, within=within)
    names = answer.value
    if not isinstance(names, list) or len(names) != len(answer.blobs):
        raise lies(path)
    return [(clean_text(name, 200).replace("/", "?"), blob) for name, blob in zip(names, answer.blobs, strict=True)]
