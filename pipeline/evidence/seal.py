"""The evidence as files beside a master's disk, and whether they still hold.

`sbom.cdx.json`, two signed statements where the host has a key, and SHA256SUMS over everything, for people.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from pipeline.checks import list_disk
from pipeline.digests import flat_digest
from pipeline.errors import CheckFailed, DiskError
from pipeline.evidence import sbom, statements, template
from pipeline.evidence.signing import SigningKey, opened, signed
from pipeline.gallery import MANIFEST, disks_of

SBOM, SUMS = "sbom.cdx.json", "SHA256SUMS"
#: The signed statements: how the master was made, and what it passed.
PROVENANCE, RESULTS = "provenance.dsse.json", "results.dsse.json"
ATTESTATIONS = (PROVENANCE, RESULTS)


@dataclass(frozen=True)
class Contents:
    """What is on the disk, as the disk itself says: os-release, and name, version and architecture of packages."""

    system: Mapping[str, str]
    packages: Sequence[Sequence[str]]

    @classmethod
    def of(cls, disk: Path) -> Contents | None:
        """Read off a fixed VHD, as a stranger's; None where no package record is found."""
        try:
            rows = list_disk(disk, "vpc", what="packages")
            system: dict[str, str] = dict(list_disk(disk, "vpc", what="os"))
            # a Windows without a program is still a Windows
            return cls(system, rows) if rows or system.get("ID") == "windows" else None
        except DiskError:
            return None


def seal(folder: Path, final: Path, contents: Contents | None, key: SigningKey | None) -> None:
    """Write the evidence of the version in `folder`, whose disk and manifest are there and which will be `final`."""
    template.write(folder, final)
    manifest = json.loads((folder / MANIFEST).read_text())
    if contents is not None:
        told = manifest["disk"]
        text = sbom.bill(
            manifest["name"],
            manifest["version"],
            created=manifest["created"],
            sha256=told["sha256"],
            tree=told["tree_sha256"],
            system=contents.system,
            packages=contents.packages,
        )
        _write(folder / SBOM, text)
    if key is not None:
        subjects = _subjects(folder, manifest)
        for name, statement in (
            (PROVENANCE, statements.provenance(manifest, subjects, socket.gethostname())),
            (RESULTS, statements.results(manifest, subjects)),
        ):
            _write(folder / name, signed(json.dumps(statement).encode(), key))
    write_sums(folder, manifest)


def settle(folder: Path, final: Path) -> None:
    """Write anew what hangs on where a version lies: one that has come from elsewhere, about to lie at `final`."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if "signed_by" in manifest:
        template.write(folder, final)
        write_sums(folder, manifest)


def write_sums(folder: Path, manifest: Mapping[str, Any]) -> None:
    """SHA256SUMS over all files. Of a disk that has no flat digest in the manifest it has none either."""
    (folder / SUMS).unlink(missing_ok=True)
    _write(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in _sums(folder, _flat(manifest)).items()))


def _flat(manifest: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: told["sha256"] for name, told in disks_of(manifest).items()}


def _sums(folder: Path, disks: Mapping[str, str | None]) -> dict[str, str]:
    """The digest of every file; those of the disks are known."""
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    found = {name: disks[name] if name in disks else _digest(folder / name) for name in names}
    return {name: digest for name, digest in found.items() if digest is not None}


def judge(folder: Path, manifest: Mapping[str, Any], keys: Sequence[Key], *, demanded: bool) -> str:
    """What of a version's evidence does not hold, or nothing. The disk itself is judged by its manifest.

    `keys` are those that are trusted; a signature is verified where there are any, and missed where it is `demanded`.
    """
    if "signed_by" not in manifest:
        # captured before masters carried evidence
        return "nobody signed it" if demanded else ""
    return next(_wrong(folder, manifest, keys, demanded), "")


def _wrong(folder: Path, manifest: Mapping[str, Any], keys: Sequence[Key], demanded: bool) -> Iterator[str]:
    written = (folder / SUMS).read_text(encoding="utf-8")
    told = {name: digest for digest, _, name in (line.partition("  ") for line in written.split("\n")[:-1])}
    # an export's sums have the disks that were too large at capture
    known = {
        name: flat or (flat_digest(folder / name) if name in told else None) for name, flat in _flat(manifest).items()
    }
    found = _sums(folder, known)
    for name in sorted(told.keys() - found.keys()):
        yield f"{name} is missing"
    for name in sorted(found.keys() - told.keys()):
        yield f"{name} is not one of its files"
    for name in sorted(name for name in told.keys() & found.keys() if told[name] != found[name]):
        yield f"{name} was changed"
    if written != "".join(f"{digest}  {name}\n" for name, digest in found.items()):
        yield f"{SUMS} was changed"
    signed_by = manifest["signed_by"]
    if signed_by is None:
        if demanded:
            yield "nobody signed it"
        return
    for name in ATTESTATIONS:
        if not (folder / name).exists():
            yield f"{name} is missing"
        elif keys:
            try:
                said = json.loads(opened((folder / name).read_text(), keys))
                subjects = {one["name"]: one["digest"] for one in said["subject"]}
            except CheckFailed as error:
                yield f"{name}: {error.message}"
            else:
                if subjects != {name: dict(digests) for name, digests in _subjects(folder, manifest).items()}:
                    yield f"{name} speaks of other files"


def _subjects(folder: Path, manifest: Mapping[str, Any]) -> dict[str, statements.Digests]:
    """What the statements are about. A disk too large for a flat digest is named by that of its chunks'."""
    disks = {
        name: {"sha256": told["sha256"]} if told["sha256"] else {"goldsmithTree": told["tree_sha256"]}
        for name, told in disks_of(manifest).items()
    }
    others = [name for name in (MANIFEST, SBOM) if (folder / name).exists()]
    return {**disks, **{name: {"sha256": _digest(folder / name)} for name in others}}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SUMS]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)
