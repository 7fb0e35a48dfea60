"""A golden version with all its evidence and a disk of 64 KiB, as a build makes it: for what moves versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipeline.cache.digests import chunk_digests, flat_digest
from pipeline.evidence.checksum import Contents, write_evidence
from pipeline.evidence.signing import SigningKey
from pipeline.gallery import DISK, Gallery, Version

SIZE = 64 << 10


def make_signed_version(
    gallery: Gallery,
    name: str,
    key: SigningKey | None,
    content: str,
    definition: str = "goldsmith: 1\n",
    inputs: Mapping[str, str] | None = None,
) -> Version:
    """A version of image `name` whose disk begins with a text; unsigned without a key. `inputs`: those of acquire."""
    disk = gallery.root.parent / f"made-{name}.vhd"
    # what a power cut has left is a version's disk by another name
    disk.unlink(missing_ok=True)
    disk.write_bytes(content.encode().ljust(SIZE, b"\0"))
    digests = chunk_digests(disk)
    manifest: dict[str, Any] = {
        "name": name,
        "summary": "",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "started": "2026-11-21T20:00:00Z",
        "state": "proven",
        "start": "cold",
        "os": "linux",
        "suite": "bookworm",
        "accelerator": "tcg",
        "agent": "waagent",
        "first_boot": None,
        "machine": {"cpus": 1, "memory": 1 << 30},
        "generations": [1],
        "disk": {
            "size": digests.size,
            "virtual_size": digests.size,
            "sha256": flat_digest(disk),
            "tree_sha256": digests.tree,
            "chunk_size": 2 << 20,
        },
        "data_disks": [],
        "inputs": [{"stage": "acquire", "title": "source", "key": "ab", "inputs": dict(inputs or {})}],
        "definition": definition,
        "tools": {"goldsmith": "0.1.0"},
        "checks": [{"id": "fs-clean", "status": "pass"}],
        "prove": {"gen1": {"checks": {"login": "clone"}, "failures": []}},
        "run": "R1",
        "signed_by": key.id if key else None,
        "evidence": 2,
    }
    complete = partial(write_evidence, contents=Contents({"ID": "debian"}, [["bash", "1", "all"]]), key=key)
    made = gallery.capture(name, {DISK: disk}, [], lambda version: {**manifest, "version": version}, complete)
    gallery.promote(made)
    disk.unlink()
    return gallery.get(name)
