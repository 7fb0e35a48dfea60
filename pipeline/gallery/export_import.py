"""Masters on their way: a folder that holds one version whole, with SHA256SUMS for people; and into a gallery."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.base import process, scratch
from pipeline.base.byte_progress import OnWork, ignore_work
from pipeline.base.disk_format import output_formats
from pipeline.base.errors import CheckFailed, HostError, UsageError
from pipeline.base.files import RecordDamaged, regular_files
from pipeline.base.runs import remove_tree, sync_folder, sync_tree
from pipeline.cache.digests import blocks_size, chunk_digests, flat_digest
from pipeline.gallery import MANIFEST, NEW, TOMBSTONES, Gallery, Version, digests_file, disks_of, mode_of
from pipeline.gallery.integrity import Judge, judge_folder
from pipeline.gallery.manifest import LIMIT as MANIFEST_LIMIT
from pipeline.gallery.manifest import manifest_of, read_manifest, tree_of_disk

SUMS = "SHA256SUMS"
#: What an exported version may hold besides its disks and its manifest.
_EXTRA = re.compile(
    r"(screenshots/[\w.-]+\.png|logs/[\w./-]+\.(log|json)|sbom\.cdx\.json|[a-z]+\.dsse\.json|template(-vhd)?\.json|domain\.xml"
    r"|report\.html)",
    re.ASCII,
)
#: Bytes of one of its files that is neither: the largest serial log seen has 2 MiB. And how many files there may be.
TEXT_LIMIT, MOST_FILES = 64 << 20, 10_000
_VERIFY = "goldsmith gallery verify says what else is damaged"
_AGAIN = "export the master again on its original host; check it there with goldsmith gallery verify"
#: Seconds to copy one disk.
COPY_DEADLINE = 4 * 3600.0


def export(
    version: Version,
    target: Path,
    *,
    judge: Judge = lambda _folder, _manifest: "",
    progress: OnWork = ignore_work,
) -> Path:
    """Copy a version to a new folder; it appears complete, by one rename. `progress` follows the disks' files.

    Raises UsageError (target-exists) where something is, CheckFailed (master-damaged).
    """
    if target.exists() or target.is_symlink():
        raise _target_exists(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    there, odd = regular_files(version.path)
    if odd:
        name, kind = next(iter(odd.items()))
        raise CheckFailed(f"{version.path / name} is {kind}, not a file", name="master-damaged", hint=_VERIFY)
    for name, entry in disks_of(version.manifest).items():
        if name not in there or (version.path / name).stat().st_size != entry["size"]:
            raise CheckFailed(
                f"{version.path / name} has changed since it was captured", name="master-damaged", hint=_VERIFY
            )
    files, large = [name for name in there if name != SUMS], disks_of(version.manifest)
    with scratch.folder_beside(target) as draft:
        for name in files:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(version.path / name, draft / name, mode_of(name), progress)
        flat = {
            name: flat_digest(draft / name, partial(progress, f"sha256 of {name}") if name in large else None)
            for name in files
        }
        (draft / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in flat.items()))
        for name, entry in disks_of(version.manifest).items():
            same = chunk_digests(draft / name).tree == tree_of_disk(entry)
            if not same or flat[name] != (entry["sha256"] or flat[name]):
                raise CheckFailed(
                    f"{version.path / name} has changed since it was captured", name="master-damaged", hint=_VERIFY
                )
        if wrong := judge(draft, version.manifest):
            raise CheckFailed(f"{version.path}: {wrong}", name="master-damaged", hint=_VERIFY)
        sync_tree(draft)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _target_exists(target) from None  # another export was quicker
            raise
    sync_folder(target.parent)
    return target


def _target_exists(target: Path) -> UsageError:
    return UsageError(f"{target} exists already", name="target-exists", hint="name a new folder")


def import_version(
    gallery: Gallery,
    exported: Path,
    *,
    judge: Judge = lambda _folder, _manifest: "",
    complete: Callable[[Path, Path], None] = lambda _folder, _final: None,
    returns: bool = False,
    progress: OnWork = ignore_work,
) -> Version:
    """Put an exported version into a gallery, under its own name and number; no channel moves.

    Nothing in it is trusted: its disk must be what its manifest says, `judge` must find nothing wrong with
    the rest, and it must hold no file that a version has not. `complete` writes what hangs on where it lies. One that
    `returns` may have been pruned. `progress` follows the disks' files.
    Raises UsageError, CheckFailed (master-damaged), HostError (disk-full).
    """
    manifest = _manifest(exported)
    name, version = str(manifest["name"]), str(manifest["version"])
    there = gallery.find(name, version)
    if there is not None:
        if disks_of(there.manifest) == disks_of(manifest):
            return there
        raise UsageError(
            f"the gallery already has another {name} {version}",
            name="version-exists",
            hint="two hosts have made versions of the same name; rename one of the images",
        )
    members = _members(exported, manifest)
    with gallery.hold(name, make=True) as folder:
        _need_room(exported, members, folder)
        tombstone = folder / TOMBSTONES / f"{version}.json"
        if tombstone.exists() and not returns:
            raise UsageError(
                f"{name} {version} was deleted",
                name="version-gone",
                hint=f"its tombstone is in {folder / TOMBSTONES}",
            )
        if (folder / version).exists():
            raise UsageError(
                f"{folder / version} exists already and is damaged",
                name="version-exists",
                hint="goldsmith gallery verify shows the damage; move the folder away, then import again",
            )
        gallery.sweep(name)
        draft = folder / f"{NEW}{version}"
        draft.mkdir()
        try:
            for inner in members:
                (draft / inner).parent.mkdir(parents=True, exist_ok=True)
                _copy(exported / inner, draft / inner, mode_of(inner), progress)
            # the copy is judged, not what it was copied from: that may change meanwhile
            if manifest_of(draft) != manifest:
                raise CheckFailed("the manifest changed while it was read", name="master-damaged", hint=_AGAIN)
            if wrong := judge_folder(draft, name, version, judge, progress):
                raise CheckFailed(f"{exported}: {wrong}", name="master-damaged", hint=_AGAIN)
            complete(draft, folder / version)
            sync_tree(draft)
            draft.rename(folder / version)
        except BaseException:
            remove_tree(draft)
            raise
        remove_tree(tombstone)
        sync_folder(folder)
    return gallery.get(f"{name}@{version}")


def _manifest(exported: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(exported)
    except RecordDamaged as error:
        raise UsageError(
            f"{exported} is not an exported master: {MANIFEST}: {error.why}", name="no-parcel", hint=_AGAIN
        ) from None
    if manifest is None:
        raise UsageError(f"{exported} is not an exported master: it has no {MANIFEST}", name="no-parcel", hint=_AGAIN)
    return manifest


def _members(exported: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of an exported version, if they are those of a master, and of their sizes. Raises CheckFailed."""
    files, odd = regular_files(exported)
    faults = [f"{name} is {kind}, not a file" for name, kind in odd.items()]
    disks = disks_of(manifest)
    digests = {digests_file(name): entry for name, entry in disks.items() if entry.get("digests")}
    if len(files) > MOST_FILES:
        faults.append(f"it has {len(files)} files, more than {MOST_FILES}")
    for name in files:
        size = (exported / name).lstat().st_size
        if name in disks:
            if size != disks[name]["size"]:
                faults.append(f"{name} has {size} bytes, not {disks[name]['size']}")
        elif name in digests:
            if size != blocks_size(int(digests[name]["size"])):
                faults.append(f"{name} has {size} bytes, not {blocks_size(int(digests[name]['size']))}")
        elif name not in (MANIFEST, SUMS) and not _EXTRA.fullmatch(name):
            faults.append(f"{name} is not a file of a master")
        elif size > (MANIFEST_LIMIT if name == MANIFEST else TEXT_LIMIT):
            faults.append(f"{name} has {size} bytes, more than {TEXT_LIMIT}")
    faults += [f"{name} is missing" for name in (*disks, *digests) if name not in files and name not in odd]
    if faults:
        raise CheckFailed(f"{exported}: {faults[0]}", name="master-damaged", hint=_AGAIN)
    return files


