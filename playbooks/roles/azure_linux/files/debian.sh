#!/bin/sh
# The settings of Debian and Ubuntu: one script, because a task each would cost minutes on a slow guest.
# KERNEL_LINE is what goes onto the kernel's command line; prints `changed` for what it changed.
set -eu
kernel_line=$KERNEL_LINE

# put FILE: standard input becomes the file, when it is not so already
put() {
    new=$(mktemp)
    cat >"$new"
    if cmp -s "$new" "$1"; then
        rm -f "$new"
        return 1
    fi
    install -D -m "${2:-0644}" "$new" "$1"
    rm -f "$new"
    echo "changed $1"
}

# setting FILE KEY VALUE: `KEY=VALUE` in waagent's configuration
setting() {
    if ! grep -qx "$2=$3" "$1"; then
        sed -i "/^#\? *$2=/d" "$1"
        echo "$2=$3" >>"$1"
        echo "changed $2"
    fi
}

agent=/etc/waagent.conf
setting $agent Provisioning.Agent auto
setting $agent Provisioning.RegenerateSshHostKeyPair y
setting $agent Provisioning.DeleteRootPassword y
# the resource disk comes and goes with the size of the machine: cloud-init mounts it, nothing swaps on it
setting $agent ResourceDisk.Format n
setting $agent ResourceDisk.EnableSwap n
setting $agent Logs.Verbose n

put /etc/ssh/sshd_config.d/50-azure.conf <<'X' || true
# Azure's load balancers drop idle connections after four minutes.
ClientAliveInterval 180
X

put /etc/cloud/cloud.cfg.d/90-azure.cfg <<'X' || true
# The list of data sources stays Debian's: Azure is in it, and NoCloud for whoever starts a clone at home.
datasource:
  Azure:
    apply_network_config: true
X

# Azure's virtual function is a second card with the address of the first: no network manager may configure it
put /etc/systemd/network/10-azure-vf.network <<'X' || true
[Match]
Driver=mana mlx4_core mlx4_en mlx5_core

[Link]
Unmanaged=yes
X
if [ -d /etc/NetworkManager ]; then
    put /etc/udev/rules.d/68-azure-vf.rules <<'X' || true
SUBSYSTEM=="net", DRIVERS=="mana|mlx4_core|mlx5_core", ENV{NM_UNMANAGED}="1"
X
fi

rm -f /etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/75-persistent-net-generator.rules

# swap belongs on the resource disk, if anywhere
if grep -qE '^[^#]+\sswap\s' /etc/fstab; then
    swapoff -a
    sed -i -E '/^[^#]+\sswap\s/d' /etc/fstab
    echo "changed /etc/fstab"
fi

initramfs=no

ready_initramfs_tools() {
    put /etc/initramfs-tools/scripts/init-top/rootdelay 0755 <<'X' && initramfs=yes
#!/bin/sh
# init would sleep for the whole rootdelay; local-top/rootdelay gives it back before the wait for the disk
[ "$1" = prereqs ] && exit 0
echo 'ROOTDELAY=' >>/conf/param.conf
X
    put /etc/initramfs-tools/scripts/local-top/rootdelay 0755 <<'X' && initramfs=yes
#!/bin/sh
# see init-top/rootdelay
[ "$1" = prereqs ] && exit 0
for word in $(cat /proc/cmdline); do
    case $word in rootdelay=*[!0-9]*) ;; rootdelay=*) echo "ROOTDELAY=${word#*=}" >>/conf/param.conf ;; esac
done
X
    # MODULES=dep would keep only what this build machine has
    if grep -rqs '^MODULES=dep' /etc/initramfs-tools/initramfs.conf /etc/initramfs-tools/conf.d; then
        put /etc/initramfs-tools/conf.d/zz-modules <<'X' && initramfs=yes
MODULES=most
X
    fi
    for module in hv_vmbus hv_storvsc hv_netvsc hv_utils; do
        if ! grep -qx "$module" /etc/initramfs-tools/modules; then
            echo "$module" >>/etc/initramfs-tools/modules
            initramfs=yes
        fi
    done
    [ $initramfs = no ] || update-initramfs -u -k all
}

# dracut takes only what the machine has on which it runs: this one, not the clone's
ready_dracut() {
    put /etc/dracut.conf.d/90-azure.conf <<'X' && initramfs=yes
hostonly="no"
add_drivers+=" hv_vmbus hv_storvsc hv_netvsc hv_utils nvme virtio_pci virtio_blk virtio_scsi "
X
    [ $initramfs = yes ] || return 0
    for folder in /lib/modules/*; do
        dracut --force "/boot/initrd.img-${folder##*/}" "${folder##*/}"
    done
}

# parts of initramfs-tools may be there beside dracut
if dpkg-query -W -f '${Status}' dracut 2>/dev/null | grep -q 'install ok installed'; then
    ready_dracut
else
    ready_initramfs_tools
fi
[ $initramfs = no ] || echo "changed initramfs"

# What else the disk's own line says stays: its network's configuration may depend on net.ifnames=0.
for word in $(. /etc/default/grub; echo "${GRUB_CMDLINE_LINUX:-} ${GRUB_CMDLINE_LINUX_DEFAULT:-}"); do
    case " $kernel_line " in *" $word "*) continue ;; esac
    case $word in
        quiet | splash | rhgb | console=* | earlyprintk=* | rootdelay=* | loglevel=* | resume=* | crashkernel=*) ;;
        *) kernel_line="$kernel_line $word" ;;
    esac
done

grub=no
put /etc/default/grub.d/50-azure.cfg <<X && grub=yes
GRUB_CMDLINE_LINUX="$kernel_line"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_TIMEOUT=1
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1"
X
# the bootstrap writes a first menu by hand; from here on it is Debian's own
grep -q 'BEGIN /etc/grub.d/00_header' /boot/grub/grub.cfg || grub=yes
if [ $grub = yes ]; then
    update-grub
    echo "changed /boot/grub/grub.cfg"
fi
