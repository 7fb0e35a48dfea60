"""The persistent domains of instances: found by their identity, read, switched off and removed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import StrEnum

import libvirt
from lxml import etree

from pipeline.hypervisor.connection import Connection, translated
from pipeline.hypervisor.console_log import Position
from pipeline.hypervisor.domain import INSTANCE_NS


class Power(StrEnum):
    """What libvirt says of a domain now."""

    RUNNING = "running"
    PAUSED = "paused"  # by a person, or by QEMU: a disk's write failed, or its guest reported a panic
    OFF = "off"
    ABSENT = "absent"  # libvirt does not know it
    UNKNOWN = "unknown"  # libvirt does not answer


_OFF = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_NOSTATE)
_PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_PMSUSPENDED)


def find_domain(connection: Connection, uuid: str) -> libvirt.virDomain | None:
    """The domain of an instance; None where libvirt has none. Raises BuildError (libvirt-failed)."""
    try:
        return connection.raw.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        with translated("finding a domain"):
            raise


def read_power(connection: Connection, uuid: str) -> Power:
    """The power state of an instance's domain. Raises BuildError (libvirt-failed)."""
    domain = find_domain(connection, uuid)
    if domain is None:
        return Power.ABSENT
    try:
        state, _ = domain.state()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return Power.ABSENT  # removed since
        with translated("reading the power state of a domain"):
            raise
    return Power.OFF if state in _OFF else Power.PAUSED if state in _PAUSED else Power.RUNNING


def list_instances(connection: Connection, store: str) -> dict[str, libvirt.virDomain]:
    """The domains of a store's instances, by the instance's id, whether they run or not. `store` is its label."""
    found = {}
    with translated("listing domains"):
        everything = connection.raw.listAllDomains(0)
    for domain in everything:
        with contextlib.suppress(libvirt.libvirtError):
            text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, INSTANCE_NS, 0)
            mark = etree.fromstring(text.encode())
            if mark.get("store") == store:
                found[mark.get("id", "")] = domain
    return found


def read_console_start(domain: libvirt.virDomain) -> Position | None:
    """Where in its console's log the boot of an instance's domain began; None for one that an older version of
    goldsmith started.
    """
    try:
        mark = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, INSTANCE_NS, 0)
    except libvirt.libvirtError:
        return None
    return Position.parse(etree.fromstring(mark.encode()).get("console", ""))


def power_off(domain: libvirt.virDomain) -> None:
    """Switch off at once; one that is off stays so."""
    with translated("switching a machine off"):
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise


def undefine(domain: libvirt.virDomain) -> None:
    """Remove a domain that is off, with its TPM; the files of its disks and variables are the caller's."""
    with translated("removing a domain"):
        try:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise


def eject_medium(domain: libvirt.virDomain) -> None:
    """Take the medium out of the drive, of the running machine and of its definition. None in it: nothing is done.

    The tray of a guest that has locked it is opened by force.
    """
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    with translated("ejecting the provisioning medium"):
        if domain.isActive():
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        for xml_flags, where in (
            (0, flags & libvirt.VIR_DOMAIN_AFFECT_LIVE),
            (libvirt.VIR_DOMAIN_XML_INACTIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG),
        ):
            root = etree.fromstring(domain.XMLDesc(xml_flags).encode())
            drive = root.find("devices/disk[@device='cdrom']")
            source = drive.find("source") if drive is not None else None
            if drive is None or source is None or not where:
                continue
            drive.remove(source)
            force = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
            domain.updateDeviceFlags(etree.tostring(drive, encoding="unicode"), where | force)


def watch_power(connection: Connection, domain: libvirt.virDomain, on_change: Callable[[], None]) -> int:
    """Call `on_change` at each event of the domain's life; the number by which `unwatch` ends that."""

    def lifecycle(_connection: object, _domain: object, _event: int, _detail: int, _opaque: object) -> None:
        on_change()

    with translated("watching a domain"):
        number: int = connection.raw.domainEventRegisterAny(
            domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None
        )
    return number


def unwatch(connection: Connection, number: int) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        connection.raw.domainEventDeregisterAny(number)


def press_power_button(domain: libvirt.virDomain) -> None:
    """Press the power button. It is not an error if the machine has ended meanwhile."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
