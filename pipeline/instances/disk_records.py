"""Disks of their own: a folder and a record for each, and the lease of the VM that a disk is attached to.

`disks/NAME/record.json` is rewritten whole at each change by the holder of the disk's lock. A disk with an owner is
leased without an end, also while its VM is stopped or deallocated: nobody deletes it by accident. Whoever holds the
locks of a VM and of a disk has taken the VM's first.
"""

from __future__ import annotations

import contextlib
import difflib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field

from pipeline.base import locks
from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import (
    RecordDamaged,
    Shape,
    disk_bytes,
    read_json,
    read_usable,
    remove_tree,
    skip,
    sync_folder,
    write_json,
)
from pipeline.base.names import INSTANCE_NAME, folders
from pipeline.cache.layers import Image, ImageShape

RECORD = "record.json"
#: The beginnings of the name of a disk's folder while it is made, and while it is removed.
NEW, GONE = ".new-", ".gone-"
LOCKS = ".locks"
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


class Disks:
    """The folder of disks of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        return self.root / name

    def names(self) -> list[str]:
        return folders(self.root, INSTANCE_NAME)

    def all(self) -> list[DiskRecord]:
        """All disks whose records can be read, by name; the others are skipped by name."""
        found = []
        for name in self.names():
            try:
                record = self._read(name)
            except RecordDamaged as error:
                skip(error)
                continue
            found += [record] if record is not None else []
        return found

    def owned_by(self, vm_id: str) -> list[DiskRecord]:
        return [disk for disk in self.all() if disk.owner == vm_id]

    def find(self, name: str) -> DiskRecord | None:
        """A disk, None where there is none. Raises RecordDamaged."""
        return self._read(name) if INSTANCE_NAME.fullmatch(name) else None

    def get(self, name: str) -> DiskRecord:
        """A disk. Raises NotFound (disk-unknown), RecordDamaged."""
        found = self.find(name)
        if found is None:
            near = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.6)
            meant = f"did you mean {near[0]}? " if near else ""
            raise NotFound(
                f"there is no disk {name}", name="disk-unknown", hint=f"{meant}goldsmith disk list shows all"
            )
        return found

    def _read(self, name: str) -> DiskRecord | None:
        path = self.folder(name) / RECORD
        data = read_json(path, DiskShape)
        if data is None:
            return None
        if data["name"] != name:
            raise RecordDamaged(path, f"it is the record of {data['name']}", DiskShape.advice())
        return DiskRecord.from_json(data)

    def save(self, record: DiskRecord) -> DiskRecord:
        """Write a record. The caller holds the disk."""
        write_json(self.folder(record.name) / RECORD, record.to_json())
        return record

    def begin(self, record: DiskRecord) -> Path:
        """Make the folder in which a new disk is made: its size counts as promised from now on.

        QEMU's user may search it. The caller holds the disk and the budget. Raises UsageError (disk-exists).
        """
        if self.find(record.name) is not None:
            raise UsageError(
                f"the disk {record.name} exists already",
                name="disk-exists",
                hint=f"choose another name; goldsmith disk show {record.name} shows the existing disk",
            )
        folder = self.root / f"{NEW}{record.name}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        folder.chmod(0o711)
        write_json(folder / RECORD, record.to_json())
        return folder

    def finish(self, folder: Path, record: DiskRecord) -> DiskRecord:
        """Give a finished disk its name, in one rename. The caller holds the disk."""
        folder.rename(self.folder(record.name))
        sync_folder(self.root)
        return record

    def remove(self, name: str, on_gone: Callable[[DiskRecord], None]) -> None:
        """Remove a disk's folder; its name is free once the folder is renamed. The caller holds the disk.

        `on_gone` ends what it has outside of its folder; `sweep` calls it where this process dies.
        """
        record = self.get(name)
        scratch = self.root / f"{GONE}{name}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            self.folder(name).rename(scratch)
            sync_folder(self.root)
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

    # ---- locks ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keep every other command from changing a disk. Raises BuildError (disk-locked) after TIMEOUT."""
        check_disk_name(name)
        lock = FileLock(self._lock_file(name), thread_local=False)
        locks.acquire(lock, f"the disk {name}", deadline=TIMEOUT, name="disk-locked")
        try:
            yield
        finally:
            lock.release()

    # ---- room ----------------------------------------------------------------------------------------------------

    def promised(self) -> int:
        """Bytes by which all disks can still grow, those among them that are being made."""
        making = [(path, read_usable(path / RECORD, DiskShape)) for path in self.root.glob(f"{NEW}*")]
        disks = [(self.folder(disk.name), disk.size) for disk in self.all()]
        disks += [(path, int(record["size"])) for path, record in making if record is not None]
        return sum(max(0, size - disk_bytes(folder)) for folder, size in disks)

    def sweep(self, on_gone: Callable[[DiskRecord], None], *, dry: bool = False) -> list[str]:
        """Remove what interrupted commands left, as far as no command holds that disk; the names.

        `on_gone` ends what such a disk had outside of its folder.
        """
        gone = []
        for path in sorted((*self.root.glob(f"{NEW}*"), *self.root.glob(f"{GONE}*"))):
            name = path.name.removeprefix(NEW).removeprefix(GONE).rpartition("-")[0]
            lock = FileLock(self._lock_file(name), timeout=0, thread_local=False)
            try:
                lock.acquire()
            except (Timeout, OSError):
                continue
            try:
                if not dry:
                    left = read_usable(path / RECORD, DiskShape)
                    if left is not None:
                        on_gone(DiskRecord.from_json(left))
                    remove_tree(path)
                gone.append(path.name)
            finally:
                lock.release()
        return gone

    def _lock_file(self, name: str) -> Path:
        (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
        return self.root / LOCKS / f"{name}.lock"
