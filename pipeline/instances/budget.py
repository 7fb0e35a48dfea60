"""The host's resources for the VMs of a store: memory and disk are promised once, processors several times."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from pipeline.base.errors import HostError
from pipeline.base.files import Shape, disk_bytes, read_json, write_json
from pipeline.instances.record import Instances, Record

#: The number of VM processors for each processor of the host, unless its administrator sets another number.
PROCESSORS_PER_CORE = 8
#: Bytes of memory that are kept for the host and goldsmith: twice as much as a build needs besides its guest.
HOST_MEMORY = 1 << 30
#: Bytes of memory that QEMU needs besides the guest's memory.
QEMU_MEMORY = 128 << 20
#: Bytes of disk that are never promised to VMs: records, logs, the next build's first layer.
HOST_DISK = 1 << 30
_SETTINGS = "budget.json"


class _SettingsShape(Shape):
    processors_per_core: int = Field(ge=1, le=64)

    @classmethod
    def advice(cls) -> str:
        return "goldsmith vm budget --processors-per-core N writes it again"


@dataclass(frozen=True)
class Demand:
    """What a VM takes: processors, memory and disk, the last two in bytes."""

    cpus: int
    memory: int
    disk: int


@dataclass(frozen=True)
class Budget:
    """The host's total and what is taken of it. `disk`: bytes that may still be promised."""

    cpus: int
    memory: int
    cpus_taken: int
    memory_taken: int
    disk: int

    def refuse_excess(self, name: str, wanted: Demand, *, disk_only: bool = False) -> None:
        """Raise HostError (vm-no-room) that says what a VM would take more than there is; or a disk alone."""
        lacks = []
        if not disk_only and self.cpus_taken + wanted.cpus > self.cpus:
            lacks.append(f"{wanted.cpus} processors, and {self.cpus - self.cpus_taken} of {self.cpus} are free")
        memory = wanted.memory + QEMU_MEMORY
        if not disk_only and self.memory_taken + memory > self.memory:
            free = max(0, self.memory - self.memory_taken)
            lacks.append(f"{_mib(memory)} MiB of memory, and {_mib(free)} of {_mib(self.memory)} are free")
        if wanted.disk > self.disk:
            lacks.append(f"{_mib(wanted.disk)} MiB of disk, and {_mib(max(0, self.disk))} are free")
        if lacks:
            raise HostError(
                f"there is no room for {name}: it takes {'; '.join(lacks)}",
                name="vm-no-room",
                hint="goldsmith vm budget shows what is taken; goldsmith vm deallocate NAME gives processors and "
                "memory back, goldsmith vm delete NAME the disks too; or take a smaller --size",
            )


def _mib(number: int) -> int:
    return number >> 20


def read_processors_per_core(instances: Instances) -> int:
    """The number of VM processors for each processor of the host. Raises RecordDamaged."""
    found = read_json(instances.root / _SETTINGS, _SettingsShape)
    return int(found["processors_per_core"]) if found else PROCESSORS_PER_CORE


def set_processors_per_core(instances: Instances, number: int) -> None:
    write_json(instances.root / _SETTINGS, {"processors_per_core": number})


def free_disk(instances: Instances) -> int:
    """Bytes that are free on the disk of the instances."""
    status = os.statvfs(instances.root)
    return status.f_bavail * status.f_frsize


def measure_budget(
    instances: Instances, others: Iterable[Record], free: int | None = None, *, disks: int = 0
) -> Budget:
    """The budget of this host with these instances; deallocated instances take only disk.

    `free`: bytes that are free on their disk, by default what the disk says. `disks`: bytes by which disks of their
    own can still grow.
    """
    records = list(others)
    slots = [record for record in records if record.allocated]
    promised = sum(_promised(instances.folder(record.name), record) for record in records)
    return Budget(
        cpus=len(os.sched_getaffinity(0)) * read_processors_per_core(instances),
        memory=_host_memory() - HOST_MEMORY,
        cpus_taken=sum(record.cpus for record in slots),
        memory_taken=sum(record.memory + QEMU_MEMORY for record in slots),
        disk=(free_disk(instances) if free is None else free) - promised - disks - HOST_DISK,
    )


def _promised(folder: Path, record: Record) -> int:
    """Bytes by which the disks of an instance can still grow."""
    size = record.disk_size + record.resource_size
    return max(0, size - disk_bytes(folder)) if folder.is_dir() else size


def _host_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
