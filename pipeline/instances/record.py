"""The record of an instance: its identity, its disks and its user's settings. Each instance has a folder.

`instances/NAME/record.json` is rewritten whole at each change by the holder of the instance's lock. The power state
and the reports of the guest's agent are not in it: both are looked up each time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import Field

from pipeline.base import locks
from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import Shape, remove_tree
from pipeline.base.names import INSTANCE_NAME
from pipeline.base.runs import now
from pipeline.cache.layers import Image
from pipeline.instances.named_records import NamedRecords

#: Seconds to wait for another command that changes the same instance: a stop waits longest, for its guest.
TIMEOUT = 600.0


@dataclass(frozen=True)
class Operation:
    """A change of an instance in progress, and the process that makes it. `began`: that process's start in clock
    ticks.
    """

    id: str
    kind: str
    started: str
    host: str
    pid: int
    began: int

    @classmethod
    def begin(cls, kind: str) -> Operation:
        return cls(secrets.token_hex(4), kind, now(), socket.gethostname(), os.getpid(), process_start(os.getpid()))

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs. A process of another host cannot be checked: it counts as running."""
        return self.host != socket.gethostname() or (self.began > 0 and process_start(self.pid) == self.began)


@dataclass(frozen=True)
class Failure:
    """Why an instance was not provisioned: the error's name, its message, its hint."""

    name: str
    message: str
    hint: str | None
    time: str


@dataclass(frozen=True)
class Attachment:
    """A disk of its own that is attached to an instance. `create_option` is Azure's word: Empty or Attach."""

    disk: str
    id: str
    lun: int
    caching: str
    create_option: str


@dataclass(frozen=True)
class Record:
    """One instance. `memory` in bytes. `disk`: the OS disk with its master's data disks, as `Image.to_json`;
    `disk_size`: the bytes that they can grow to together. `data_disks`: disks of their own that are attached.

    `data_master` is the reference of the master that its data disks stand on, where a reimage gave it another one.

    `os_caching` is Azure's cache mode of the OS disk. `os_disk_size`: the bytes that the user asked for, 0 where it
    is the master's. `resource_size`: bytes of the resource disk, 0 without one.

    `set`: the set that it belongs to, with its fault domain and its update domain there. A `drained` VM gets no new
    requests from endpoints.

    `allocated`: whether its processors, memory and address are reserved for it. `provisioned`: when its agent first
    reported Ready. `size` is the name of an Azure size, if it was made by one. `digest` is the master's.
    """

    id: str
    name: str
    created: str
    host: str
    image: str
    version: str
    digest: str
    system: str
    generation: int
    secure: bool
    size: str | None
    cpus: int
    memory: int
    user: str
    public_key: str
    disk_size: int
    disk: Mapping[str, Any] | None = None
    allocated: bool = True
    generalized: bool = False
    provisioned: str | None = None
    network: str | None = None
    outside: bool = False
    failure: Failure | None = None
    operation: Operation | None = None
    data_disks: tuple[Attachment, ...] = ()
    os_caching: str = "ReadWrite"
    os_disk_size: int = 0
    resource_size: int = 0
    data_master: str | None = None
    set: str | None = None
    fault_domain: int = 0
    update_domain: int = 0
    drained: bool = False

    @property
    def reference(self) -> str:
        return f"{self.image}@{self.version}"

    @property
    def image_of_disk(self) -> Image:
        """The overlay that it writes to. Raises UsageError (vm-incomplete) if it was never made."""
        if self.disk is None:
            raise UsageError(
                f"{self.name} has no disk: its creation was interrupted",
                name="vm-incomplete",
                hint=f"goldsmith vm delete {self.name} --yes, then create it again",
            )
        return Image.from_json(self.disk)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        for key, kind in (("failure", Failure), ("operation", Operation)):
            if values.get(key) is not None:
                values[key] = kind(**{each.name: values[key][each.name] for each in fields(kind)})
        names = [each.name for each in fields(Attachment)]
        attached = values.get("data_disks") or ()
        values["data_disks"] = tuple(Attachment(**{name: each[name] for name in names}) for each in attached)
        return cls(**values)


