"""Masters on their way: a folder that holds one version whole, with SHA256SUMS for people; and into a gallery."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import command
from pipeline.definition.rules import IMAGE_NAME
from pipeline.digests import chunk_digests, flat_digest
from pipeline.errors import CheckFailed, UsageError
from pipeline.gallery import MANIFEST, NEW, TOMBSTONES, Gallery, Version, disks_of
from pipeline.gallery.integrity import Judge, judge_folder
from pipeline.gallery.versions import parse
from pipeline.record import remove_tree, sync_folder, sync_tree

SUMS = "SHA256SUMS"
#: What a parcel may hold besides its disks and its manifest.
_EXTRA = re.compile(
    r"(screenshots/[\w.-]+\.png|logs/[\w./-]+\.(log|json)|sbom\.cdx\.json|[a-z]+\.dsse\.json|template\.json|domain\.xml)",
    re.ASCII,
)
#: Seconds to copy one disk.
COPY_DEADLINE = 4 * 3600.0


def export(version: Version, target: Path) -> Path:
    """Copy a version to a new folder; it appears complete, by one rename. Raises UsageError where something is."""
    if target.exists():
        raise UsageError(f"{target} is there already", name="target-exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.mkdir()
    try:
        there = [path for path in sorted(version.path.rglob("*")) if path.is_file() and not path.is_symlink()]
        files = [path for path in there if path.name != SUMS]
        for path in files:
            copy = scratch / path.relative_to(version.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, copy)
        sums = [f"{flat_digest(scratch / p.relative_to(version.path))}  {p.relative_to(version.path)}" for p in files]
        (scratch / SUMS).write_text("\n".join(sums) + "\n")
        flat = {name: digest for digest, _, name in (line.partition("  ") for line in sums)}
        for name, told in disks_of(version.manifest).items():
            same = chunk_digests(scratch / name).chunks == tuple(told["chunks_sha256"])
            if not same or flat[name] != (told["sha256"] or flat[name]):
                raise CheckFailed(f"{version.path / name} is not what was captured", name="master-damaged")
        sync_tree(scratch)
        scratch.rename(target)
    except BaseException:
        remove_tree(scratch)
        raise
    sync_folder(target.parent)
    return target


def take_in(
    gallery: Gallery,
    parcel: Path,
    *,
    judge: Judge = lambda _folder, _manifest: "",
    complete: Callable[[Path, Path], None] = lambda _folder, _final: None,
    returns: bool = False,
) -> Version:
    """Put an exported version into a gallery, under its own name and number; no channel moves.

    Nothing in the parcel is trusted: its disk must be what its manifest says, `judge` must find nothing wrong with
    the rest, and only files that a version has are copied. `complete` writes what hangs on where it lies. One that
    `returns` may have been let go.
    Raises UsageError or CheckFailed.
    """
    manifest = _manifest(parcel)
    name, version = str(manifest["name"]), str(manifest["version"])
    there = gallery.find(name, version)
    if there is not None:
        if disks_of(there.manifest) == disks_of(manifest):
            return there
        raise UsageError(f"{name} {version} is in the gallery already, and another", name="version-exists")
    (gallery.root / name).mkdir(parents=True, exist_ok=True)
    with gallery.hold(name) as folder:
        tombstone = folder / TOMBSTONES / f"{version}.json"
        if tombstone.exists() and not returns:
            raise UsageError(
                f"{name} {version} was let go", name="version-gone", hint=f"its word is in {folder / TOMBSTONES}"
            )
        gallery.sweep(name)
        scratch = folder / f"{NEW}{version}"
        scratch.mkdir()
        try:
            for path in sorted(parcel.rglob("*")):
                inner = str(path.relative_to(parcel))
                known = inner in (*disks_of(manifest), MANIFEST, SUMS) or _EXTRA.fullmatch(inner)
                if known and path.is_file() and not path.is_symlink():
                    (scratch / inner).parent.mkdir(parents=True, exist_ok=True)
                    _copy(path, scratch / inner)
            # the copy is judged, not what it was copied from: that may change meanwhile
            if json.loads((scratch / MANIFEST).read_text()) != manifest:
                raise CheckFailed("the manifest changed while it was read", name="master-damaged")
            if wrong := judge_folder(scratch, name, version, judge):
                raise CheckFailed(f"{parcel}: {wrong}", name="master-damaged")
            complete(scratch, folder / version)
            sync_tree(scratch)
            scratch.rename(folder / version)
        except BaseException:
            remove_tree(scratch)
            raise
        tombstone.unlink(missing_ok=True)
        sync_folder(folder)
    return gallery.get(f"{name}@{version}")


def _manifest(parcel: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((parcel / MANIFEST).read_text())
        name, version = manifest["name"], manifest["version"]
        chunks = [told["chunks_sha256"] for told in disks_of(manifest).values()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{parcel} is no exported master: {error}", name="no-parcel") from None
    if not IMAGE_NAME.fullmatch(str(name)) or not parse(str(version)) or not all(isinstance(c, list) for c in chunks):
        raise UsageError(f"{parcel}: {name} {version} cannot be a master's name", name="no-parcel")
    return dict(manifest)


def _copy(source: Path, target: Path) -> None:
    if source.suffix == ".vhd":
        command.run(["cp", "--sparse=always", "--reflink=auto", source, target], deadline=COPY_DEADLINE)
    else:
        shutil.copyfile(source, target)
    target.chmod(0o444)
