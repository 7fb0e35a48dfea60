"""Capture: a disk that was generalized outside a build becomes a master, through the same gates as any other.

A file that somebody prepared and the disks of a VM take the same path: a definition whose source is a disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.base import scratch
from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import UsageError
from pipeline.base.store import Store
from pipeline.cache.layers import Image
from pipeline.definition import load
from pipeline.definition.units import LEAST_MEMORY
from pipeline.disk.mapping import chain_extents
from pipeline.disk.transfer import convert
from pipeline.engine import runner
from pipeline.gallery import Version
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record
from pipeline.operations.create import OnProgress, system_of
from pipeline.operations.generalize import refuse_running, refuse_specialized

_MIB = 1 << 20


@dataclass(frozen=True)
class PreparedDataDisk:
    """A data disk that belongs to a prepared OS disk. `size` in bytes; `format` is a registered format's name."""

    lun: int
    path: Path
    format: str
    size: int
    caching: str


@dataclass(frozen=True)
class PreparedDisk:
    """A disk that was generalized outside a build, and what its master is to be.

    `waive` is the reason for each check that may fail. `more` are further keys of the definition.
    """

    image: str
    summary: str
    path: Path
    format: str
    os: str
    generations: Sequence[int] = ()
    accounts: Sequence[str] = ()
    waive: Mapping[str, str] = field(default_factory=dict)
    data_disks: Sequence[PreparedDataDisk] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def definition_keys(self) -> dict[str, Any]:
        """The definition that captures it."""
        disk: dict[str, Any] = {"path": str(self.path.absolute()), "format": self.format}
        keys: dict[str, Any] = {
            "goldsmith": 1,
            "summary": self.summary,
            "source": {"disk": disk},
            "os": self.os,
            "generalize": {"agent": "outside"},
            **({"generations": sorted(set(self.generations))} if self.generations else {}),
            **({"accounts": list(self.accounts)} if self.accounts else {}),
            **({"waive": dict(self.waive)} if self.waive else {}),
            **self.more,
        }
        if self.data_disks:
            disk["data_disks"] = [
                {"lun": each.lun, "path": str(each.path.absolute()), "format": each.format}
                for each in self.data_disks
            ]
            keys["data_disks"] = [
                {"lun": each.lun, "size": f"{each.size // _MIB} MiB", "caching": each.caching}
                for each in self.data_disks
            ]
        return keys


def capture_disk(store: Store, prepared: PreparedDisk, command: str, listeners: Sequence[Any] = ()) -> runner.Outcome:
    """Convert, inspect and test a prepared disk, and store it as a golden master. Raises as a build does."""
    # a normal definition that is not stored as a file: the manifest has its text
    with scratch.folder(store.tmp, "capture") as folder:
        path = folder / "images" / f"{prepared.image}.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(prepared.definition_keys(), sort_keys=False))
        return runner.build(load(path, folder), store, command=command, listeners=listeners)


@dataclass(frozen=True)
class CaptureWishes:
    """The user's wishes for the image of a VM. `accounts` may ship; `waive` as in `PreparedDisk`."""

    image: str
    summary: str = ""
    generations: Sequence[int] = ()
    accounts: Sequence[str] = ()
    waive: Mapping[str, str] = field(default_factory=dict)


def capture(
    fleet: Fleet,
    name: str,
    wishes: CaptureWishes,
    command: str,
    on_progress: OnProgress,
    listeners: Sequence[Any] = (),
) -> runner.Outcome:
    """Make a master of the disks of a generalized VM, which stays as it is: stopped and generalized.

    The VM is locked while its disks are copied; the copy is then converted, inspected and proven.

    Raises UsageError (vm-running, vm-not-generalized, capture-data-disks), CheckFailed (not-generalized), BuildError
    (vm-busy), and as a build does.
    """
    with scratch.folder(fleet.store.tmp, "vm-capture") as folder:
        with fleet.operate(name, "capture") as record:
            _refuse_unfit(fleet, record)
            on_progress("copying its disks")
            prepared = _copy_disks(fleet, record, wishes, folder)
        return capture_disk(fleet.store, prepared, command, listeners)


def _refuse_unfit(fleet: Fleet, record: Record) -> None:
    refuse_running(fleet, record)
    if not record.generalized:
        raise UsageError(
            f"{record.name} is not generalized: VMs of its image would be copies of this machine",
            name="vm-not-generalized",
            hint=f"goldsmith vm start {record.name}, then goldsmith vm generalize {record.name} --run",
        )
    # it may have been started since, with --anyway
    refuse_specialized(fleet, record)


def _copy_disks(fleet: Fleet, record: Record, wishes: CaptureWishes, folder: Path) -> PreparedDisk:
    """Copies of a VM's disks that stand on no other file, and the description of their master."""
    version = fleet.gallery.get(record.reference)
    system = system_of(record)
    image = record.image_of_disk
    attached = fleet.attached_disks(record)
    if attached and not system.captures_data_disks:
        raise UsageError(
            f"{record.name} has data disks, and images of {system.name} with data disks are not built yet",
            name="capture-data-disks",
            hint=f"goldsmith vm disk detach {record.name} DISK detaches a disk of its own",
        )
    disk = folder / "disk.qcow2"
    _copy(fleet, image, disk)
    data = []
    for each in attached:
        path = folder / f"data-{each.lun}.qcow2"
        size = _copy(fleet, each.image, path)
        data.append(PreparedDataDisk(each.lun, path, QCOW2.name, size, each.caching))
    return PreparedDisk(
        image=wishes.image,
        summary=wishes.summary or f"captured from the VM {record.name}, which was made from {record.reference}",
        path=disk,
        format=QCOW2.name,
        os=system.os,
        generations=wishes.generations or version.manifest["generations"],
        accounts=wishes.accounts,
        waive=wishes.waive,
        data_disks=data,
        more=_machine_keys(version),
    )


def _copy(fleet: Fleet, image: Image, target: Path) -> int:
    """Write a disk with all that it stands on to a qcow2 file of its own; its virtual size in bytes."""
    with chain_extents(image.path, image.format.key, within=fleet.store.root) as source:
        return convert(source, target, QCOW2.name, timestamp=int(time.time())).size


def _machine_keys(version: Version) -> dict[str, Any]:
    """The keys by which the new master gets the machine, the language and the declared ports of the VM's master."""
    machine = version.manifest.get("machine")
    keys: dict[str, Any] = {}
    if machine:
        memory = max(machine["memory"], LEAST_MEMORY)
        keys["machine"] = {"cpus": machine["cpus"], "memory": f"{memory // _MIB} MiB"}
    return keys | {key: value for key in ("locale", "ports") if (value := version.manifest.get(key))}
