#!/bin/sh
# The settings of Alpine with mkinitfs and GRUB.
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
    mkdir -p "$(dirname "$1")"
    install -m 0644 "$new" "$1"
    rm -f "$new"
    echo "changed $1"
}

put /etc/ssh/sshd_config.d/50-azure.conf <<'X' || true
# Azure's load balancers drop idle connections after four minutes.
ClientAliveInterval 180
X

# the images of one cloud name the data source of that cloud alone; the last file counts
put /etc/cloud/cloud.cfg.d/99_z_azure.cfg <<'X' || true
datasource_list: [Azure, NoCloud, None]
datasource:
  Azure:
    apply_network_config: true
X

if ! grep -q '^ttyS0:' /etc/inittab; then
    echo 'ttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100' >>/etc/inittab
    echo "changed /etc/inittab"
fi

if grep -qE '^[^#]+\sswap\s' /etc/fstab; then
    swapoff -a
    sed -i -E '/^[^#]+\sswap\s/d' /etc/fstab
    echo "changed /etc/fstab"
fi

initramfs=no
put /etc/mkinitfs/features.d/azure.modules <<'X' && initramfs=yes
kernel/drivers/hv/*
kernel/drivers/hid/hid-hyperv.ko*
kernel/drivers/input/serio/hyperv-keyboard.ko*
kernel/drivers/net/hyperv/*
kernel/drivers/nvme/host/*
kernel/drivers/scsi/hv_storvsc.ko*
X
if ! grep -qE '^features=.*\bazure\b' /etc/mkinitfs/mkinitfs.conf; then
    sed -i -E 's/^features="(.*)"/features="\1 azure virtio"/' /etc/mkinitfs/mkinitfs.conf
    initramfs=yes
fi
if [ $initramfs = yes ]; then
    for folder in /lib/modules/*/; do mkinitfs "$(basename "$folder")"; done
    echo "changed initramfs"
fi

# Alpine's own words (modules=, rootfstype=) stay: its initramfs needs them
if ! grep -Fqx "GRUB_CMDLINE_LINUX=\"$kernel_line\"" /etc/default/grub; then
    sed -i '/^GRUB_CMDLINE_LINUX=/d; /^GRUB_TERMINAL=/d; /^GRUB_SERIAL_COMMAND=/d' /etc/default/grub
    {
        echo "GRUB_CMDLINE_LINUX=\"$kernel_line\""
        echo 'GRUB_TERMINAL="serial console"'
        echo 'GRUB_SERIAL_COMMAND="serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1"'
    } >>/etc/default/grub
    grub-mkconfig -o /boot/grub/grub.cfg
    echo "changed /boot/grub/grub.cfg"
fi
