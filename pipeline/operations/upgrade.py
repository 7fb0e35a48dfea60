"""Upgrade a set: its VMs are reimaged from another version, one update domain after the other.

The VMs of a domain get no new requests, answer those that they have, get their new OS disk, report Ready and pass
the probe of each endpoint; then the next domain follows. If one does not come up, its domain goes back to the
versions that it had, and the upgrade stops. A VM stays drained until it is done, so an upgrade that was interrupted
is finished by the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from pipeline.base.errors import BuildError, GoldsmithError, Interrupted
from pipeline.base.store import IMAGE_NAME
from pipeline.gallery import Version
from pipeline.instances.endpoints import drain, wait_drained, wait_serving
from pipeline.instances.fleet import CERTIFICATE, Fleet
from pipeline.instances.record import Record
from pipeline.operations.create import Creation, OnProgress, choose_master, forget, wait_ready
from pipeline.operations.reimage import begin, version_reference
from pipeline.operations.sets import DRAIN, members

#: Seconds for a VM that has reported Ready to pass the probes: its services may still start.
PROBE = 300.0
#: Gives VMs, by name, a new OS disk of the version with this reference, and waits until they are Ready.
Renew = Callable[[Fleet, Mapping[str, str]], None]
#: The contents of a VM's files by their names; empty where it has none.
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did: the reference, the VMs that have it now, and those that it left, with the reason."""

    reference: str
    upgraded: tuple[str, ...]
    current: tuple[str, ...]
    left: Mapping[str, str]


def name_target(fleet: Fleet, name: str, to: str | None) -> str:
    """The reference that a set is upgraded to: `to` is one, or a version or a channel of the set's image; by default
    what the set was made from. Raises NotFound (set-unknown)."""
    image = fleet.sets.get(name).image
    if to is None:
        return image
    is_image = "@" in to or (IMAGE_NAME.fullmatch(to) and (fleet.gallery.root / to).is_dir())
    return to if is_image else f"{image.partition('@')[0]}@{to}"


def choose_target(fleet: Fleet, name: str, to: str | None) -> Version:
    """The version for a set. Raises NotFound (set-unknown, gallery-unknown), CheckFailed (image-withdrawn)."""
    return choose_master(fleet.gallery, name_target(fleet, name, to))


def upgrade_set(
    fleet: Fleet,
    name: str,
    to: str | None,
    on_progress: OnProgress,
    *,
    on_begun: Callable[[Creation], None] = lambda _creation: None,
    renew: Renew | None = None,
    drain_for: float = DRAIN,
    probe_for: float = PROBE,
    files: Collection[str] = (),
    also_off: bool = False,
) -> Upgrade:
    """Bring every VM of a set to a version, one update domain after the other. A VM that is off is left, unless
    `also_off`.

    `on_begun` gets each VM whose first boot has begun: its password, if it has one, is stored nowhere. `drain_for`
    and `probe_for`: seconds to answer open requests, and to pass the probes. `files`: the files, such as the custom
    data, that VMs have from their set; one whose file differs is brought up to date, too.

    Raises BuildError (set-upgrade-stopped) where a domain did not come up, and the errors of `choose_target`.
    """
    renew = renew or partial(reimage_all, on_begun=on_begun)
    version = choose_target(fleet, name, to)
    reference = version_reference(version)
    vms = members(fleet, name)
    behind = [record for record in vms if is_behind(fleet, record, reference, files)]
    left = {
        record.name: "it does not run"
        for record in behind
        if not also_off and not record.drained and not fleet.is_on(record)
    }
    pending = [record for record in behind if record.name not in left]
    done: list[str] = []
    for domain in sorted({record.update_domain for record in pending}):
        records = [record for record in pending if record.update_domain == domain]
        names = ", ".join(record.name for record in records)
        on_progress(f"update domain {domain}: {names} to {reference}")
        old_files = {record.name: _read_files(fleet, record.name, files) for record in records}
        try:
            new_files = {file: fleet.sets.read_file(name, file) for file in files}
            wanted = {record.name: reference for record in records}
            contents = dict.fromkeys(wanted, new_files)
            _renew_domain(fleet, name, wanted, renew, drain_for, probe_for, contents)
        except Interrupted:
            raise  # the user wants an end; the next upgrade finishes this domain
        except GoldsmithError as error:
            on_progress(f"update domain {domain}: {error.message}; it goes back")
            _go_back(fleet, name, records, error, renew, drain_for, old_files)
        done += [record.name for record in records]
    if not left:
        # further VMs are made from it; after --to a channel, the next upgrade follows the channel
        fleet.sets.save(replace(fleet.sets.get(name), image=name_target(fleet, name, to)))
    current = tuple(record.name for record in vms if record not in behind)
    return Upgrade(reference, tuple(done), current, left)


