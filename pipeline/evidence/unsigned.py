"""Which masters may be without a signature on a host that signs: a register beside its key, outside of every store.

Anyone who takes the signature away from a master would otherwise make it look like one of the time before masters
were signed. So those that were there when the host began to sign are registered once, by the digest of their
manifest, which holds the digests of their disks; later ones are let in by a person (`--allow-unsigned`), each with
the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base.files import Shape, read_json, write_json
from pipeline.base.runs import now
from pipeline.cache.digests import file_digest
from pipeline.gallery import MANIFEST, Gallery, Version
from pipeline.gallery.manifest import Sha256

REGISTER = "unsigned-masters.json"
#: Files that only a version with evidence has: who has one and no signature was robbed of it.
EVIDENCE = ("provenance.dsse.json", "results.dsse.json", "sbom.cdx.json", "template.json")


class _Master(Shape):
    """A master that may be without a signature; `manifest` is the digest of its manifest."""

    manifest: Sha256
    name: str
    version: str
    why: str
    when: str


class _Register(Shape):
    """`stores`: the galleries that have been looked through once."""

    stores: list[str]
    masters: list[_Master]

    @classmethod
    def advice(cls) -> str:
        return "restore the register of unsigned masters, or delete it to register all present masters"


def register_beside(key: Path) -> Path:
    """Where the register of the host with this signing key is."""
    return key.parent / REGISTER


def admitted(register: Path, gallery: Gallery) -> frozenset[str]:
    """The digests of the manifests that need no signature. Raises RecordDamaged for a damaged register.

    The first look at a gallery registers its masters that nobody signed: they are older than the host's key.
    """
    found = _load(register)
    if str(gallery.root) not in found["stores"]:
        # without the right to write beside the key, what is there is admitted for this once
        with contextlib.suppress(OSError), _changing(register) as found:
            _look_through(found, gallery)
        if str(gallery.root) not in found["stores"]:
            _look_through(found, gallery)
    return frozenset(master["manifest"] for master in found["masters"])


def admit(register: Path, version: Version, why: str) -> None:
    """Let a version be without a signature from now on."""
    with _changing(register) as found:
        _add(found, version, why)


def _look_through(found: dict[str, Any], gallery: Gallery) -> None:
    for name in gallery.names():
        for version in gallery.versions(name):
            robbed = any((version.path / file).exists() for file in EVIDENCE[:2])
            legacy = "signed_by" not in version.manifest and any((version.path / file).exists() for file in EVIDENCE)
            if version.manifest.get("signed_by") is None and not robbed and not legacy:
                _add(found, version, "older than the signing key of this host")
    found["stores"].append(str(gallery.root))


def _add(found: dict[str, Any], version: Version, why: str) -> None:
    digest = file_digest(version.path / MANIFEST)
    if digest not in {master["manifest"] for master in found["masters"]}:
        entry = {"manifest": digest, "name": version.name, "version": version.version, "why": why, "when": now()}
        found["masters"].append(entry)


def _load(register: Path) -> dict[str, Any]:
    return read_json(register, _Register) or {"stores": [], "masters": []}


@contextlib.contextmanager
def _changing(register: Path) -> Iterator[dict[str, Any]]:
    register.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(register.with_name(f".{register.name}.lock")):
        found = _load(register)
        yield found
        write_json(register, found)
