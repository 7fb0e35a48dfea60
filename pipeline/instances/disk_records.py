"""Disks of their own: a folder and a record for each, and the lease of the VM that a disk is attached to.

`disks/NAME/record.json` is rewritten whole at each change by the holder of the disk's lock. A disk with an owner is
leased without an end, also while its VM is stopped or deallocated: nobody deletes it by accident. Whoever holds the
locks of a VM and of a disk has taken the VM's first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import Field

from pipeline.base import locks
from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import Shape, disk_bytes, read_usable, remove_tree
from pipeline.base.names import INSTANCE_NAME
from pipeline.cache.layers import Image, ImageShape
from pipeline.instances.named_records import GONE, NEW, RECORD, NamedRecords

#: Seconds to wait for another command that changes the same disk: an export waits for its disk's data.
TIMEOUT = 3600.0


@dataclass(frozen=True)
class DiskRecord:
    """One disk. `size` in bytes. `image`: its file with all that it stands on, as `Image.to_json`.

    `create_option` is Azure's word: Empty, FromImage, Import. `source`: the master's reference or the file that it
    was made from. `owner` and `owner_name`: the id and the name of the VM that leases it.
    """

    id: str
    name: str
    created: str
    host: str
    size: int
    format: str
    create_option: str
    image: Mapping[str, Any]
    source: str | None = None
    #: The master that it stands on, which it leases: name and version.
    master: str | None = None
    owner: str | None = None
    owner_name: str | None = None

    @property
    def image_of_disk(self) -> Image:
        return Image.from_json(self.image)

    @property
    def lease(self) -> dict[str, Any]:
        """The lease in Azure's words."""
        if self.owner is None:
            return {"status": "unlocked", "state": "available", "duration": None, "owner": None}
        owner = {"vm": self.owner_name, "vmId": self.owner}
        return {"status": "locked", "state": "leased", "duration": "infinite", "owner": owner}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DiskRecord:
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


class DiskShape(Shape):
    """`DiskRecord` as a file."""

    id: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    name: str = Field(pattern=f"^{INSTANCE_NAME.pattern}$")
    created: str
    host: str
    size: int = Field(gt=0)
    format: Literal["qcow2", "vhd"]
    create_option: str
    image: ImageShape
    source: str | None = None
    master: str | None = None
    owner: str | None = None
    owner_name: str | None = None

    @classmethod
    def advice(cls) -> str:
        return "bring the record back from a backup; the disk lies beside it, and goldsmith does not touch it"


def check_disk_name(name: str) -> None:
    """Raise UsageError (disk-name-invalid) for an invalid name of a disk."""
    if not INSTANCE_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a disk",
            name="disk-name-invalid",
            hint="lower case letters, digits and hyphens, at most 63, neither first nor last a hyphen",
        )


def lease_error(disk: str, owner: str, what: str) -> UsageError:
    """The error for what may not be done to a disk that a VM leases."""
    return UsageError(
        f"the disk {disk} is leased by the VM {owner}: {what}",
        name="disk-leased",
        hint=f"goldsmith vm disk detach {owner} {disk} ends the lease; goldsmith disk show {disk} shows it",
    )


class Disks(NamedRecords[DiskRecord]):
    """The folder of disks of a store."""

    shape = DiskShape

    def from_json(self, data: Mapping[str, Any]) -> DiskRecord:
        return DiskRecord.from_json(data)

    def check_name(self, name: str) -> None:
        check_disk_name(name)

    def unknown(self, name: str, meant: str) -> NotFound:
        return NotFound(f"there is no disk {name}", name="disk-unknown", hint=f"{meant}goldsmith disk list shows all")

    def acquire(self, lock: FileLock, name: str) -> None:
        locks.acquire(lock, f"another command for the disk {name}", deadline=TIMEOUT, name="disk-locked")

    def owned_by(self, vm_id: str) -> list[DiskRecord]:
        return [disk for disk in self.all() if disk.owner == vm_id]

    def begin(self, record: DiskRecord) -> Path:
        """Make the folder in which a new disk is made: its size counts as promised from now on.

        QEMU's user may search it. The caller holds the disk and the budget. Raises UsageError (disk-exists).
        """
        if self.find(record.name) is not None:
            raise UsageError(
                f"the disk {record.name} exists already",
                name="disk-exists",
                hint=f"choose another name; goldsmith disk show {record.name} shows the existing disk, and "
                f"goldsmith vm disk attach VM {record.name} attaches it",
            )
        return self.draft(record, mode=0o711)

    def remove(self, name: str, on_gone: Callable[[DiskRecord], None]) -> None:
        """Remove a disk's folder; its name is free once the folder is renamed. The caller holds the disk.

        `on_gone` ends what it has outside of its folder; `sweep_unheld` calls it where this process dies.
        """
        record = self.get(name)
        scratch = self.unname(name)
        on_gone(record)
        remove_tree(scratch)

    # ---- leases --------------------------------------------------------------------------------------------------

    def lease(self, name: str, vm_id: str, vm_name: str) -> DiskRecord:
        """Lease a disk to a VM. Raises UsageError (disk-leased) for one that a VM leases, this one too."""
        with self.hold(name):
            disk = self.get(name)
            if disk.owner is not None:
                raise lease_error(name, disk.owner_name or disk.owner, "it can be attached to one VM only")
            return self.save(replace(disk, owner=vm_id, owner_name=vm_name))

    def release(self, name: str, vm_id: str) -> None:
        """End the lease that a VM has on a disk, if it has one."""
        with self.hold(name):
            disk = self.find(name)
            if disk is not None and disk.owner == vm_id:
                self.save(replace(disk, owner=None, owner_name=None))

    # ---- room ----------------------------------------------------------------------------------------------------

    def promised(self) -> int:
        """Bytes by which all disks can still grow, those among them that are being made."""
        making = [(path, read_usable(path / RECORD, DiskShape)) for path in self.root.glob(f"{NEW}*")]
        disks = [(self.folder(disk.name), disk.size) for disk in self.all()]
        disks += [(path, int(record["size"])) for path, record in making if record is not None]
        return sum(max(0, size - disk_bytes(folder)) for folder, size in disks)

    def sweep_unheld(self, on_gone: Callable[[DiskRecord], None], *, dry: bool = False) -> list[str]:
        """Remove what interrupted commands left, as far as no command holds that disk; the names.

        `on_gone` ends what such a disk had outside of its folder.
        """
        gone = []
        for path in self.leftovers():
            with self.hold_now(path.name.removeprefix(NEW).removeprefix(GONE).rpartition("-")[0]) as held:
                if not held:
                    continue
                if not dry:
                    left = read_usable(path / RECORD, DiskShape)
                    if left is not None:
                        on_gone(DiskRecord.from_json(left))
                    remove_tree(path)
                gone.append(path.name)
        return gone
