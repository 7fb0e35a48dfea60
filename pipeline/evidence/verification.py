"""Whether a master's evidence still holds: its sums, its signatures, and that both speak of exactly its files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from pipeline.base.errors import CheckFailed
from pipeline.base.files import AnyObject, parse_json, read_text, regular_files
from pipeline.cache.digests import file_digest, flat_digest
from pipeline.evidence import statements
from pipeline.evidence.signing import verified
from pipeline.evidence.unsigned import EVIDENCE
from pipeline.gallery import MANIFEST, digests_file, disks_of
from pipeline.gallery.export_import import TEXT_LIMIT
from pipeline.gallery.manifest import LIMIT as MANIFEST_LIMIT

SBOM, SUMS = "sbom.cdx.json", "SHA256SUMS"
#: The signed statements: how the master was made, and what it passed.
PROVENANCE, RESULTS = "provenance.dsse.json", "results.dsse.json"
ATTESTATIONS = (PROVENANCE, RESULTS)
_KINDS = {PROVENANCE: statements.PROVENANCE, RESULTS: statements.TEST_RESULT}
#: What is written again where a version comes to lie, and so is bound by no signature.
DOMAIN = "domain.xml"
#: The form of evidence in which a signature binds every file that it can: the manifest says which it has.
FORMAT = 2


def judge(
    folder: Path,
    manifest: Mapping[str, Any],
    keys: Sequence[Key],
    *,
    demanded: bool,
    admitted: Collection[str] = (),
) -> str:
    """What of a version's evidence does not hold, or nothing. The disk itself is judged by its manifest.

    `keys` are those that are trusted; a signature is verified where there are any. Where it is `demanded`, a master
    without one is damaged, unless the digest of its manifest is `admitted`.
    """
    return next(_faults(folder, manifest, keys, demanded, admitted), "")


def _faults(
    folder: Path, manifest: Mapping[str, Any], keys: Sequence[Key], demanded: bool, admitted: Collection[str]
) -> Iterator[str]:
    files, odd = regular_files(folder)
    yield from _odd_faults(folder, manifest, files, odd)
    exempt = file_digest(folder / MANIFEST) in admitted
    signed_by = manifest.get("signed_by")
    if signed_by is None and demanded and not exempt:
        yield "it has no signature"
    if "signed_by" not in manifest:
        # captured before masters carried evidence: then it has none at all
        for name in EVIDENCE:
            if name in files:
                yield f"its manifest names no signing key, but {name} exists"
        if SUMS not in files:
            return
    elif SUMS not in files:
        yield f"{SUMS} is missing"
        return
    yield from _sums_faults(folder, manifest, files)
    if signed_by is None:
        for name in ATTESTATIONS:
            if name in files:
                yield f"its manifest says that it has no signature, but {name} exists"
    elif not exempt:
        yield from _signature_faults(folder, manifest, files, keys, demanded)


def _odd_faults(
    folder: Path, manifest: Mapping[str, Any], files: Collection[str], odd: Mapping[str, str]
) -> Iterator[str]:
    """What a version cannot hold, found before anything is read."""
    for name, kind in odd.items():
        yield f"{name} is {kind}, not a file"
    disks = disks_of(manifest)
    # a disk's file of digests has the size that its disk gives it, and is judged with it
    for name in sorted(set(files) - disks.keys() - {digests_file(disk) for disk in disks}):
        if (size := (folder / name).lstat().st_size) > (MANIFEST_LIMIT if name == MANIFEST else TEXT_LIMIT):
            yield f"{name} has {size} bytes, more than {TEXT_LIMIT}"


def _sums_faults(folder: Path, manifest: Mapping[str, Any], files: Collection[str]) -> Iterator[str]:
    written = read_text(folder / SUMS, TEXT_LIMIT)
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in written.split("\n")[:-1])}
    # an export's sums have the disks that were too large at capture
    known = {
        name: flat or (flat_digest(folder / name) if name in listed else None)
        for name, flat in flat_digests(manifest).items()
    }
    found = sums_of(folder, known, files)
    for name in sorted(listed.keys() - found.keys()):
        yield f"{name} is missing"
    for name in sorted(found.keys() - listed.keys()):
        yield f"{name} does not belong to the master"
    for name in sorted(name for name in listed.keys() & found.keys() if listed[name] != found[name]):
        yield f"{name} has changed"
    if written != "".join(f"{digest}  {name}\n" for name, digest in found.items()):
        yield f"{SUMS} has changed"


def _signature_faults(
    folder: Path, manifest: Mapping[str, Any], files: Collection[str], keys: Sequence[Key], demanded: bool
) -> Iterator[str]:
    signed_by = str(manifest["signed_by"])
    if not keys and demanded:
        yield f"key {signed_by} signed it, but there is no key to verify the signature"
    expected = {name: dict(digests) for name, digests in subjects_of(folder, manifest, files).items()}
    for name in ATTESTATIONS:
        if name not in files:
            yield f"{name} is missing"
        elif keys:
            try:
                by, payload = verified(read_text(folder / name, TEXT_LIMIT), keys)
                statement = parse_json(payload.decode(), AnyObject)
                subjects = {subject["name"]: subject["digest"] for subject in statement["subject"]}
                kind = statement["predicateType"]
            except CheckFailed as error:
                yield f"{name}: {error.message}"
            except (ValueError, KeyError, TypeError) as error:
                yield f"{name} contains no statement: {type(error).__name__}"
            else:
                if by != signed_by:
                    yield f"{name} was signed by key {by}, but its manifest says {signed_by}"
                if kind != _KINDS[name]:
                    yield f"{name} contains another kind of statement: {kind}"
                if subjects != expected:
                    yield f"{name} describes other files"


def subjects_of(folder: Path, manifest: Mapping[str, Any], files: Collection[str]) -> dict[str, statements.Digests]:
    """What the statements are about. A disk too large for a flat digest is named by that of its chunks'."""
    disks = {
        name: {"sha256": disk["sha256"]} if disk["sha256"] else {"goldsmithTree": disk["tree_sha256"]}
        for name, disk in disks_of(manifest).items()
    }
    bound: Collection[str] = (MANIFEST, SBOM)
    if manifest.get("evidence", 1) >= FORMAT:
        bound = sorted({*files} - {*disks, *ATTESTATIONS, SUMS, DOMAIN})
    return {**disks, **{name: {"sha256": file_digest(folder / name)} for name in bound if name in files}}


def flat_digests(manifest: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: disk["sha256"] for name, disk in disks_of(manifest).items()}


def sums_of(folder: Path, disks: Mapping[str, str | None], files: Collection[str]) -> dict[str, str]:
    """The digest of every file but the sums themselves; those of the disks are known."""
    names = [name for name in files if name != SUMS]
    found = {name: disks[name] if name in disks else file_digest(folder / name) for name in names}
    return {name: digest for name, digest in found.items() if digest is not None}