def _need_room(exported: Path, members: list[str], folder: Path) -> None:
    needed = sum((exported / name).lstat().st_blocks * 512 for name in members)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HostError(
            f"{exported} needs {needed >> 20} MiB, but {folder} has only {free >> 20} MiB free",
            name="disk-full",
            hint="free space with goldsmith gallery prune and goldsmith clean --max-size SIZE",
        )


def _allocated(path: Path) -> int:
    """The bytes that a file takes on disk; 0 where there is none."""
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _copy(source: Path, target: Path, mode: int, progress: OnWork) -> None:
    """A copy of a regular file, whatever has taken its place meanwhile. `progress` follows that of a disk."""
    if source.suffix in (".digests", *(row.suffix for row in output_formats())):
        whole = _allocated(source)
        process.run(
            ["cp", "--no-dereference", "--sparse=always", "--reflink=auto", source, target],
            deadline=COPY_DEADLINE,
            watch=lambda: progress(f"copying {source.name}", min(_allocated(target), whole), whole),
        )
        progress(f"copying {source.name}", whole, whole)
        if not stat.S_ISREG(target.lstat().st_mode):
            raise CheckFailed(f"{source} is no longer a file", name="master-damaged", hint=_AGAIN)
    else:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file, target.open("xb") as copy:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CheckFailed(f"{source} is no longer a file", name="master-damaged", hint=_AGAIN)
            shutil.copyfileobj(file, copy)
    target.chmod(mode)
