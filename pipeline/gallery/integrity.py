"""Whether the gallery is what was captured: every disk against its manifest, every channel against its target."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.base.byte_progress import OnWork, ignore_work
from pipeline.base.errors import GoldsmithError, HostError, UsageError
from pipeline.base.file_errors import describe_os_error, is_limit
from pipeline.base.files import RecordDamaged, kind_of, list_folder
from pipeline.cache.digests import BLOCK, CHUNK, OnBytes, chunk_digests, compare_block_digests, flat_digest, tree_of
from pipeline.gallery import GONE, NEW, OS_DISK, POINT, REFUSED, Gallery, digests_file, disks_of
from pipeline.gallery.links import target_of
from pipeline.gallery.manifest import manifest_of
from pipeline.gallery.master import deleted_meanwhile
from pipeline.gallery.versions import parse


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what was wrong with it; `scratch` is what a dead process left, and no damage."""

    what: str
    wrong: str = ""
    scratch: bool = False
    #: Whether it has no signature. Where a signature is missed, `wrong` says so.
    unsigned: bool = False


#: Files in an image's folder that are neither a version nor a channel.
RECORDS = (REFUSED,)

#: Judges what a version carries besides its disk: the folder, its manifest; what is wrong, or nothing.
Judge = Callable[[Path, Mapping[str, Any]], str]


def verify(
    gallery: Gallery, name: str, only: str | None = None, *, judge: Judge = lambda _folder, _manifest: ""
) -> Iterator[Finding]:
    """Look at all versions and channels of an image, or at one version. Costs a read of every disk's data.

    What another process deletes before it was read whole is left out: it is neither good nor damaged. Raises NotFound
    where that is the version that was asked for.
    """
    looked = False
    for path in list_folder(gallery.root / name):
        is_scratch = path.name.startswith((NEW, GONE, POINT))
        if not is_scratch and only not in (None, path.name):
            continue
        found = _look_at(gallery, name, path, judge, is_scratch=is_scratch)
        if found is not None and os.path.lexists(path):
            looked = looked or not is_scratch
            yield found
    if only is not None and not looked:
        raise deleted_meanwhile(name, only)


def _look_at(gallery: Gallery, name: str, path: Path, judge: Judge, *, is_scratch: bool) -> Finding | None:
    """What is found at a path in an image's folder; None where there is nothing to check."""
    if is_scratch:
        return Finding(f"{name}/{path.name}", "a process that died left this file", scratch=True)
    if path.is_symlink():
        return Finding(f"{name}@{path.name}", _channel(gallery, name, path))
    if parse(path.name):
        wrong, manifest = judge_version(path, name, path.name, judge)
        return Finding(f"{name} {path.name}", wrong, unsigned=not wrong and manifest.get("signed_by") is None)
    if path.name in RECORDS or path.name.startswith("."):
        return None
    try:
        what = kind_of(path.lstat().st_mode)
    except FileNotFoundError:
        return None
    return Finding(f"{name}/{path.name}", f"it is {what}, but neither a version nor a channel")


def _channel(gallery: Gallery, name: str, link: Path) -> str:
    """What is wrong with a channel, or nothing; also where it has moved on or gone meanwhile."""
    target = target_of(link)
    while wrong := _target_fault(gallery, name, target):
        now = target_of(link)
        if now == target:
            break
        target = now
    return wrong


def _target_fault(gallery: Gallery, name: str, target: str) -> str:
    if not target:
        return ""  # gone, or no longer a link
    if not parse(target):
        return f"points to {target}, which is not a version"
    try:
        gallery.get(f"{name}@{target}")
    except RecordDamaged as error:
        return f"points to {target}, whose {error.path.name} cannot be used: {error.why}"
    except UsageError:
        return f"points to {target}, which does not exist"
    return ""


def judge_folder(path: Path, name: str, version: str, judge: Judge, progress: OnWork = ignore_work) -> str:
    """What is wrong with the version in a folder, wherever that lies, or nothing. `progress` follows its disks."""
    return judge_version(path, name, version, judge, progress)[0]


