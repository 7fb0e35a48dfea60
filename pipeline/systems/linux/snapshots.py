"""Memory snapshots: a disk booted directly as far as its agent, its memory on disk, restored for each warm build.

A snapshot is a layer: its disk is the overlay that the guest wrote while it booted, and beside it lie its memory and
the kernel. Its key has all that decides whether it can be restored; one that cannot is dropped, and the guest boots
cold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import BuildError, GuestError
from pipeline.cache.layers import DISK, SNAPSHOT, SNAPSHOT_LOCK, Image, Layer, Layers, digest, layer_key
from pipeline.guest.access import free_port
from pipeline.guest.disks import create_overlay
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domain import Disk, Forward, Kernel, Spec, domain_xml
from pipeline.hypervisor.machine import Machine, own
from pipeline.systems.linux import direct_boot, set_up_session

VERSION = 1
MEMORY = "memory.save"


def snapshot_key(
    spec: Spec, source: Layer, connection: Connection, size: int | None
) -> tuple[str, dict[str, object]]:
    """The key of the snapshot of a guest like `spec` on `source`, and the inputs that it is made of.

    The machine as it would be built, run, disk and log aside; QEMU's version and the host's processor, because what
    one has written another may not restore.
    """
    nobody = Path("/nowhere")
    neutral = replace(
        spec,
        name="saved",
        run="",
        disks=(Disk(Image(nobody, QCOW2)),),
        serial_log=nobody,
        forwards=(),
        outside="outside" if spec.outside else None,
        nvram=nobody if spec.nvram else None,
    )
    inputs: dict[str, object] = {
        "machine": domain_xml(neutral),
        "qemu": connection.qemu_version,
        "libvirt": connection.version,
        "processor": _processor(),
        "disk size": size,
        "script": digest([set_up_session.grow_script(), set_up_session.forget_script(), direct_boot.STOP]),
    }
    return layer_key(SNAPSHOT, VERSION, inputs, source.key), inputs


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def snapshot_spec(spec: Spec, key: str, tag: str) -> Spec:
    """The guest of a snapshot: its name and cards follow from the key, and its machine can tell that it is a new one.

    libvirt restores a guest under the name that it was saved under, so that one restored guest of a snapshot runs at
    a time. No other guest has these addresses: if a master contains them, the snapshot has leaked into it.
    """
    octets = [key[i : i + 2] for i in range(0, 12, 2)]
    return replace(
        spec,
        name=f"goldsmith-saved-{tag}{key[:12]}",
        generation_id=True,
        access_mac=":".join(["52:54:00", *octets[:3]]),
        outside_mac=":".join(["52:54:00", *octets[3:]]),
    )


def make(
    layers: Layers,
    spec: Spec,
    source: Layer,
    find: Callable[[], set_up_session.DirectBoot | None],
    connection: Connection,
    *,
    size: int | None,
    tag: str,
    logs: Path,
    note: dict[str, Any],
    progress: Callable[[str], None],
) -> Layer:
    """The snapshot of a guest like `spec` on `source`, made now where there is none. Raises BuildError, GuestError.

    `find` reads from the source's disk how to boot it; an existing snapshot does not need that.
    """
    key, inputs = snapshot_key(spec, source, connection, size)
    there = layers.get(key)
    if there is not None and (changed := there.changed()):
        layers.drop(key)
        raise BuildError(changed, name="save-damaged")
    begun = layers.begin(key)
    if isinstance(begun, Layer):
        begun.mark_used()
        return begun
    try:
        entry = find()
        if entry is None:
            raise BuildError("goldsmith's bootstrap did not make its disk", name="guest-unfit")
        progress("booting the guest for a snapshot")
        overlay = create_overlay(begun.path / DISK, source.image, size)
        own(overlay.path, connection)
        booted = replace(
            snapshot_spec(spec, key, tag),
            role="save",
            disks=(Disk(overlay),),
            kernel=entry.write(begun.path),
            forwards=(Forward(free_port(), 22),),
            serial_log=logs / "saved-serial.log",
        )
        timeouts = Timeouts.for_kind(spec.kvm, spec.slowness)
        with Machine(connection, booted, logs) as machine:
            agent = machine.wait_agent(timeouts.boot, timeouts.login_grace)
            for script in (set_up_session.grow_script(), set_up_session.forget_script()):
                done = agent.execute(["/bin/sh", "-s"], stdin=script, deadline=timeouts.command)
                if done.code != 0:
                    raise GuestError(f"the guest cannot be saved: {done.stderr.strip()}", name="guest-unfit")
            agent.execute(["/bin/sync"], deadline=timeouts.command)
            progress("saving the guest's memory")
            machine.save(begun.path / MEMORY)
        size_on_disk = (begun.path / MEMORY).stat().st_blocks * 512
        return begun.commit(
            stage=SNAPSHOT,
            inputs=inputs,
            source=source.key,
            image=overlay,
            title="saved guest",
            facts={"memory": size_on_disk},
            **note,
        )
    except BaseException:
        begun.discard()
        raise


def kernel(layer: Layer) -> Kernel:
    """The kernel that a restored guest was started by; a guest that restarts itself boots its disk."""
    return Kernel(layer.path / "vmlinuz", layer.path / "initrd.img", "")


def take(layer: Layer) -> FileLock | None:
    """The right to run the one guest of a snapshot; None where another build has it."""
    lock = FileLock(layer.path / SNAPSHOT_LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise BuildError(f"{layer.path} cannot be locked: {error}", name="layer-locked") from None
    return lock