class _OperationShape(Shape):
    id: str
    kind: str
    started: str
    host: str
    pid: int
    began: int


class _FailureShape(Shape):
    name: str
    message: str
    hint: str | None
    time: str


class _AttachmentShape(Shape):
    disk: str
    id: str
    lun: int = Field(ge=0, le=63)
    caching: Literal["None", "ReadOnly", "ReadWrite"]
    create_option: str


class RecordShape(Shape):
    """`Record` as a file."""

    id: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    name: str = Field(pattern=f"^{INSTANCE_NAME.pattern}$")
    created: str
    host: str
    image: str
    version: str
    digest: str
    system: str
    generation: int
    secure: bool
    size: str | None
    cpus: int = Field(gt=0)
    memory: int = Field(gt=0)
    user: str
    public_key: str
    disk_size: int = Field(ge=0)
    disk: dict[str, Any] | None
    allocated: bool
    generalized: bool
    provisioned: str | None
    network: str | None = None
    outside: bool = False
    failure: _FailureShape | None
    operation: _OperationShape | None
    data_disks: list[_AttachmentShape] = Field(default_factory=list)
    os_caching: Literal["None", "ReadOnly", "ReadWrite"] = "ReadWrite"
    os_disk_size: int = Field(default=0, ge=0)
    resource_size: int = Field(default=0, ge=0)
    data_master: str | None = None
    set: str | None = None
    fault_domain: int = Field(default=0, ge=0)
    update_domain: int = Field(default=0, ge=0)
    drained: bool = False

    @classmethod
    def advice(cls) -> str:
        return "bring the record back from a backup; its disks lie beside it, and goldsmith does not touch them"


def check_name(name: str, longest: int = 63) -> None:
    """Raise UsageError (vm-name) for an invalid name of a VM or host; it has at most `longest` characters."""
    if not INSTANCE_NAME.fullmatch(name) or len(name) > longest:
        raise UsageError(
            f"{name!r} cannot be the name of a VM",
            name="vm-name",
            hint=f"lower case letters, digits and hyphens, at most {longest}, neither first nor last a hyphen",
        )


def new_id() -> str:
    return str(uuid.uuid4())


def process_start(pid: int) -> int:
    """When a process of this host was started, in clock ticks since the host's start; 0 where there is none.

    It tells a process from a later one with the same number (proc(5), field 22).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


class Instances(NamedRecords[Record]):
    """The folder of instances of a store."""

    shape = RecordShape

    def from_json(self, data: Mapping[str, Any]) -> Record:
        return Record.from_json(data)

    def check_name(self, name: str) -> None:
        check_name(name)

    def unknown(self, name: str, meant: str) -> NotFound:
        return NotFound(f"there is no VM {name}", name="vm-unknown", hint=f"{meant}goldsmith vm list shows all")

    def acquire(self, lock: FileLock, name: str) -> None:
        locks.acquire(lock, f"another command for {name}", deadline=TIMEOUT, name="vm-locked")

    def add(self, record: Record, files: Mapping[str, bytes] | None = None) -> Path:
        """Make a new instance's folder with its record and these files, 0600, in one rename.

        QEMU's user may search the folder. The caller holds the instance and the budget.
        """
        folder = self.draft(record, files, mode=0o711)
        (folder / "logs").mkdir()
        self.finish(folder, record)
        return self.folder(record.name)

    def remove(self, name: str) -> None:
        """Remove an instance's folder; its name is free once the folder is renamed. The caller holds the lock."""
        remove_tree(self.unname(name))

    @contextlib.contextmanager
    def hold_budget(self) -> Iterator[None]:
        """Lock the budget while free resources are computed and taken. Raises BuildError (vm-locked)."""
        lock = FileLock(self.lock_file("budget"), thread_local=False)
        locks.acquire(lock, "another command that reserves memory and disk", deadline=TIMEOUT, name="vm-locked")
        try:
            yield
        finally:
            lock.release()
