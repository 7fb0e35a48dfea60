"""What keeps a version and what lets it go: channels, leases, withdrawals, age, number; and the word that it leaves.

All of it is files in the image's own folder, which may be shared over NFS: `.leases/`, `.withdrawn/`, `.tombstones/`.
Anyone who changes any of them holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.base.disk_format import output_formats
from pipeline.base.errors import CheckFailed, NotFound, UsageError
from pipeline.base.files import (
    RecordDamaged,
    Shape,
    disk_bytes,
    list_folder,
    read_json,
    read_usable,
    skip,
    sweep_unfinished,
)
from pipeline.base.runs import now, remove_tree, sync_folder, write_json
from pipeline.gallery import GOLDEN, GONE, MANIFEST, NEW, POINT, TOMBSTONES, Gallery, Version

LEASES = ".leases"
WITHDRAWN = ".withdrawn"
#: Seconds of a lease that nobody gives an end: the longest build.
LONGEST = 24 * 3600.0
#: The end of a lease that a VM has: none. The year 9999, which other programs can read as a time.
NEVER = 253402300799.0


# ---- leases ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lease:
    """Somebody uses a version. `until` is in seconds since 1970; `pid` is 0 where no process is behind it.

    `instance` is the id of the VM that runs from it: such a lease holds until the VM is deleted, however old it is.
    """

    id: str
    version: str
    why: str
    host: str
    pid: int
    until: float
    instance: str = ""

    @property
    def live(self) -> bool:
        if self.instance:
            return True
        if time.time() >= self.until:
            return False
        return not self.pid or self.host != socket.gethostname() or Path(f"/proc/{self.pid}").exists()


class LeaseShape(Shape):
    """A lease as a file."""

    id: str
    version: str
    why: str
    host: str
    pid: int
    until: float
    instance: str = ""

    @classmethod
    def advice(cls) -> str:
        return "remove the file if the version is not in use; until then the version is kept"


def _read_lease(path: Path) -> Lease | None:
    """The lease of a file, None where it was given back. One that cannot be read holds: somebody meant something."""
    try:
        found = read_json(path, LeaseShape, limit=1 << 16)
    except RecordDamaged as error:
        skip(error)
        return Lease(path.stem, path.stem.rpartition("-")[0], "it cannot be read", "?", 0, time.time() + LONGEST)
    return Lease(**{field: found[field] for field in Lease.__dataclass_fields__ if field in found}) if found else None


def leases(gallery: Gallery, name: str) -> list[Lease]:
    """All leases that hold, oldest first. One that cannot be read holds too: somebody meant something."""
    paths = list_folder(gallery.root / name / LEASES, "[!.]*.json")
    return [lease for path in paths if (lease := _read_lease(path)) and lease.live]


def take_lease(gallery: Gallery, version: Version, why: str, *, seconds: float = LONGEST, pid: int = 0) -> Lease:
    """Keep a version, for so many seconds or until `pid` ends. Raises UsageError when it has gone."""
    lease = Lease(
        f"{version.version}-{secrets.token_hex(4)}",
        version.version,
        why,
        socket.gethostname(),
        pid,
        time.time() + seconds,
    )
    with gallery.hold(version.name) as folder:
        gallery.get(f"{version.name}@{version.version}")
        (folder / LEASES).mkdir(exist_ok=True)
        write_json(folder / LEASES / f"{lease.id}.json", asdict(lease))
    return lease


def release_lease(gallery: Gallery, name: str, lease_id: str) -> None:
    """End a lease. Raises NotFound when there is none of that id, UsageError (lease-of-vm) for a VM's own."""
    path = gallery.root / name / LEASES / f"{lease_id}.json"
    if "/" in lease_id or not path.exists():
        raise NotFound(f"{name} has no lease {lease_id}", name="lease-unknown", hint=f"goldsmith gallery show {name}")
    lease = _read_lease(path)
    if lease is not None and lease.instance:
        raise UsageError(
            f"the lease {lease_id} keeps the disk below a VM or a disk: {lease.why}",
            name="lease-of-vm",
            hint="goldsmith vm delete NAME ends it, with the VM; goldsmith disk delete NAME, with the disk",
        )
    remove_tree(path)


def instance_lease_id(version: str, instance: str) -> str:
    """The id of the lease that an instance has on a version."""
    return f"{version}-{instance.replace('-', '')}"


