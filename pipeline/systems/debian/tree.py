"""What a bootstrap puts into the tree, and the script that makes a disk of it. Texts only, no processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

#: Both consoles: a screen for Hyper-V's window, the serial line for Azure's boot diagnostics. rootdelay is meant as
#: the longest wait for the disk; see _ROOTDELAY. From Azure's "Prepare Linux for imaging in Azure".
KERNEL_LINE = "console=tty1 console=ttyS0,115200n8 earlyprintk=ttyS0,115200 rootdelay=300"
SERIAL = "serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1"

#: In the initramfs whatever machine builds it. hv_* are Hyper-V's bus, disk and network.
INITRAMFS_MODULES = ("hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils")

#: GPT numbers as Debian's own cloud images have them: root is 1 and lies last, so that it can grow.
#: BIOS boot from sector 2048 (1 MiB), ESP from 2 MiB (124 MiB, FAT16), root from 126 MiB.
_DEFAULT_GRUB = f"""\
# Read by update-grub, which writes /boot/grub/grub.cfg.
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="{KERNEL_LINE}"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="{SERIAL}"
GRUB_DISABLE_OS_PROBER=true
"""

#: Debian's initramfs polls for the disk up to rootdelay seconds, as Azure means it, but before that it sleeps the
#: whole rootdelay: 300 s at every boot (initramfs-tools 0.142 and 0.148, `sleep "$ROOTDELAY"` in init). So the value
#: is taken away before the sleep and given back before the polling. param.conf is read after each script.
_ROOTDELAY_AWAY = """\
#!/bin/sh
# init would sleep for the whole rootdelay; local-top/rootdelay gives it back before the wait for the disk
[ "$1" = prereqs ] && exit 0
echo 'ROOTDELAY=' >>/conf/param.conf
"""
_ROOTDELAY_BACK = """\
#!/bin/sh
# see init-top/rootdelay
[ "$1" = prereqs ] && exit 0
for word in $(cat /proc/cmdline); do
    case $word in rootdelay=*[!0-9]*) ;; rootdelay=*) echo "ROOTDELAY=${word#*=}" >>/conf/param.conf ;; esac
done
"""

#: Where cloud-init finds no data source it stays off; without this the guest would have no network then. netplan's
#: own files sort first. No MAC address: a clone has another.
_NETWORK = """\
[Match]
Name=en* eth*
Type=ether

[Network]
DHCP=yes

[DHCPv4]
UseDomains=yes
"""

#: With accelerated networking Azure shows a second card, with the MAC address of eth0: it must have no address of its
#: own. Sorted before every file that takes cards; netplan's own are called 10-netplan-*. ethtool says mlx4_en where
#: the kernel module is mlx4_core.
_VIRTUAL_FUNCTION = """\
[Match]
Driver=mana mlx4_core mlx4_en mlx5_core

[Link]
Unmanaged=yes
"""

#: Names of disks that are the same whatever controller the size of the VM has: those of azure-vm-utils, whose rules
#: these follow (80-azure-disk.rules, MIT). Debian has the package from forky on; where it is installed this file is
#: not. NVMe: namespace 1 is the OS disk, namespace n + 2 is LUN n; a direct disk is local to its host. SCSI: the id
#: of a device on Hyper-V's bus tells the controllers apart.
DISK_NAMES = "etc/udev/rules.d/79-azure-disk-names.rules"
_DISK_NAMES = r"""
# Names of Azure's disks, on NVMe and on SCSI, as azure-vm-utils gives them:
# /dev/disk/azure/os, /dev/disk/azure/data/by-lun/N, /dev/disk/azure/local/by-serial/S
ACTION=="remove", GOTO="azure_names_end"
SUBSYSTEM!="block", GOTO="azure_names_end"