def judge_version(
    path: Path, name: str, version: str, judge: Judge, progress: OnWork = ignore_work
) -> tuple[str, Mapping[str, Any]]:
    """As `judge_folder`, with the version's manifest, which is empty where it cannot be read."""
    manifest: Mapping[str, Any] = {}
    try:
        manifest = manifest_of(path)
        return _judge_all(path, manifest, name, version, judge, progress), manifest
    except RecordDamaged as error:
        wrong = f"{error.path.name} cannot be used: {error.why}"
    except HostError:
        raise  # this host cannot look at it: that is no damage
    except GoldsmithError as error:
        wrong = f"cannot be verified: {error.message}"
    except PermissionError as error:
        raise HostError(
            f"this user cannot read {error.filename}", name="root-needed", hint="sudo goldsmith gallery verify"
        ) from None
    except OSError as error:
        if is_limit(error):
            raise describe_os_error(error) from None
        of = f"{Path(os.fsdecode(error.filename)).name}: " if error.filename else ""
        wrong = f"cannot be read: {of}{error.strerror}"
    return wrong, manifest


def _judge_all(
    path: Path, manifest: Mapping[str, Any], name: str, version: str, judge: Judge, progress: OnWork
) -> str:
    if (manifest["version"], manifest["name"]) != (version, name):
        return f"its manifest belongs to {manifest['name']} {manifest['version']}"
    for file, record in disks_of(manifest).items():
        if wrong := _judge_disk(path / file, record, progress):
            return wrong
    return judge(path, manifest)


def _judge_disk(path: Path, record: Mapping[str, Any], progress: OnWork) -> str:
    return next(_disk_faults(path, record, "its disk" if path.stem == OS_DISK else path.name, progress), "")


def _disk_faults(path: Path, record: Mapping[str, Any], whose: str, progress: OnWork) -> Iterator[str]:
    """What is wrong with a disk, cheapest first; nothing behind the first is looked at."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        yield f"{whose} is missing"
        return
    if not stat.S_ISREG(mode):
        yield f"{whose} is {kind_of(mode)}, not a file"
        return
    if record["chunk_size"] != CHUNK:
        yield f"its manifest has digests of {record['chunk_size']} bytes each, but goldsmith uses {CHUNK}"
    if path.stat().st_size != record["size"]:
        yield f"{whose} has {path.stat().st_size} bytes, not {record['size']}"
    faults = _chunk_faults if record.get("chunks_sha256") else _block_faults
    yield from faults(path, record, whose, partial(progress, f"verifying {path.name}"))
    if (
        record["sha256"] is not None
        and flat_digest(path, partial(progress, f"sha256 of {path.name}")) != record["sha256"]
    ):
        yield f"its manifest's sha256 does not match {whose}"


def _block_faults(path: Path, record: Mapping[str, Any], whose: str, progress: OnBytes) -> Iterator[str]:
    """A disk against its tree digest, and against the file of its blocks' digests, which says where it differs."""
    blocks = path.with_name(digests_file(path.name))
    if not record.get("digests"):
        if chunk_digests(path, progress).tree != record["tree_sha256"]:
            yield f"{whose} has changed"
        return
    if record["digests"]["block_size"] != BLOCK:
        yield f"{blocks.name} has blocks of {record['digests']['block_size']} bytes, but goldsmith uses {BLOCK}"
    try:
        found = compare_block_digests(path, blocks, progress)
    except FileNotFoundError:
        yield f"{blocks.name} is missing"
        return
    except ValueError as error:
        yield f"{blocks.name}: {error}"
        return
    if found.tree != record["tree_sha256"]:
        first = found.first_changed
        where = "" if first is None else f": {found.changed} blocks, the first at byte {first * BLOCK}"
        yield f"{whose} has changed{where}"
    elif found.changed:
        yield f"{blocks.name} has changed: {found.changed} digests do not match {whose}"


def _chunk_faults(path: Path, record: Mapping[str, Any], whose: str, progress: OnBytes) -> Iterator[str]:
    """A disk against the chunks' digests in a manifest of an older version."""
    expected = record["chunks_sha256"]
    if record.get("tree_sha256") not in (None, tree_of(expected)):
        yield f"its manifest's tree_sha256 does not match {whose}"
    found = chunk_digests(path, progress)
    if len(found.chunks) != len(expected):
        yield f"its manifest has {len(expected)} digests of {whose}, not {len(found.chunks)}"
        return
    wrong = [n for n, (a, b) in enumerate(zip(found.chunks, expected, strict=True)) if a != b]
    if wrong:
        yield f"{whose} has changed: {len(wrong)} chunks, the first at byte {wrong[0] * CHUNK}"