def lease_to_instance(gallery: Gallery, version: Version, instance: str, why: str) -> Lease:
    """Keep a version until `release_instance`. Taken twice it is one lease. Raises NotFound when it has gone."""
    lease_id = instance_lease_id(version.version, instance)
    lease = Lease(lease_id, version.version, why, socket.gethostname(), 0, NEVER, instance)
    with gallery.hold(version.name) as folder:
        gallery.get(f"{version.name}@{version.version}")
        (folder / LEASES).mkdir(exist_ok=True)
        write_json(folder / LEASES / f"{lease_id}.json", asdict(lease))
    return lease


def release_instance(gallery: Gallery, name: str, version: str, instance: str) -> None:
    """End the lease that an instance has on a version of an image, if it has one."""
    remove_tree(gallery.root / name / LEASES / f"{instance_lease_id(version, instance)}.json")


def leases_of_instance(gallery: Gallery, instance: str) -> list[tuple[str, str]]:
    """The versions that an instance has leases on: image and version."""
    ending = f"*-{instance.replace('-', '')}.json"
    paths = [path for name in gallery.names() for path in list_folder(gallery.root / name / LEASES, ending)]
    return [(path.parent.parent.name, path.stem.rpartition("-")[0]) for path in paths]


def instances_on(gallery: Gallery, name: str, version: str) -> list[Lease]:
    """The leases of the VMs that run from a version."""
    return [lease for lease in leases(gallery, name) if lease.instance and lease.version == version]


@contextlib.contextmanager
def leased(gallery: Gallery, version: Version, why: str) -> Iterator[None]:
    """Hold a version while this process works on it."""
    lease = take_lease(gallery, version, why, pid=os.getpid())
    try:
        yield
    finally:
        with contextlib.suppress(UsageError):
            release_lease(gallery, version.name, lease.id)


# ---- channels, forth and back ------------------------------------------------------------------------------------


def withdrawn(gallery: Gallery, name: str) -> Mapping[str, str]:
    """Versions that somebody took back, and why. No build points a channel at one again."""
    found = {}
    for path in list_folder(gallery.root / name / WITHDRAWN, "[!.]*.json"):
        word = read_usable(path, WithdrawnShape)
        # a mark that cannot be read is a mark all the same
        found[path.stem] = str(word["why"]) if word else "its record of withdrawal cannot be read"
    return found


class WithdrawnShape(Shape):
    """Why a version was taken back."""

    why: str

    @classmethod
    def advice(cls) -> str:
        return "its version stays withdrawn until goldsmith gallery promote"


def promote(gallery: Gallery, version: Version, channel: str) -> None:
    """Point a channel at a version, by hand; what was withdrawn is so no more. Raises CheckFailed (gate-shut).

    Only what was proven, and has no check that failed without a waiver, may become golden.
    """
    if channel == GOLDEN and (why := promotion_blocker(version)):
        raise CheckFailed(
            f"{version.name} {version.version} cannot be golden: {why}",
            name="gate-shut",
            hint=f"build a version that passes with goldsmith build {version.name}; goldsmith gallery list shows "
            "the good versions",
        )
    with gallery.hold(version.name) as folder:
        gallery.promote(version, channel)
        remove_tree(folder / WITHDRAWN / f"{version.version}.json")


def promotion_blocker(version: Version) -> str | None:
    """Which gate a version has not passed, None where it may be golden."""
    if version.manifest.get("state") != "proven":
        return f"its state is {version.manifest.get('state', 'captured')}, not proven"
    if version.manifest.get("start") == "warm":
        return "it was built from a snapshot; build it without --warm"
    by_status: dict[str, list[str]] = {}
    for check in version.manifest.get("checks", ()):
        by_status.setdefault(check["status"], []).append(str(check["id"]))
    for status, words in (("fail", "checks failed"), ("unchecked", "unchecked checks")):
        if status in by_status:
            return f"{words}: {', '.join(by_status[status])}"
    return None


def roll_back(gallery: Gallery, name: str, channel: str, why: str) -> tuple[Version, Version]:
    """Point a channel at the newest good version before its own; from, to. Raises UsageError where there is none."""
    with gallery.hold(name) as folder:
        current = gallery.get(f"{name}@{channel}")
        gone = withdrawn(gallery, name)
        before = [v for v in gallery.versions(name) if v.number < current.number and v.version not in gone]
        good = [version for version in before if promotion_blocker(version) is None]
        if not good:
            raise UsageError(
                f"{name} has no good version before {current.version}",
                name="nothing-to-roll-back-to",
                hint=f"goldsmith gallery list {name} shows all versions; promote a good one with goldsmith gallery "
                "promote",
            )
        # first the mark: a process that dies in between has withdrawn a version and moved nothing
        (folder / WITHDRAWN).mkdir(exist_ok=True)
        write_json(folder / WITHDRAWN / f"{current.version}.json", {"why": why, "when": now()})
        gallery.promote(good[-1], channel)
    return current, good[-1]


