"""libvirt's lock manager, which a host's owner may configure: it keeps the machines of libvirt from a disk in use.

goldsmith changes none of its settings. https://libvirt.org/kbase/locking-lockd.html
"""

from __future__ import annotations

import re
from pathlib import Path

import libvirt

#: libvirt's settings of QEMU, and the socket of its lock daemon.
QEMU_CONF, VIRTLOCKD = Path("/etc/libvirt/qemu.conf"), Path("/run/libvirt/virtlockd-sock")
#: How to start the lock daemon.
START = "systemctl enable --now virtlockd.socket; without systemd: virtlockd -d"
_SETTING = re.compile(r'^[ \t]*lock_manager[ \t]*=[ \t]*"([^"\n]*)"', re.MULTILINE)
#: The manager that locks nothing.
_NONE = "nop"
#: What QEMU writes where another process has locked an image (QEMU, block/file-posix.c).
_IMAGE_LOCKED = re.compile(r"Failed to get .{1,40} lock|Is another process using the image")


def read_lock_manager(settings: Path = QEMU_CONF) -> str | None:
    """The name of libvirt's lock manager for QEMU: lockd, sanlock; None where it has none. Raises OSError."""
    found = _SETTING.findall(settings.read_text(errors="replace"))
    return found[-1] if found and found[-1] not in ("", _NONE) else None


def is_running(manager: str | None) -> bool:
    """Whether a lock manager's daemon is there, as far as its socket shows."""
    return manager != "lockd" or VIRTLOCKD.exists()


def is_disk_in_use(error: libvirt.libvirtError) -> bool:
    """Whether libvirt's lock manager, or QEMU's own lock of images, has refused a disk."""
    busy = error.get_error_code() == libvirt.VIR_ERR_RESOURCE_BUSY
    return bool(busy or _IMAGE_LOCKED.search(error.get_error_message() or ""))
