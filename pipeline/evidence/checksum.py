"""The evidence as files beside a master's disk, and whether they still hold.

`sbom.cdx.json`, two signed statements where the host has a key, and SHA256SUMS over everything, for people.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import BuildError, DiskError
from pipeline.base.files import regular_files
from pipeline.cache.layers import Image
from pipeline.evidence import sbom, statements, template
from pipeline.evidence.signing import SigningKey, signed
from pipeline.evidence.verification import (
    ATTESTATIONS,
    FORMAT,
    PROVENANCE,
    RESULTS,
    SBOM,
    SUMS,
    flat_digests,
    judge,
    subjects_of,
    sums_of,
)
from pipeline.gallery.manifest import manifest_of
from pipeline.systems.inspection import NO_INDEX, package_type
from pipeline.systems.questions import list_disk

__all__ = [
    "ATTESTATIONS",
    "SBOM",
    "SUMS",
    "Contents",
    "judge",
    "write_evidence",
    "write_local_evidence",
    "write_sums",
]


@dataclass(frozen=True)
class Contents:
    """What is on the disk, as the disk itself says: os-release, and name, version and architecture of packages.

    `sources`: name, architecture, source package and its version, of packages whose source is not as they are.
    """

    system: Mapping[str, str]
    packages: Sequence[Sequence[str]]
    sources: Sequence[Sequence[str]] = ()

    @classmethod
    def of(cls, disk: Image) -> Contents:
        """Read off a disk that ships, as a stranger's. Raises BuildError (inventory-failed) where that fails.

        A bill of materials that is missing, or empty because its reader failed, would be taken for a small system.
        """
        try:
            rows = list_disk(disk.path, disk.format.key, what="packages")
            system: dict[str, str] = dict(list_disk(disk.path, disk.format.key, what="os"))
            sources = list_disk(disk.path, disk.format.key, what="sources")
        except DiskError as error:
            raise _failed(f"{error.message} ({error.name})", error.hint) from error
        # only a system whose own files are packages cannot be without any
        if not rows and package_type(system) != NO_INDEX:
            raise _failed("the package database lists no installed package", None)
        return cls(system, rows, sources)


def _failed(why: str, hint: str | None) -> BuildError:
    return BuildError(
        f"the bill of materials cannot be written, because the disk's packages cannot be listed: {why}",
        name="inventory-failed",
        hint=hint
        or "goldsmith inspect --list packages DISK shows the problem; a master cannot ship without its bill of "
        "materials",
    )


def write_evidence(
    folder: Path,
    final: Path,
    contents: Contents,
    key: SigningKey | None,
    add_files: Callable[[Path], None] = lambda _folder: None,
) -> None:
    """Write the evidence of the version in `folder`, whose disk and manifest are there and which will be `final`.

    `add_files` may add files when the bill of materials is there; signatures and sums cover them.
    """
    template.write_templates(folder)
    template.write_domain(folder, final)
    manifest = manifest_of(folder)
    if contents is not None:
        disk = manifest["disk"]
        text = sbom.bill(
            manifest["name"],
            manifest["version"],
            created=manifest["created"],
            sha256=disk["sha256"],
            tree=disk["tree_sha256"],
            system=contents.system,
            packages=contents.packages,
            sources=contents.sources,
        )
        _write(folder / SBOM, text)
    add_files(folder)
    if key is not None:
        subjects = subjects_of(folder, manifest, regular_files(folder)[0])
        for name, statement in (
            (PROVENANCE, statements.provenance(manifest, subjects, socket.gethostname())),
            (RESULTS, statements.results(manifest, subjects)),
        ):
            _write(folder / name, signed(json.dumps(statement).encode(), key))
    write_sums(folder, manifest)


def write_local_evidence(folder: Path, final: Path) -> None:
    """Write again what hangs on where a version lies: one that has come from elsewhere, about to lie at `final`."""
    manifest = manifest_of(folder)
    if "signed_by" in manifest:
        if manifest.get("evidence", 1) < FORMAT:
            template.write_templates(folder)
        template.write_domain(folder, final)
        write_sums(folder, manifest)


def write_sums(folder: Path, manifest: Mapping[str, Any]) -> None:
    """SHA256SUMS over all files. Of a disk that has no flat digest in the manifest it has none either."""
    (folder / SUMS).unlink(missing_ok=True)
    sums = sums_of(folder, flat_digests(manifest), regular_files(folder)[0])
    _write(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)
