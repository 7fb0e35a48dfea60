"""The direct boot of a build guest, as far as its agent, and the script that then sets up the build's session.

A guest that goldsmith's own bootstrap made is started by its kernel, without boot loader and cloud-init, up to
``basic.target``: the agent answers, and there is no network, no sshd, no key and no user. A script over the agent
sets up the session. So a cold start is short, and a snapshot (a warm start) holds nothing of any build.

Any other Linux disk boots normally, and cloud-init sets up the session from a seed.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import GoldsmithError
from pipeline.cache.layers import Image
from pipeline.disk.questions import Question
from pipeline.guest.access import BUILD_USER
from pipeline.systems.linux.direct_boot import ENTERED

if TYPE_CHECKING:
    from pipeline.hypervisor.domain import Kernel

#: An initramfs of all modules is unpacked, and what stays of it is packed again.
BOOT_FILES = Question("boot files", "pipeline.systems.linux.boot_files:boot_files", limit=192 << 20)
#: What a kernel takes (COMMAND_LINE_SIZE of x86), in printable letters.
COMMAND_LINE = re.compile(r"[ -~]{1,2047}")
#: What Linux (5.18 on) says when the generation id of its machine has changed.
RESEEDED = "crng reseeded due to virtual machine fork"


@dataclass(frozen=True)
class DirectBoot:
    """What boots a disk directly: by its own kernel, as far as its agent."""

    kernel: bytes
    initrd: bytes
    command_line: str

    def write(self, folder: Path) -> Kernel:
        """Put kernel and initramfs where qemu can read them."""
        from pipeline.hypervisor.domain import Kernel

        image, initrd = folder / "vmlinuz", folder / "initrd.img"
        image.write_bytes(self.kernel)
        initrd.write_bytes(self.initrd)
        return Kernel(image, initrd, self.command_line)


def find(image: Image, within: Path) -> DirectBoot | None:
    """How to boot a disk's own kernel as its GRUB would, or None where the disk is not of the kind that we know."""
    from pipeline.disk import sandbox

    try:
        answer = sandbox.ask(BOOT_FILES, image.path, image.format.key, within=within)
    except (GoldsmithError, OSError):
        return None
    if not isinstance(answer.value, str) or len(answer.blobs) != 2 or not COMMAND_LINE.fullmatch(answer.value):
        return None
    return DirectBoot(*answer.blobs, answer.value)


@dataclass(frozen=True)
class Card:
    """A network card: the address it was made with, and the one it is to have (None: the same)."""

    made: str
    address: str | None
    outside: bool


def new_mac() -> str:
    """A random address in the range that is QEMU's and KVM's by custom."""
    return ":".join(["52", "54", "00", *(f"{byte:02x}" for byte in secrets.token_bytes(3))])


def grow_script() -> str:
    """Grow the root partition and its file system to the disk: behind a snapshot it cannot grow any more."""
    return HEAD + _GROW


def forget_script() -> str:
    """Remove what the session of an earlier build left on a step's layer: a snapshot holds no user and no key."""
    return "\n".join([HEAD, f"user={BUILD_USER}", _FORGET])


def set_up_script(public_key: str, cards: Sequence[Card]) -> str:
    """The script that sets up the session of this build; it runs as root over the agent.

    Everything that a guest can have in common with another one restored from the same snapshot is made anew first:
    entropy, clock, machine-id and what has read it, MAC addresses. generalize takes all of it away again.
    """
    lines = [
        HEAD,
        f"seed={shlex.quote(base64.b64encode(secrets.token_bytes(64)).decode())}",
        f"now={time.time():.3f}",
        f"machine={secrets.token_hex(16)}",
        f"user={BUILD_USER}",
        f"key={shlex.quote(public_key)}",
        _ANEW,
        _GROW,
        "mkdir -p /etc/systemd/network",
        *(f"card{number}=$(name {card.made})" for number, card in enumerate(cards)),
        *(_network(number, card) for number, card in enumerate(cards)),
        _SET_UP,
        _SETTLE,
    ]
    return "\n".join(lines) + "\n"


