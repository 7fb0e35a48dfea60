from __future__ import annotations

import hashlib
import random
from datetime import date
from pathlib import Path

import pytest

from pipeline.base.errors import UsageError
from pipeline.cache.digests import CHUNK, chunk_digests, flat_digest
from pipeline.gallery import DISK, Gallery
from pipeline.gallery.versions import next_version, parse


def sparse(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return path


def capture(gallery: Gallery, tmp_path: Path, name: str = "debian-12"):
    disk = sparse(tmp_path / "d.vhd", 1 << 20, {0: random.randbytes(100)})
    return gallery.capture(name, {DISK: disk}, [], lambda version: least_manifest(name, version, disk))


def least_manifest(name: str, version: str, disk: Path) -> dict[str, object]:
    """The least that a manifest holds."""
    digests = chunk_digests(disk)
    digests_record = {"size": digests.size, "virtual_size": max(0, digests.size - 512), "sha256": flat_digest(disk)}
    digests_record |= {"chunk_size": CHUNK, "chunks_sha256": list(digests.chunks)}
    more = {"created": "2026-11-21T10:00:00Z", "generations": [1], "checks": [], "disk": digests_record}
    return {"name": name, "version": version, **more}


@pytest.mark.parametrize(
    ("existing", "day", "expected"),
    [
        ([], date(2026, 11, 21), "2026.1121.0"),
        ([], date(2027, 1, 5), "2027.105.0"),
        (["2026.1121.0", "2026.1121.9", "2026.1120.11"], date(2026, 11, 21), "2026.1121.10"),
        (["golden", ".new-2026.1121.0"], date(2026, 11, 21), "2026.1121.0"),
    ],
)
def test_versions(existing: list[str], day: date, expected: str) -> None:
    assert next_version(existing, day) == expected


def test_a_version_has_no_leading_zeros() -> None:
    assert parse("2027.0105.0") is None
    assert parse("2027.105.0") == (2027, 105, 0)


def test_digests_match_the_whole_file(tmp_path: Path) -> None:
    path = sparse(
        tmp_path / "d", 9 * CHUNK + 512, {0: b"a" * 10, 3 * CHUNK - 5: random.randbytes(50), 9 * CHUNK: b"f" * 512}
    )
    whole = path.read_bytes()
    assert flat_digest(path) == hashlib.sha256(whole).hexdigest()
    parts = [whole[i : i + CHUNK] for i in range(0, len(whole), CHUNK)]
    assert list(chunk_digests(path).chunks) == [hashlib.sha256(part).hexdigest() for part in parts]


def test_capture_promote_find(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "gallery")
    first = capture(gallery, tmp_path)
    gallery.promote(first)
    second = capture(gallery, tmp_path)
    assert gallery.get("debian-12").version == first.version
    gallery.promote(second)
    assert gallery.get("debian-12").version == second.version
    assert gallery.get("debian-12").channels == ("golden",)
    assert gallery.get(f"debian-12@{first.version}").channels == ()
    assert [v.version for v in gallery.versions("debian-12")] == [first.version, second.version]


def test_a_failed_capture_leaves_nothing(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "gallery")
    disk = sparse(tmp_path / "d.vhd", 1 << 20, {})

    def broken(_version: str):
        raise RuntimeError("no manifest")

    with pytest.raises(RuntimeError):
        gallery.capture("x", {DISK: disk}, [], broken)
    assert [path.name for path in (tmp_path / "gallery" / "x").iterdir()] == [".lock"]
    assert disk.exists()


def test_sweep_removes_what_a_dead_capture_left(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "gallery")
    made = capture(gallery, tmp_path)
    (made.path.parent / ".new-2026.1.1").mkdir()
    gallery.sweep("debian-12")
    assert sorted(p.name for p in made.path.parent.iterdir()) == [".lock", made.version]


@pytest.mark.parametrize("reference", ["nothing", "../etc@golden", "debian-12@../..", "debian-12@9.9.9"])
def test_unknown_references(tmp_path: Path, reference: str) -> None:
    with pytest.raises(UsageError):
        Gallery(tmp_path).get(reference)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 40 * CHUNK + 512])
@pytest.mark.parametrize("data", [(), (0,), (3 * CHUNK - 5,), (CHUNK, 39 * CHUNK), "all"])
def test_digests_are_those_of_the_bytes(size: int, data: object, tmp_path: Path) -> None:
    """Whatever lies in holes: each chunk's digest, and the whole's, are what reading everything gives."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size, 1 << 20) if data == "all" else data:  # type: ignore[attr-defined]
            if start < size:
                file.seek(start)
                file.write(random.randbytes(min(7, size - start)))
    whole = path.read_bytes()
    parts = [whole[at : at + CHUNK] for at in range(0, size, CHUNK)]
    assert list(chunk_digests(path).chunks) == [hashlib.sha256(part).hexdigest() for part in parts]
    assert flat_digest(path) == hashlib.sha256(whole).hexdigest()