def renewed_files(fleet: Fleet, name: str) -> tuple[str, ...]:
    """The files for `upgrade_set` that VMs of a set have from it: its certificate, if it has one."""
    return (CERTIFICATE,) if fleet.sets.read_file(name, CERTIFICATE) else ()


def is_behind(fleet: Fleet, record: Record, reference: str, files: Collection[str]) -> bool:
    """Whether an upgrade to a version has something to do for a VM of a set."""
    return (
        record.reference != reference
        or record.drained
        or any(
            fleet.instances.read_file(record.name, file) != fleet.sets.read_file(record.set or "", file)
            for file in files
        )
    )


def _read_files(fleet: Fleet, name: str, files: Collection[str]) -> Files:
    return {file: fleet.instances.read_file(name, file) for file in files}


def _write_files(fleet: Fleet, contents: Mapping[str, Files]) -> None:
    """Give VMs, by name, these files; their next first boot has them."""
    for name, files in contents.items():
        with fleet.instances.hold(name):
            fleet.instances.get(name)
            for file, data in files.items():
                fleet.instances.write_file(name, file, data)


def _renew_domain(
    fleet: Fleet,
    name: str,
    wanted: Mapping[str, str],
    renew: Renew,
    drain_for: float,
    probe_for: float,
    contents: Mapping[str, Files],
) -> None:
    drain(fleet, wanted)
    wait_drained(fleet, name, wanted, drain_for)  # what is still open then is cut: nobody waits for ever
    _write_files(fleet, contents)
    renew(fleet, wanted)
    drain(fleet, wanted, drained=False)
    wait_serving(fleet, name, wanted, probe_for)


def _go_back(
    fleet: Fleet,
    name: str,
    records: list[Record],
    error: GoldsmithError,
    renew: Renew,
    drain_for: float,
    old_files: Mapping[str, Files],
) -> None:
    """Bring a domain back to the versions of `records`, with the files that they had. Raises BuildError
    (set-upgrade-stopped) in any case."""
    names = ", ".join(record.name for record in records)
    try:
        touched = {record.name: record.reference for record in records if not _is_as_before(fleet, record)}
        _write_files(fleet, old_files)
        if touched:
            _renew_domain(fleet, name, touched, renew, drain_for, PROBE, {})
        drain(fleet, [record.name for record in records], drained=False)
        words = f"{names} went back to {', '.join(sorted({record.reference for record in records}))}"
    except GoldsmithError as second:
        words = f"{names} could not go back: {second.message}"
    raise BuildError(
        f"the upgrade of {name} stopped: {error.message}; {words}",
        name="set-upgrade-stopped",
        hint=f"goldsmith set show {name} shows the versions; withdraw the bad version (goldsmith gallery rollback), "
        f"or mend it and run goldsmith set upgrade {name} again",
        evidence=error.evidence,
    ) from error


def _is_as_before(fleet: Fleet, record: Record) -> bool:
    """Whether a VM still has the disk that it had, and runs from it."""
    current = fleet.instances.get(record.name)
    return current.disk == record.disk and current.provisioned is not None and fleet.is_on(current)


def reimage_all(fleet: Fleet, wanted: Mapping[str, str], on_begun: Callable[[Creation], None]) -> None:
    """Reimage VMs and wait until all have reported Ready. Raises the first error, after the last has ended."""
    cancelled = threading.Event()
    creations: list[Creation] = []
    try:
        for name, reference in wanted.items():
            # a guest that never reported Ready from this disk hears no power button, and has nothing to lose
            never_ready = fleet.instances.get(name).provisioned is None
            creations.append(begin(fleet, name, to=reference, force=never_ready))
            on_begun(creations[-1])
        with ThreadPoolExecutor(max_workers=len(creations)) as pool:
            waits = [
                pool.submit(wait_ready, fleet.store, each.record.name, each.operation, lambda _: None, cancelled)
                for each in creations
            ]
            try:
                errors = [failure for wait in waits if (failure := wait.exception()) is not None]
            except BaseException:
                cancelled.set()
                raise
    finally:
        for each in creations:
            forget(fleet, each.record.name, each.operation)
    if errors:
        raise errors[0]