KERNEL=="nvme*", ENV{ID_MODEL}=="MSFT NVMe Accelerator v1.0", GOTO="azure_names_remote"
KERNEL=="nvme*", ENV{ID_MODEL}=="Microsoft NVMe Direct Disk*", ENV{AZURE_DISK_TYPE}="local", \
  ENV{AZURE_DISK_SERIAL}="$env{ID_SERIAL_SHORT}", GOTO="azure_names_links"
ENV{ID_VENDOR}=="Msft", ENV{ID_MODEL}=="Virtual_Disk", GOTO="azure_names_scsi"
GOTO="azure_names_end"

LABEL="azure_names_remote"
# the host repeats a request for 120 s, and restarts the machine after that
ENV{DEVTYPE}=="disk", ATTRS{nsid}=="?*", ATTR{queue/io_timeout}="240000"
ATTRS{nsid}=="1", ENV{AZURE_DISK_TYPE}="os", GOTO="azure_names_links"
ATTRS{nsid}=="?*", ENV{AZURE_DISK_TYPE}="data", PROGRAM="/bin/sh -ec 'echo $$((%s{nsid}-2))'", \
  ENV{AZURE_DISK_LUN}="$result"
GOTO="azure_names_links"

LABEL="azure_names_scsi"
ATTRS{device_id}=="?00000000-0000-*", ENV{AZURE_DISK_TYPE}="os", GOTO="azure_names_links"
ENV{DEVTYPE}=="disk", PROGRAM="/bin/sh -c 'readlink /sys/class/block/%k/device | cut -d: -f4'", \
  ENV{AZURE_DISK_LUN}="$result"
ENV{DEVTYPE}=="partition", PROGRAM="/bin/sh -c 'readlink /sys/class/block/%k/../device | cut -d: -f4'", \
  ENV{AZURE_DISK_LUN}="$result"
ATTRS{device_id}=="{f8b3781a-1e82-4818-a1c3-63d806ec15bb}", ENV{AZURE_DISK_LUN}=="0", ENV{AZURE_DISK_TYPE}="os", \
  ENV{AZURE_DISK_LUN}="", GOTO="azure_names_links"
ATTRS{device_id}=="{f8b3781[bcd]-1e82-4818-a1c3-63d806ec15bb}", ENV{AZURE_DISK_TYPE}="data", \
  GOTO="azure_names_links"
GOTO="azure_names_end"

LABEL="azure_names_links"
ENV{DEVTYPE}=="disk", ENV{AZURE_DISK_TYPE}=="os", SYMLINK+="disk/azure/os"
ENV{DEVTYPE}=="disk", ENV{AZURE_DISK_LUN}=="?*", SYMLINK+="disk/azure/data/by-lun/$env{AZURE_DISK_LUN}"
ENV{DEVTYPE}=="disk", ENV{AZURE_DISK_SERIAL}=="?*", SYMLINK+="disk/azure/local/by-serial/$env{AZURE_DISK_SERIAL}"
ENV{DEVTYPE}=="partition", ENV{AZURE_DISK_TYPE}=="os", SYMLINK+="disk/azure/os-part%n"
ENV{DEVTYPE}=="partition", ENV{AZURE_DISK_LUN}=="?*", \
  SYMLINK+="disk/azure/data/by-lun/$env{AZURE_DISK_LUN}-part%n"
ENV{DEVTYPE}=="partition", ENV{AZURE_DISK_SERIAL}=="?*", \
  SYMLINK+="disk/azure/local/by-serial/$env{AZURE_DISK_SERIAL}-part%n"
LABEL="azure_names_end"
""".lstrip()

#: One card with an address is online enough: a second card without a cable must not hold up the boot for two minutes.
_WAIT_ONLINE = """\
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=60
"""

#: The trees get no initramfs while packages are being set up: it would be made twice, 20 s each.
#: Empty host keys: openssh-server makes none where a file is, and so no key ever exists.
_ESSENTIAL = """\
#!/bin/sh
set -eu
chroot "$1" dpkg-divert --quiet --local --no-rename --add \\
    --divert /usr/sbin/update-initramfs.diverted /usr/sbin/update-initramfs
