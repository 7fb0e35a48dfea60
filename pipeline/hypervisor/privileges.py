"""What the kernel lets goldsmith do here. Root in a container may lack any of it, so each thing is really tried."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GoldsmithError

TUN = Path("/dev/net/tun")
#: The daemon that writes guests' consoles for libvirt; it listens where root alone may ask.
VIRTLOGD = Path("/run/libvirt/virtlogd-sock")
#: Seconds for one try; a busy emulated host takes two.
TRYING = 30.0
CONTAINER = (
    "run the container with --privileged, or with --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add MKNOD "
    "--device /dev/net/tun --security-opt seccomp=unconfined --security-opt apparmor=unconfined; or use a VM"
)
DAEMONS = (
    "systemctl start virtlogd.socket libvirtd.socket; without systemd, as in a container: virtlogd -d, then "
    "libvirtd -d -t 0 (make setup does either)"
)

#: Capabilities that a build uses, by their number (capabilities(7), linux/capability.h).
CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7,
    "CAP_NET_ADMIN": 12, "CAP_SYS_CHROOT": 18, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27,
}  # fmt: skip

#: As a bootstrap and a build's way out do it, in namespaces that end with the try: nothing of it is left.
_MOUNTS = (
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", "mount -t tmpfs tmpfs /tmp && mkdir /tmp/a /tmp/b && mount --bind /tmp/a /tmp/b"),
)
_NETWORK = (
    *("unshare", "--mount", "--propagation", "private", "--net", "sh", "-c"),
    "mount -t tmpfs tmpfs /run && ip netns add probe && ip link add probe0 type bridge && "
    "ip link add probe1 type veth peer name probe2 netns probe && ip link set probe1 master probe0",
)


@dataclass(frozen=True)
class Lack:
    """What is not allowed here: the finding's name, what was seen, and what makes it right."""

    name: str
    text: str
    fix: str


def missing_capabilities(effective: int) -> list[str]:
    """The names of the capabilities that a build uses and `effective` (the mask of /proc/self/status) lacks. Pure."""
    return [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]


def effective_capabilities() -> int:
    """The mask of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def find_lacks() -> list[Lack]:
    """Try everything, as root. Takes 0.1 s."""
    lacks = []
    if missing := missing_capabilities(effective_capabilities()):
        lacks.append(Lack("capabilities", f"root, but without {', '.join(missing)}", CONTAINER))
    tries: tuple[tuple[str, str, Callable[[], str | None]], ...] = (
        ("mounts", "a bootstrap cannot create mount or process namespaces", lambda: _refused(_MOUNTS)),
        (
            "networks",
            "network namespaces, bridges or veth devices cannot be created for guests",
            lambda: _refused(_NETWORK),
        ),
        ("tun", f"{TUN}, which guests' networks need, cannot be opened", _tun_refused),
    )
    for name, what, attempt in tries:
        if why := attempt():
            lacks.append(Lack(name, f"{what}: {why}", _fix(name)))
    return lacks


def _fix(name: str) -> str:
    if name == "tun" and not TUN.exists():
        return f"modprobe tun; in a container: --device {TUN}"
    return CONTAINER


def _refused(argv: Sequence[str]) -> str | None:
    """Why a program cannot do it, in its own words."""
    try:
        process.run(argv, deadline=TRYING)
    except process.CommandFailed as error:
        return (error.stderr.strip().splitlines() or [error.message])[-1]
    except GoldsmithError as error:
        return error.message
    return None


def _tun_refused() -> str | None:
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return str(error.strerror)
    return None


def log_daemon_refused(path: Path = VIRTLOGD) -> str | None:
    """Why virtlogd does not answer at its socket; None where it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(10)
        try:
            link.connect(str(path))
        except OSError as error:
            return str(error.strerror or error)
    return None