# ---- what goes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PruneCandidate:
    """A version that retention deletes, and why. `held`: what protects it all the same. `size`: bytes on disk."""

    version: Version
    why: str
    held: str = ""
    size: int = 0


def prunable_versions(
    versions: Sequence[Version], gone: Mapping[str, str], keep: int | None, days: int | None, today: datetime
) -> list[tuple[Version, str]]:
    """Which versions are too many or too old, oldest first. Only good ones count, and the newest of them stays."""
    good = 0
    going: list[tuple[Version, str]] = []
    for version in reversed(versions):
        proven = promotion_blocker(version) is None and version.version not in gone
        too_many = keep is not None and good >= keep
        good += proven
        if proven and good == 1:
            continue
        age = today - datetime.fromisoformat(str(version.manifest["created"]))
        if too_many:
            going.append((version, f"there are {keep} newer versions"))
        elif days is not None and age > timedelta(days=days):
            going.append((version, f"it is {age.days} days old, and the limit is {days}"))
    return going[::-1]


def prune(
    gallery: Gallery,
    name: str,
    keep: int | None,
    days: int | None,
    *,
    used: Callable[[Version], str] = lambda _version: "",
    dry: bool = False,
) -> list[PruneCandidate]:
    """Delete versions that are too many or too old, but none in a channel, none leased, none with a user in `used`.

    Each that goes leaves a tombstone. `dry` only says what would go.
    """
    found: list[PruneCandidate] = []
    with gallery.hold(name, dry=dry) as folder:
        if not dry:
            sweep(folder)
        held = {lease.version: lease for lease in leases(gallery, name)}
        going = prunable_versions(gallery.versions(name), withdrawn(gallery, name), keep, days, datetime.now(UTC))
        for version, why in going:
            lease = held.get(version.version)
            by = ", ".join(version.channels) or (f"leased: {lease.why}" if lease else used(version))
            found.append(PruneCandidate(version, why, by, disk_bytes(version.path)))
            if not by and not dry:
                delete_version(folder, version, why)
    return found


def delete_version(folder: Path, version: Version, why: str) -> None:
    """Remove a version: first the word about it, then its name in one rename, then its files. The lock is held."""
    delete_with_tombstone(folder, version.version, version.digest, why)


def delete_with_tombstone(folder: Path, number: str, digest: str | None, why: str) -> None:
    """As `delete_version`, by the version's number; `digest` is None where its manifest cannot be read any more."""
    word = {"version": number, "why": why, "when": now(), "digest": digest}
    try:
        _write_tombstone(folder, word)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # versions are deleted because the disk is full: the version's own pages and logs make room for its tombstone
        _remove_extras(folder / number)
        with contextlib.suppress(OSError):
            _write_tombstone(folder, word)
    scratch = folder / f"{GONE}{number}-{secrets.token_hex(4)}"
    (folder / number).rename(scratch)
    sync_folder(folder)
    remove_tree(scratch)
    remove_tree(folder / WITHDRAWN / f"{number}.json")
    # half a version is worse than none without its word: with the whole version gone there may be room for that
    if not (folder / TOMBSTONES / f"{number}.json").exists():
        _write_tombstone(folder, word)


def _write_tombstone(folder: Path, word: Mapping[str, object]) -> None:
    (folder / TOMBSTONES).mkdir(exist_ok=True)
    write_json(folder / TOMBSTONES / f"{word['version']}.json", word)


def _remove_extras(version: Path) -> None:
    """Remove the files of a version that are neither its manifest nor belong to a disk: those may be links."""
    for path in version.rglob("*"):
        suffixes = (".digests", *(row.suffix for row in output_formats()))
        if path.is_file() and path.name != MANIFEST and path.suffix not in suffixes:
            path.unlink()


def sweep(folder: Path, *, dry: bool = False) -> list[str]:
    """Remove what dead processes left in an image's folder, and leases that hold no more. The lock is held.

    Returns the names removed, of leases that just ended none; with `dry` nothing is removed.
    """
    gone = [path for what in (NEW, GONE, POINT) for path in folder.glob(f"{what}*")]
    inner = [folder / each for each in ("", LEASES, WITHDRAWN, TOMBSTONES)]
    if dry:
        return [path.name for path in gone] + [p.name for each in inner for p in sweep_unfinished(each, dry=True)]
    for path in gone:
        remove_tree(path)
    for path in (folder / LEASES).glob("[!.]*.json"):
        lease = _read_lease(path)
        if lease is not None and not lease.live:
            remove_tree(path)
    gone += [path for each in inner for path in sweep_unfinished(each)]
    return [path.name for path in gone]
