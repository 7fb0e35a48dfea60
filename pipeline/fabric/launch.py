"""The launch path of every guest that runs from a master: its machine, its card on the fabric, its medium.

A proof's clone and an instance are launched by the same code, so a proof's results hold for later VMs.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.cache.layers import Image
from pipeline.fabric.hardware import Hardware
from pipeline.fabric.instance import Instance
from pipeline.fabric.media import medium_files, write_media
from pipeline.hypervisor.domain import MachineFeatures, Spec, attached

#: QEMU's registered prefix of addresses of cards (https://www.qemu.org/docs/master/system/devices/net.html).
_QEMU_PREFIX = "52:54:00:"


def machine_spec(
    hardware: Hardware,
    *,
    name: str,
    run: str,
    role: str,
    kvm: bool,
    cpus: int,
    memory: int,
    disk: Image,
    serial_log: Path,
    features: MachineFeatures | None = None,
    slowness: float = 1.0,
) -> Spec:
    """A machine of this model with a disk and its data disks, and no network yet. `memory` in bytes."""
    return Spec(
        name=name,
        run=run,
        role=role,
        kvm=kvm,
        cpus=cpus,
        memory=memory,
        disks=attached(disk, hardware.bus),
        serial_log=serial_log,
        firmware=hardware.firmware,
        machine=hardware.machine,
        nic_model=hardware.card,
        virtio=hardware.virtio,
        secure_boot=hardware.secure,
        keys=hardware.keys,
        tpm=hardware.secure,
        features=features or MachineFeatures(),
        slowness=slowness,
        # two guests must not have the same address, and an address must not be pinned to another card
        access_mac=_QEMU_PREFIX + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3)),
    )


def attach_to_fabric(spec: Spec, bridge: str, instance: Instance) -> Spec:
    """The same machine on its wire to the fabric, with the identity that the fabric knows it by."""
    return replace(spec, azure=True, bridge=bridge, access_mac=instance.mac, uuid=instance.vm_id)


def usable_processors(wanted: int, *, kvm: bool, beside: int = 1) -> int:
    """As many processors as are wanted; emulated ones only as far as the host has some for each of `beside` guests.

    Emulated processors that wait for each other's host core burn it: two guests of two on two cores boot slower than
    two guests of one.
    """
    if kvm:
        return wanted
    return max(1, min(wanted, (os.cpu_count() or 1) // beside))


def write_medium(
    path: Path, instance: Instance, *, password: str | None = None, answers: Mapping[str, bytes] | None = None
) -> None:
    """Write the guest's provisioning medium, 0600; with an administrator's password, Windows' one.

    `answers` are the files by which its system configures itself, by their names.
    """
    path.unlink(missing_ok=True)
    write_media(path, {**medium_files(instance, windows_password=password), **(answers or {})})