printf '#!/bin/sh\\nexit 0\\n' >"$1/usr/sbin/update-initramfs"
chmod 755 "$1/usr/sbin/update-initramfs"
mkdir -p "$1/etc/ssh"
for kind in rsa ecdsa ed25519; do : >"$1/etc/ssh/ssh_host_${kind}_key"; done
"""

_CUSTOMIZE = """\
#!/bin/sh
set -eu
root=$1
here=$(dirname "$0")
rm -f "$root/etc/ssh/ssh_host_"* "$root/usr/sbin/update-initramfs"
chroot "$root" dpkg-divert --quiet --local --rename --remove /usr/sbin/update-initramfs
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
cp -R --no-preserve=ownership "$here/tree/." "$root/"
if [ -s "$root/etc/apt/sources.list.d/debian.sources" ]; then
    : >"$root/etc/apt/sources.list"
    key=/usr/share/keyrings/debian-archive-keyring
    for kind in pgp gpg; do
        if [ -e "$root$key.$kind" ]; then
            sed -i "s,@KEY@,$key.$kind," "$root/etc/apt/sources.list.d/debian.sources"
        fi
    done
fi
cat "$here/modules" >>"$root/etc/initramfs-tools/modules"
# azure-vm-utils brings its own names of disks
if [ -e "$root/usr/lib/udev/rules.d/80-azure-disk.rules" ]; then rm "$root/@DISK_NAMES@"; fi
chroot "$root" systemctl --quiet enable systemd-networkd.service
chroot "$root" systemctl --quiet enable systemd-resolved.service 2>/dev/null || true
echo "goldsmith phase initramfs"
# here the root device cannot be looked up, and the initramfs would lack fsck.ext4
echo FSTYPE=ext4 >"$root/etc/initramfs-tools/conf.d/bootstrap"
for version in "$root"/lib/modules/*; do
    chroot "$root" update-initramfs -c -k "${version##*/}"
done
rm "$root/etc/initramfs-tools/conf.d/bootstrap"
echo "goldsmith phase boot loader"
grub=$root/boot/grub
mkdir -p "$grub/i386-pc"
cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/usr/lib/grub/i386-pc/boot.img" \\
    "$grub/i386-pc/"
cp "$here/early.cfg" "$grub/early.cfg"
chroot "$root" grub-mkimage -O i386-pc -p /boot/grub -c /boot/grub/early.cfg -o /boot/grub/i386-pc/core.img \\
    biosdisk part_gpt ext2 search_fs_uuid
rm "$grub/early.cfg"
chroot "$root" grub-editenv /boot/grub/grubenv create
echo "goldsmith phase cleaning"
"""

#: Runs inside the namespaces, behind the settings that `bootstrap` writes above it.
INSIDE = r"""
say() { echo "goldsmith $*"; }
if [ "$memory" != 0 ]; then mount -t tmpfs -o "size=${memory}m,mode=0755" goldsmith "$stage"; fi
root=$stage/root
disk=$stage/disk.raw
bootstrap

