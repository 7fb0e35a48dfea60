"""Power of an instance: on and off."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from pipeline.base.errors import GuestError, HostError
from pipeline.fabric.hardware import GEN1, GEN2, GEN2_SECURE, Hardware
from pipeline.fabric.launch import attach_to_fabric, machine_spec, usable_processors
from pipeline.fabric.registration import Link
from pipeline.hypervisor import accelerator
from pipeline.hypervisor.domain import FLUSHED, Disk, MachineFeatures, Spec
from pipeline.hypervisor.machine import Machine, own
from pipeline.hypervisor.paused import disk_error, is_paused_by_disk
from pipeline.hypervisor.persistent import (
    Power,
    find_domain,
    power_off,
    press_power_button,
    read_power,
    unwatch,
    watch_power,
)
from pipeline.instances.disks import cache_mode, machine_disk
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record
from pipeline.instances.resource_disk import make_resource_disk

#: Seconds between two presses of the power button: a guest that boots does not see the first.
PRESS_EVERY = 10.0


def hardware_of(record: Record) -> Hardware:
    """The machine model of an instance."""
    return GEN1 if record.generation == 1 else GEN2_SECURE if record.secure else GEN2


def domain_name(fleet: Fleet, record: Record) -> str:
    return f"goldsmith-{fleet.store.instances_label}-{record.name}"


def spec_of(fleet: Fleet, record: Record, link: Link, features: MachineFeatures) -> Spec:
    """The machine of an instance on its wire. Its medium is in the drive until it has been provisioned."""
    hardware = hardware_of(record)
    verdict = accelerator.choose("auto", fleet.store)
    kvm = verdict.kind == "kvm"
    spec = machine_spec(
        hardware,
        name=domain_name(fleet, record),
        run=fleet.store.instances_label,
        role="instance",
        kvm=kvm,
        cpus=usable_processors(record.cpus, kvm=kvm),
        memory=record.memory,
        disk=record.image_of_disk,
        serial_log=fleet.logs(record) / "serial.log",
        features=features,
        slowness=verdict.slowness,
    )
    medium = fleet.medium(record)
    spec = replace(spec, disks=_disks(fleet, record, hardware))
    return replace(
        attach_to_fabric(spec, link.bridge, link.instance),
        nvram=fleet.folder(record) / "vars.fd" if hardware.firmware == "efi" else None,
        seed=medium if record.provisioned is None and medium.exists() else None,
        instance=record.id,
        cache=FLUSHED,
    )


def _disks(fleet: Fleet, record: Record, hardware: Hardware) -> tuple[Disk, ...]:
    """The OS disk, the data disks by LUN, and the resource disk, each with its own cache mode."""
    os_disk = record.image_of_disk
    disks = [Disk(replace(os_disk, data=()), hardware.bus, cache=cache_mode(record.os_caching, os_disk))]
    disks += [machine_disk(disk) for disk in fleet.attached_disks(record)]
    if record.resource_size:
        disks.append(make_resource_disk(fleet.folder(record), record.resource_size))
    return tuple(disks)


def switch_on(
    fleet: Fleet, record: Record, link: Link, features: MachineFeatures, cancelled: threading.Event | None = None
) -> Machine:
    """Define the machine and power it on. The caller watches the result, or calls its `leave`.

    Raises BuildError (libvirt-failed), HostError (qemu-access-denied).
    """
    spec = spec_of(fleet, record, link, features)
    for disk in spec.disks:
        own(disk.image.path, fleet.connection)
    if spec.seed is not None:
        own(spec.seed, fleet.connection)
    machine = Machine(fleet.connection, spec, fleet.logs(record), cancelled)
    machine.start()
    return machine


def switch_off(fleet: Fleet, record: Record, *, deadline: float, force: bool) -> None:
    """Switch a machine off by its power button, or at once with `force`.

    Raises GuestError (guest-shutdown-timeout) if the guest has not ended after `deadline` seconds; it then runs on.
    Raises HostError (disk-full, input-output) for a guest that a disk's error has paused: it would lose data.
    """
    domain = find_domain(fleet.connection, record.id)
    if domain is None:
        return
    if not force and is_paused_by_disk(domain):
        error = disk_error(domain)
        hint = (
            f"then goldsmith vm start {record.name} lets it run on; --force cuts its power, and loses what it writes"
        )
        raise HostError(error.message, name=error.name, hint=f"{error.hint}; {hint}")
    if force or read_power(fleet.connection, record.id) is Power.PAUSED:
        power_off(domain)
        return
    changed = threading.Event()
    number = watch_power(fleet.connection, domain, changed.set)
    until = time.monotonic() + deadline
    try:
        while read_power(fleet.connection, record.id) is Power.RUNNING:
            left = until - time.monotonic()
            if left <= 0:
                raise GuestError(
                    f"{record.name} still runs {deadline:.0f} s after its power button was pressed",
                    name="guest-shutdown-timeout",
                    hint=f"goldsmith vm console {record.name} shows what it does; --force cuts its power",
                )
            press_power_button(domain)
            changed.wait(min(left, PRESS_EVERY))
            changed.clear()
    finally:
        unwatch(fleet.connection, number)
