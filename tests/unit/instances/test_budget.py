"""Memory and disk are given once, processors several times; what does not fit is refused with what it would take."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.errors import HostError, UsageError
from pipeline.instances.budget import (
    PROCESSORS_PER_CORE,
    QEMU_MEMORY,
    Budget,
    Demand,
    free_disk,
    measure_budget,
    read_processors_per_core,
    set_processors_per_core,
)
from pipeline.instances.record import Instances
from pipeline.instances.sizes import SIZES, find_size
from tests.unit.instances.test_record import record

GIB = 1 << 30
ROOMY = Budget(cpus=16, memory=8 * GIB, cpus_taken=0, memory_taken=0, disk=100 * GIB)


def test_what_fits_is_let_in() -> None:
    ROOMY.refuse_excess("web", Demand(16, 8 * GIB - QEMU_MEMORY, 100 * GIB))


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Demand(17, GIB, GIB), "17 processors, and 16 of 16 are free"),
        (Demand(1, 8 * GIB, GIB), "8320 MiB of memory, and 8192 of 8192 are free"),
        (Demand(1, GIB, 101 * GIB), "103424 MiB of disk, and 102400 are free"),
    ],
)
def test_what_does_not_fit_is_named(demand: Demand, words: str) -> None:
    with pytest.raises(HostError) as error:
        ROOMY.refuse_excess("web", demand)
    assert error.value.name == "vm-no-room" and words in error.value.message


def test_a_deallocated_vm_takes_disk_alone(tmp_path: Path) -> None:
    instances = Instances(tmp_path)
    idle = replace(record(), allocated=False, cpus=4, memory=2 * GIB)
    free, taken = measure_budget(instances, [], 100 * GIB), measure_budget(instances, [idle], 100 * GIB)
    assert (taken.cpus_taken, taken.memory_taken) == (0, 0)
    assert free.disk - taken.disk == idle.disk_size == 8 * GIB
    slot = measure_budget(instances, [replace(idle, allocated=True)])
    assert (slot.cpus_taken, slot.memory_taken) == (4, 2 * GIB + QEMU_MEMORY)


def test_disks_of_their_own_and_resource_disks_are_promised(tmp_path: Path) -> None:
    instances = Instances(tmp_path)
    free = measure_budget(instances, [], 100 * GIB).disk
    assert free - measure_budget(instances, [], 100 * GIB, disks=3 * GIB).disk == 3 * GIB
    with_resource = replace(record(), disk_size=GIB, resource_size=2 * GIB)
    assert free - measure_budget(instances, [with_resource], 100 * GIB).disk == 3 * GIB


def test_a_disk_asks_for_disk_alone() -> None:
    full = Budget(cpus=1, memory=GIB, cpus_taken=1, memory_taken=GIB, disk=GIB)
    full.refuse_excess("the disk data1", Demand(0, 0, GIB), disk_only=True)
    with pytest.raises(HostError) as error:
        full.refuse_excess("the disk data1", Demand(0, 0, 2 * GIB), disk_only=True)
    assert "2048 MiB of disk, and 1024 are free" in error.value.message


def test_what_a_disk_has_taken_already_is_not_counted_twice(tmp_path: Path) -> None:
    instances = Instances(tmp_path)
    made = replace(record(), disk_size=64 << 20)
    folder = instances.add(made)
    before = measure_budget(instances, [made], 100 * GIB).disk
    with (folder / "disk.qcow2").open("wb") as file:
        file.write(b"\1" * (16 << 20))
        os.fsync(file.fileno())
    after = measure_budget(instances, [made], 100 * GIB - (16 << 20)).disk
    # its record takes a block or two of the disk as well
    assert abs(after - before) <= 1 << 20


def test_what_is_free_is_what_the_disk_says(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert 0 <= free_disk(Instances(tmp_path)) <= status.f_blocks * status.f_frsize


def test_processors_are_overcommitted_as_the_administrator_says(tmp_path: Path) -> None:
    instances = Instances(tmp_path)
    cores = len(os.sched_getaffinity(0))
    assert measure_budget(instances, []).cpus == cores * PROCESSORS_PER_CORE
    set_processors_per_core(instances, 2)
    assert read_processors_per_core(instances) == 2
    assert measure_budget(instances, []).cpus == cores * 2


def test_sizes_are_found_as_people_write_them() -> None:
    assert find_size("standard_b1s") is find_size("B1s") is SIZES["Standard_B1s"]
    assert find_size("Small").memory == int(1.75 * GIB)
    with pytest.raises(UsageError) as error:
        find_size("Standard_X")
    assert error.value.name == "size-unknown"