def _network(number: int, card: Card) -> str:
    """The access card leads nowhere (no routes, no names); the outside card is the default route."""
    address = f"[Link]\\nMACAddress={card.address}\\n" if card.address else ""
    dhcp = "" if card.outside else "[DHCPv4]\\nUseRoutes=no\\nUseDNS=no\\n"
    required = "[Link]\\nRequiredForOnline=no\\n" if card.outside else ""
    text = f"[Match]\\nName=%s\\n{address}{required}[Network]\\nDHCP=ipv4\\n{dhcp}"
    return f"printf '{text}' \"$card{number}\" >/etc/systemd/network/10-goldsmith-{number}.network"


HEAD = r"""
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# no subprocess where the shell can do it itself: each costs a tenth of a second under TCG
name() {
    for card in /sys/class/net/*; do
        read -r address <"$card/address"
        [ "$address" != "$1" ] || echo "${card##*/}"
    done
}
"""

# dmesg is told by the caller; the seed is mixed in whether or not the kernel has noticed that it is another guest
_ANEW = r"""
echo "$seed" | base64 -d >/dev/urandom
date -u -s "@$now" >/dev/null
echo "$machine" >/etc/machine-id
if [ -e /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then cp /etc/machine-id /var/lib/dbus/; fi
rm -rf /var/log/journal/* /run/log/journal/* /var/lib/systemd/random-seed
systemctl restart systemd-journald.service & journal=$!
"""

_FORGET = r"""
if id "$user" >/dev/null 2>&1; then userdel --force --remove "$user" 2>/dev/null; fi
rm -f "/etc/sudoers.d/90-$user" /etc/systemd/network/10-goldsmith-*.network /etc/ssh/ssh_host_*
"""

# the outside network is waited for where its card is plugged in
_SETTLE = r"""
file=/etc/systemd/network/10-goldsmith-1.network
if [ -e "$file" ]; then
    card=$(sed -n 's/^Name=//p' "$file")
    # a link that is down is no reason to wait, nor to fail: a step without network has it unplugged
    if [ "$(cat "/sys/class/net/$card/carrier")" = 1 ]; then
        /lib/systemd/systemd-networkd-wait-online -i "$card" --timeout=30 || true
    fi
fi
"""

_GROW = r"""
set -- $(findmnt -n -o SOURCE,FSTYPE /)
# a subvolume stands in brackets behind its device
root=${1%%[*} kind=$2
part=/sys/class/block/${root#/dev/}
# a root in a logical volume keeps its size
if [ -e "$part/partition" ]; then
    disk=$(readlink -f "$part/..")
    read -r whole <"$disk/size"
    read -r start <"$part/start"
    read -r size <"$part/size"
    # growpart takes a second to find that there is nothing to do; less than 2 MiB is alignment and the second GPT
    if [ "$((whole - start - size))" -gt 4096 ]; then
        growpart "/dev/${disk##*/}" "$(cat "$part/partition")" >/dev/null || [ $? = 1 ]
        case $kind in
        xfs) xfs_growfs / >/dev/null ;;
        btrfs) btrfs filesystem resize max / >/dev/null ;;
        *) resize2fs "$root" 2>/dev/null ;;
        esac
    fi
fi
"""

_SET_UP = r"""
wait "$journal"
: >ENTERED
# it has its address by the time that the rest is done
systemctl start systemd-networkd.service & network=$!
# a layer of a step has the user already, with the key of the build that made it
id "$user" >/dev/null 2>&1 ||
    useradd --create-home --shell /bin/sh --comment "goldsmith build user" "$user"
(umask 077; mkdir -p "/home/$user/.ssh"; echo "$key" >"/home/$user/.ssh/authorized_keys")
chown -R "$user:$user" "/home/$user/.ssh"
rm -f "/etc/sudoers.d/90-$user"
(umask 337; echo "$user ALL=(ALL) NOPASSWD:ALL" >"/etc/sudoers.d/90-$user")
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C '' -f /etc/ssh/ssh_host_ed25519_key
skip() {
    mkdir -p "/run/systemd/system/$1.d"
    printf '[Unit]\n%s\n' "$2" >"/run/systemd/system/$1.d/10-goldsmith.conf"
}
# its login needs no systemd of its own, which takes a second to come up under TCG
skip "user@$(id -u "$user").service" ConditionPathExists=/nonexistent
# Azure's agent has nothing to do while an image is built, but to look for Azure; as a condition it is no failure
skip walinuxagent.service ConditionVirtualization=microsoft
wait "$network"
systemctl start systemd-user-sessions.service ssh.service default.target
""".replace("ENTERED", ENTERED)
