"""The connection to libvirt: one event loop a process, keepalive, and libvirt's errors turned into ours."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt
from lxml import etree

from pipeline.base.errors import BuildError, HostError
from pipeline.hypervisor.lock_manager import is_disk_in_use

URI = "qemu:///system"

_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def _start_event_loop() -> None:
    """libvirt delivers events only while somebody runs its loop; the thread lives as long as the process."""
    global _loop  # noqa: PLW0603  one loop a process is libvirt's own rule
    with _loop_lock:
        if _loop is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints each error on stderr unless told otherwise; ours carry its text
        libvirt.registerErrorHandler(lambda _context, _error: None, None)

        def spin() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        _loop = threading.Thread(target=spin, name="libvirt-events", daemon=True)
        _loop.start()


@dataclass(frozen=True)
class Connection:
    """An open connection to libvirt."""

    raw: libvirt.virConnect

    @functools.cached_property
    def qemu_owner(self) -> tuple[int, int]:
        """User and group id that libvirt runs qemu as, from its capabilities. Raises BuildError (libvirt-failed)."""
        with translated("asking libvirt for its capabilities"):
            tree = etree.fromstring(self.raw.getCapabilities().encode())
        for model in tree.iterfind("host/secmodel"):
            if model.findtext("model") == "dac":
                label = model.findtext("baselabel[@type='qemu']") or model.findtext("baselabel") or "+0:+0"
                user, group = (int(part.lstrip("+")) for part in label.split(":"))
                return user, group
        return 0, 0

    @property
    def version(self) -> str:
        """The version of libvirt. Raises BuildError (libvirt-failed)."""
        with translated("asking libvirt for its version"):
            return _dotted(self.raw.getLibVersion())

    @property
    def qemu_version(self) -> str:
        """The version of QEMU. Raises BuildError (libvirt-failed)."""
        with translated("asking libvirt for QEMU's version"):
            return _dotted(self.raw.getVersion())

    def close(self) -> None:
        try:
            self.raw.close()
        except libvirt.libvirtError:
            return  # the daemon is gone, and the connection with it


def _dotted(number: int) -> str:
    """A version as libvirt counts them: 9 000 000 is 9.0.0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def connect(uri: str = URI) -> Connection:
    """Open libvirt. Raises HostError when its daemon does not answer."""
    _start_event_loop()
    try:
        raw = libvirt.open(uri)
        # a dead daemon is noticed within 25 s instead of never
        raw.setKeepAlive(5, 5)
    except libvirt.libvirtError as error:
        raise HostError(
            f"libvirt does not answer at {uri}: {error.get_error_message()}",
            name="libvirt-unreachable",
            hint="start libvirtd (make setup does); goldsmith doctor shows details",
        ) from None
    return Connection(raw)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn a libvirt error in the body into a BuildError that says what was being done.

    Its name is libvirt-failed, or disk-in-use where another machine has a disk.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        if is_disk_in_use(error):
            raise BuildError(
                f"{what}: {error.get_error_message()}",
                name="disk-in-use",
                hint="another virtual machine or program has one of its disks; lslocks and virsh list show which. "
                "End it, then try again",
            ) from None
        raise BuildError(f"{what}: {error.get_error_message()}", name="libvirt-failed") from None
