"""What libvirt lets a bystander see of a running guest: its screen, what it reads and writes, whether it gets on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import libvirt
from lxml import etree

from pipeline.base.errors import GuestError
from pipeline.hypervisor import console
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domain import AGENT_CHANNEL, Spec
from pipeline.hypervisor.progress import BUSY, EVERY, Progress, read_stats

#: Bytes of a picture of the screen: 16 MiB of video memory make less.
PICTURE_LIMIT = 64 << 20


class Observed(Protocol):
    """What watching a guest needs of its machine."""

    spec: Spec
    connection: Connection

    @property
    def domain(self) -> libvirt.virDomain: ...
    @property
    def running(self) -> bool: ...
    def serial(self) -> bytes: ...


def take_picture(connection: Connection, domain: libvirt.virDomain) -> bytes | None:
    """The screen as PNG; None where there is none any more."""
    data = bytearray()

    def take(_stream: object, chunk: bytes, _opaque: object) -> None:
        data.extend(chunk)
        if len(data) > PICTURE_LIMIT:
            raise OverflowError

    try:
        stream = connection.raw.newStream(0)
        domain.screenshot(stream, 0)
        stream.recvAll(take, None)
        stream.finish()
    except (libvirt.libvirtError, OverflowError):
        return None
    return bytes(data)


def read_traffic(connection: Connection, domain: libvirt.virDomain) -> tuple[int, int]:
    """Bytes that the guest has read from its media, and written to its disks, since it was started."""
    read = written = 0
    try:
        media = {
            target.get("dev", "")
            for target in etree.fromstring(domain.XMLDesc(0).encode()).iterfind(
                "devices/disk[@device='cdrom']/target"
            )
        }
        stats = connection.raw.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK)[0][1]
    except libvirt.libvirtError:
        return 0, 0
    for index in range(int(stats.get("block.count", 0))):
        if stats.get(f"block.{index}.name") in media:
            read += int(stats.get(f"block.{index}.rd.bytes", 0))
        else:
            written += int(stats.get(f"block.{index}.wr.bytes", 0))
    return read, written


def progress_check(machine: Observed, busy: float | None = None) -> Callable[[], None]:
    """A function to call while waiting for a guest's sign of life. It raises GuestError where it does not get on."""
    spec = machine.spec
    firmware = spec.kernel is None and not spec.media
    moves = Progress(
        firmware=firmware, kernel=spec.features.kernel_console, busy=busy or BUSY, slowness=spec.slowness
    )
    due = 0.0

    def check() -> None:
        nonlocal due
        now = time.monotonic()
        if now < due or not machine.running:
            return
        due = now + EVERY
        kinds = libvirt.VIR_DOMAIN_STATS_VCPU | libvirt.VIR_DOMAIN_STATS_BLOCK
        try:
            stats = machine.connection.raw.domainListGetStats([machine.domain], kinds)[0][1]
        except (libvirt.libvirtError, IndexError):
            return  # it has just ended: its event says so
        if found := moves.judge(read_stats(stats, now, machine.serial())):
            name, message = found
            raise GuestError(message, name=name, hint=console.HINTS[name])

    return check


def is_agent_connected(domain: libvirt.virDomain) -> bool:
    """Whether the guest's agent has its channel open, by the domain's XML. Raises libvirtError."""
    targets = etree.fromstring(domain.XMLDesc(0).encode()).iterfind("devices/channel/target")
    return any(each.get("name") == AGENT_CHANNEL and each.get("state") == "connected" for each in targets)
