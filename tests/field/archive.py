"""One file of a field run: texts and pictures without secrets, `field.json` about the run, and a signature over all.

A tar archive, packed by gzip. Its statement names the digest of each file, in an envelope (DSSE) that the key of the
host signed; who gets the archive has the public half by another way. Nothing of it is unpacked onto a disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from pipeline.evidence.signing import SigningKey, opened, signed
from tests.field.redaction import Redaction

#: What the archive holds beside the files of the run.
FIELD, STATEMENT = "field.json", "statement.dsse.json"
#: What a replay takes: files, and bytes unpacked.
MOST_FILES, MOST_BYTES = 5000, 256 << 20
#: Kinds of files that are taken; others stay at home.
SUFFIXES = (".json", ".jsonl", ".log", ".md", ".png", ".txt", ".xml", ".yaml")
TYPE = "https://goldsmith.invalid/field/1"


class ArchiveError(Exception):
    """The archive cannot be written or taken, and why."""


@dataclass(frozen=True)
class FieldArchive:
    """An archive that was read and whose signature holds. `files` are without FIELD."""

    field: Mapping[str, Any]
    files: Mapping[str, bytes]

    def text(self, name: str) -> str:
        return self.files[name].decode(errors="replace")


def collect(folder: Path, redaction: Redaction) -> tuple[dict[str, bytes], list[str]]:
    """The files below a folder that may leave it, without secrets, and the names of those that stay."""
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size == 0:
            continue
        name = path.relative_to(folder).as_posix()
        try:
            data = redaction.data(path.read_bytes(), path.suffix) if path.suffix in SUFFIXES else None
        except ValueError:
            data = None  # JSON that was cut off
        if data is None:
            left_out.append(name)
        else:
            files[redaction.text(name)] = data
    return files, left_out


def write_archive(
    path: Path, field: Mapping[str, Any], files: Mapping[str, bytes], key: SigningKey, redaction: Redaction
) -> Path:
    """Write an archive. Raises ArchiveError where a value that is known to be the user's is still in it."""
    about = redaction.data(json.dumps(field).encode(), ".json")
    assert about is not None
    contents = {FIELD: about, **files}
    for name, data in contents.items():
        if (left := redaction.find(data) or redaction.find(name.encode())) is not None:
            raise ArchiveError(f"{name} still has {left}: nothing was written")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    statement = json.dumps({"_type": TYPE, "files": digests}, sort_keys=True).encode()
    contents[STATEMENT] = signed(statement, key).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return path


def read_archive(path: Path, keys: Sequence[Key]) -> FieldArchive:
    """Read an archive. Raises ArchiveError where it is too large, CheckFailed (signature-bad), ArchiveError where a
    file is missing, changed or added."""
    with gzip.open(path) as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ArchiveError(f"{path.name} has more than {MOST_BYTES >> 20} MiB")
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            if file is None or len(contents) == MOST_FILES or entry.name in contents:
                raise ArchiveError(f"{entry.name} is no file of an archive of the field kit")
            contents[entry.name] = file.read()
    if STATEMENT not in contents:
        raise ArchiveError(f"{path.name} is not signed")
    statement = json.loads(opened(contents.pop(STATEMENT).decode(), keys))
    digests = {name: hashlib.sha256(each).hexdigest() for name, each in contents.items()}
    if statement.get("_type") != TYPE or statement["files"] != digests:
        changed = sorted(set(digests.items()) ^ set(statement.get("files", {}).items()))
        raise ArchiveError(f"not as it was signed: {', '.join(dict(changed)) or path.name}")
    return FieldArchive(json.loads(contents.pop(FIELD)), contents)