# mmdebstrap copies the host's name and resolver
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed" "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo localhost >"$root/etc/hostname"
rm -rf "$root/var/cache/apt/archives"/*.deb "$root/tmp"/* "$root/var/log/apt"/* "$root/var/log"/*.log
kernel=$(ls "$root/lib/modules" | sort -V | tail -n 1)
say fact "kernel=$kernel"
say fact "packages=$(ls "$root/var/lib/dpkg/info"/*.list | wc -l)"

say phase "file systems"
tree=$(du -sm "$root" | cut -f1)
size=$((tree * 13 / 10 + 640))
if [ "$size" -lt "$minimum" ]; then size=$minimum; fi
say fact "tree_mib=$tree"
say fact "disk_mib=$size"
truncate -s "${size}M" "$disk"
sgdisk --disk-guid="$disk_guid" \
    --new=14:2048:+1M --typecode=14:EF02 --partition-guid="14:$bios_guid" --change-name=14:bios \
    --new=15:4096:+124M --typecode=15:EF00 --partition-guid="15:$esp_guid" --change-name=15:esp \
    --new=1:258048:0 --typecode=1:8304 --partition-guid="1:$root_guid" --change-name=1:root "$disk" >&2

menu=$root/boot/grub/grub.cfg
sed "s,@KERNEL@,$kernel,g" "$work/grub.cfg" >"$menu"
chmod 600 "$menu"
# GRUB before 2.12 and kernels before 5.15 do not read what newer mke2fs turn on
mke2fs -q -F -t ext4 -O ^metadata_csum_seed,^orphan_file -U "$root_uuid" -L root \
    -E "offset=$((126 << 20)),root_owner=0:0,hash_seed=$hash_seed,assume_storage_prezeroed=1" \
    -d "$root" "$disk" "$(((size - 127) * 1024))k"

# the ESP as grub-install would leave it, with the fallback path that every firmware tries
esp=$disk@@$((2 << 20))
mkfs.vfat -F 16 -i "$esp_serial" -n ESP --offset=4096 "$disk" $((124 * 1024)) >&2
export MTOOLS_SKIP_CHECK=1
shim=$root/usr/lib/shim
signed=$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed
mmd -i "$esp" ::EFI ::EFI/BOOT ::EFI/debian
mcopy -i "$esp" "$shim/shimx64.efi.signed" ::EFI/BOOT/BOOTX64.EFI
mcopy -i "$esp" "$shim/shimx64.efi.signed" ::EFI/debian/shimx64.efi
for folder in BOOT debian; do
    mcopy -i "$esp" "$signed" "::EFI/$folder/grubx64.efi"
    mcopy -i "$esp" "$shim/mmx64.efi.signed" "::EFI/$folder/mmx64.efi"
    mcopy -i "$esp" "$work/esp.cfg" "::EFI/$folder/grub.cfg"
done
mcopy -i "$esp" "$shim/fbx64.efi.signed" ::EFI/debian/fbx64.efi
mcopy -i "$esp" "$shim/BOOTX64.CSV" ::EFI/debian/BOOTX64.CSV

# what grub-bios-setup does: boot.img in the first sector loads core.img from sector 2048 (0x5c: that sector, 0x66:
# two nops instead of the check for floppies); core.img's list of blocks begins behind its first sector (0x1f4: 2049)
pc=$root/boot/grub/i386-pc
at() { dd of="$disk" bs=1 seek="$1" conv=notrunc status=none; }
[ "$(stat -c %s "$pc/core.img")" -lt 1048576 ]
dd if="$pc/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$pc/core.img" of="$disk" bs=1M seek=1 conv=notrunc status=none
printf '\000\010\000\000\000\000\000\000' | at 92
printf '\220\220' | at 102
printf '\001\010\000\000\000\000\000\000' | at $((1048576 + 500))

say phase "writing the disk"
qemu-img convert -f raw -O qcow2 "$disk" "$target"
say phase done
"""


def early_config(numbers: Mapping[str, str]) -> str:
    """What core.img does before it goes on to normal mode, which reads the lists and the menu under `prefix`."""
    return f"search.fs_uuid {numbers['root_uuid']} root\nset prefix=($root)'/boot/grub'\n"


def esp_config(numbers: Mapping[str, str]) -> str:
    """What the signed GRUB reads from the ESP; it is in normal mode already."""
    return f"{early_config(numbers)}configfile $prefix/grub.cfg\n"


def first_menu(numbers: Mapping[str, str]) -> str:
    """The menu until the guest's own update-grub writes a better one; @KERNEL@ becomes the version."""
    root = numbers["root_uuid"]
    return (
        f"{SERIAL}\n"
        "terminal_input console serial\n"
        "terminal_output console serial\n"
        "set timeout=1\n"
        "menuentry 'Debian GNU/Linux' {\n"
        f"    search --no-floppy --fs-uuid --set=root {root}\n"
        f"    linux /boot/vmlinuz-@KERNEL@ root=UUID={root} ro {KERNEL_LINE}\n"
        "    initrd /boot/initrd.img-@KERNEL@\n"
        "}\n"
    )


def fstab(numbers: Mapping[str, str]) -> str:
    serial = numbers["esp_serial"]
    return (
        f"UUID={numbers['root_uuid']} / ext4 discard,errors=remount-ro 0 1\n"
        f"UUID={serial[:4]}-{serial[4:]} /boot/efi vfat umask=0077,nofail 0 0\n"
    )


def apt_sources(sources: Sequence[tuple[str, str]], expired: bool = False) -> str:
    """deb822, one stanza a mirror; empty without sources: then mmdebstrap's own list stays.

    `expired` is for an archive whose lists are older than they say they may be (sources.list(5), Check-Valid-Until).
    """
    more = "Check-Valid-Until: no\n" if expired else ""
    stanzas = []
    for uri in dict.fromkeys(uri for uri, _ in sources):
        suites = " ".join(name for at, name in sources if at == uri)
        stanzas.append(f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: @KEY@\n{more}")
    return "\n".join(stanzas)


def files(numbers: Mapping[str, str], sources: Sequence[tuple[str, str]], expired: bool = False) -> dict[str, str]:
    """Path in the guest: content. All are root's; the initramfs scripts are 0755, the others 0644."""
    texts = {
        "etc/fstab": fstab(numbers),
        "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/default/grub": _DEFAULT_GRUB,
        "etc/default/locale": "LANG=C.UTF-8\n",
        "etc/timezone": "Etc/UTC\n",
        "etc/initramfs-tools/conf.d/modules": "# not only what the building machine has\nMODULES=most\n",
        "etc/initramfs-tools/scripts/init-top/rootdelay": _ROOTDELAY_AWAY,
        "etc/initramfs-tools/scripts/local-top/rootdelay": _ROOTDELAY_BACK,
        "etc/systemd/network/10-azure-vf.network": _VIRTUAL_FUNCTION,
        "etc/systemd/network/90-dhcp.network": _NETWORK,
        "etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf": _WAIT_ONLINE,
        DISK_NAMES: _DISK_NAMES,
        # grub-cloud then renews the boot sector and the ESP when GRUB or shim is upgraded in the guest
        "etc/grub.d/enable_cloud": "",
        # journald keeps its journal on disk when this folder exists
        "var/log/journal/.keep": "",
        "boot/efi/.keep": "",
    }
    if sources:
        texts["etc/apt/sources.list.d/debian.sources"] = apt_sources(sources, expired)
    return texts


def texts(
    numbers: Mapping[str, str], sources: Sequence[tuple[str, str]], expired: bool = False
) -> dict[str, tuple[str, int]]:
    """Everything that the script reads, by its path in the work folder: text, mode. The tree, hooks, boot menus."""
    found = {
        f"tree/{name}": (text, 0o755 if text.startswith("#!") else 0o644)
        for name, text in files(numbers, sources, expired).items()
    }
    return {
        **found,
        "essential.sh": (_ESSENTIAL, 0o755),
        "customize.sh": (_CUSTOMIZE.replace("@DISK_NAMES@", DISK_NAMES), 0o755),
        "esp.cfg": (esp_config(numbers), 0o644),
        "early.cfg": (early_config(numbers), 0o644),
        "grub.cfg": (first_menu(numbers), 0o644),
        "modules": ("".join(f"{name}\n" for name in INITRAMFS_MODULES), 0o644),
    }


def write(work: Path, numbers: Mapping[str, str], sources: Sequence[tuple[str, str]], expired: bool = False) -> None:
    """Write `texts` into `work`."""
    for name, (text, mode) in texts(numbers, sources, expired).items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
