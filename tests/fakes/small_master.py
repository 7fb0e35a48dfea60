"""A master of a few MiB, for what moves masters and boots none."""

from __future__ import annotations

import uuid
from pathlib import Path

from pipeline.base.store import Store
from pipeline.cache.digests import CHUNK, chunk_digests, flat_digest
from pipeline.gallery import DISK, Gallery, Version

SIZE = 24 << 20


def make_version(
    store: Store, folder: Path, pieces: dict[int, bytes], size: int = SIZE, *, golden: bool = True, **more: object
) -> Version:
    """A version of image `shop` whose disk has these pieces, by their offsets; golden, unless not wanted.

    `folder` is for scratch; `more` are further fields of the manifest.
    """
    disk = folder / f"d-{uuid.uuid4()}.vhd"
    with disk.open("wb") as file:
        file.truncate(size + 512)
        for offset, data in {**pieces, size: b"conectix".ljust(512, b"\1")}.items():
            file.seek(offset)
            file.write(data)

    def manifest(version: str) -> dict[str, object]:
        digests = chunk_digests(disk)
        record = {"size": digests.size, "virtual_size": size, "sha256": flat_digest(disk)}
        record |= {"chunk_size": CHUNK, "chunks_sha256": list(digests.chunks)}
        fields = {"created": "2026-11-21T10:00:00Z", "generations": [1], "checks": [], "disk": record}
        return {"name": "shop", "version": version, **fields, **more}

    gallery = Gallery(store.gallery)
    version = gallery.capture("shop", {DISK: disk}, [], manifest)
    if golden:
        gallery.promote(version)
    disk.unlink(missing_ok=True)
    return gallery.get(f"shop@{version.version}")
