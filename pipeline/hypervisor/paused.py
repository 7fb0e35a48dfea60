"""A guest that stands still because QEMU paused it: the host had no space for what the guest wrote to a disk.

QEMU pauses on such an error instead of passing it on (its `werror=enospc`, which libvirt leaves as it is): the guest
has lost nothing, and goes on with the same write once there is space. Other errors of a disk reach the guest.
"""

from __future__ import annotations

import errno
import time

import libvirt
from lxml import etree

from pipeline.base.errors import GoldsmithError, HostError
from pipeline.base.file_errors import describe_os_error
from pipeline.hypervisor.connection import Connection, translated
from pipeline.hypervisor.persistent import find_domain

#: Seconds that a guest must run on after it was resumed: QEMU repeats the failed write at once.
_RUNS_ON = 2.0


def is_paused(domain: libvirt.virDomain) -> bool:
    """Whether the domain is paused, for whatever reason. Raises BuildError (libvirt-failed)."""
    with translated("reading the state of a domain"):
        return bool(domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED)


def is_paused_by_disk(domain: libvirt.virDomain) -> bool:
    """Whether a disk's error has paused the domain. Raises BuildError (libvirt-failed)."""
    with translated("reading the state of a domain"):
        return bool(domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR])


def disk_error(domain: libvirt.virDomain) -> GoldsmithError:
    """The error of a domain that is paused by a disk: disk-full, or input-output, with the file of the disk.

    Raises BuildError (libvirt-failed).
    """
    with translated("reading the errors of a domain's disks"):
        failed = domain.diskErrors(0)
        tree = etree.fromstring(domain.XMLDesc(0).encode())
    # libvirt knows no disk of machines with NVMe: there it is the host's space all the same
    target, reason = next(iter(failed.items()), ("", libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE))
    source = tree.find(f"devices/disk/target[@dev='{target}']/../source")
    path = source.get("file") if source is not None else None
    number = errno.ENOSPC if reason == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE else errno.EIO
    found = describe_os_error(OSError(number, "", path) if path else OSError(number, ""))
    return HostError(
        f"the guest is paused, because the host could not write its disk: {found.message}",
        name=found.name,
        hint=found.hint,
    )


def read_disk_error(connection: Connection, uuid: str) -> str:
    """Why a disk has paused the domain of an instance, in a sentence; empty for any other domain.

    Raises BuildError (libvirt-failed).
    """
    domain = find_domain(connection, uuid)
    return disk_error(domain).message if domain is not None and is_paused_by_disk(domain) else ""


def resume(domain: libvirt.virDomain) -> None:
    """Let a paused domain run on.

    Raises HostError (disk-full, input-output) if a disk's error pauses it again, BuildError (libvirt-failed).
    """
    with translated("resuming a machine"):
        domain.resume()
    until = time.monotonic() + _RUNS_ON
    while time.monotonic() < until:
        if is_paused_by_disk(domain):
            raise disk_error(domain)
        time.sleep(0.1)
