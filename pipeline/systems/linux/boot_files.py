"""Kernel and initramfs off a disk at rest, for a direct boot; in the sandbox's worker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.disk.initramfs import reduced
from pipeline.disk.questions import Asked
from pipeline.systems.linux.direct_boot import ENTERED, NEEDED, STOP

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk

#: Bytes of a kernel or an initramfs at most: Debian 12's are 8 and 40 MiB.
LARGEST = 512 << 20

#: Units that the direct boot needs; a link in their place masks them.
_UNITS = ("systemd-networkd", "qemu-guest-agent")
_ENTRY = re.compile(r"^menuentry .*?^}", re.MULTILINE | re.DOTALL)
_LINUX = re.compile(r"^\s*linux\s+(/\S+)\s+(.*)$", re.MULTILINE)
_INITRD = re.compile(r"^\s*initrd\s+(/\S+)\s*$", re.MULTILINE)


#: Drivers of a build guest's machine, by a part of their path; modules of these folders are small and often needed.
_DRIVERS = (
    "virtio",
    "/ext4/",
    "/jbd2/",
    "mbcache",
    "failover",
    "/ata/",
    "/cdrom/",
    "scsi_mod",
    "scsi_common",
    "sr_mod",
)
#: What a root in a logical volume needs.
_LOGICAL = ("/md/dm-",)
_FOLDERS = frozenset({"arch", "block", "crypto", "lib"})
_MODULE = re.compile(r"^(?:usr/)?lib/modules/[^/]+/kernel/([^/]+)/.*\.ko(?:\.\w+)?$")
#: Debian's way from its initramfs to the root asks udev for every device and runs some forty scripts; emulated, that
#: is three seconds. This one knows what machine it is on. What it leaves in /run spares systemd what no build has a
#: use for, each a process or two: generators, mounts, modules ahead of need, udev's tour of all devices.
_SHORT_WAY = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
long() { umount /run /dev /proc /sys 2>/dev/null; exec /init "$@"; }
[ -x /usr/bin/run-init ] || [ -x /bin/run-init ] || exec /init "$@"
mkdir -p /dev /proc /sys /run /root
mount -t devtmpfs -o mode=0755 udev /dev && mount -t proc proc /proc && mount -t sysfs sysfs /sys || long "$@"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run || long "$@"
id= flags=
for word in $(cat /proc/cmdline); do
    case $word in
    root=UUID=*) id=${word#root=UUID=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    esac
done
[ "$id" ] || long "$@"
for driver in virtio_pci virtio_blk; do modprobe "$driver" || long "$@"; done
tries=0
while ! root=$(blkid -U "$id"); do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || long "$@"
    sleep 0.05
done
kind=$(blkid -o value -s TYPE "$root")
modprobe "$kind" || long "$@"
mount -t "$kind" -o "ro$flags" "$root" /root || long "$@"
units=/run/systemd/system
mkdir -p /run/systemd/system-generators $units/systemd-udev-trigger.service.d $units/systemd-networkd.socket.d
for name in cloud-init-generator systemd-cryptsetup-generator systemd-gpt-auto-generator \\
    systemd-hibernate-resume-generator systemd-integritysetup-generator systemd-rc-local-generator \\
    systemd-run-generator systemd-system-update-generator systemd-sysv-generator systemd-veritysetup-generator; do
    ln -s /dev/null "/run/systemd/system-generators/$name"
done
# skipped, not masked: a step may still enable them
for name in dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \\
    sys-kernel-config.mount modprobe@.service kmod-static-nodes.service systemd-pstore.service \\
    systemd-update-utmp.service e2scrub_reap.service; do
    mkdir "$units/$name.d"
    printf '[Unit]\\nConditionPathExists=/nonexistent\\n' >"$units/$name.d/10-goldsmith.conf"
done
# before the session is set up there is no network: a step's layer has one, whose leases would get into a snapshot
printf '[Unit]\\nConditionPathExists=ENTERED\\n' >$units/systemd-networkd.socket.d/10-goldsmith.conf
cat >$units/systemd-udev-trigger.service.d/10-goldsmith.conf <<'END'
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add -s virtio -s virtio-ports -s block -s net -s mem -s misc -s rtc
ExecStart=-udevadm trigger --action=add -s tty -y ttyS*
END
for part in dev proc sys run; do mount -n -o move /$part /root/$part || exit 1; done
exec run-init /root /sbin/init "$@" </root/dev/console >/root/dev/console 2>&1
""".replace("ENTERED", ENTERED)


def boot_files(asked: Asked) -> str | None:
    """The command line of a disk's own kernel; kernel and initramfs are blobs. None: not of the kind that we know."""
    with asked.disk() as disk:
        found = _boot_files(disk)
        volume = None if found is None else disk.root_volume
    if found is None or volume is None:
        return None
    kernel, ramdisk, words = found
    more = (f"/{volume.kind}/", *(_LOGICAL if volume.name else ()))
    asked.blobs += [kernel, short(ramdisk, more)]
    return command_line(words)


def boots_directly(disk: Disk) -> bool:
    """Whether a disk's own kernel can be started without its boot loader."""
    return _boot_files(disk) is not None


def _boot_files(disk: Disk) -> tuple[bytes, bytes, str] | None:
    root = disk.root
    masked = any(root.read_link(f"/etc/systemd/system/{unit}.service") is not None for unit in _UNITS)
    if masked or not all(root.exists(path, follow=False) for path in NEEDED):
        return None
    entry = _ENTRY.search(root.text("/boot/grub/grub.cfg"))
    if entry is None:
        return None
    linux, initrd = _LINUX.search(entry.group()), _INITRD.search(entry.group())
    if linux is None or initrd is None:
        return None
    kernel, ramdisk = (root.read(disk.boot_path(each[1]) or each[1], LARGEST) for each in (linux, initrd))
    if not kernel or not ramdisk:
        return None
    return kernel, ramdisk, linux[2]


def short(ramdisk: bytes, more: Sequence[str] = ()) -> bytes:
    """The guest's own initramfs without the drivers of other machines, and with our short way to the root on top.

    `more` are parts of the paths of drivers that this disk's root needs beside those of every build guest.
    Debian's own scripts are still in it: `/direct-boot` runs them where its short way fails. Raises DiskError.
    """

    def is_wanted(name: str) -> bool:
        module = _MODULE.search(name)
        return module is None or module[1] in _FOLDERS or any(word in name for word in (*_DRIVERS, *more))

    return reduced(ramdisk, is_wanted, {"direct-boot": _SHORT_WAY})


def command_line(words: str) -> str:
    """GRUB's kernel line for the direct boot. rootdelay is Azure's: a build guest's disk is there at once."""
    kept = [word for word in words.split() if not word.startswith(("rootdelay=", "systemd.unit="))]
    return " ".join([*kept, "rdinit=/direct-boot", *STOP])
