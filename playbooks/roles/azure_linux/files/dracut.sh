#!/bin/sh
# The settings of systems with dracut and grub2: Red Hat's and SUSE's families.
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
    install -D -m 0644 "$new" "$1"
    rm -f "$new"
    echo "changed $1"
}

# setting FILE KEY VALUE: `KEY=VALUE` in place of each other line of that key
setting() {
    if ! grep -Fqx "$2=$3" "$1"; then
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

if grep -qs '^Include /etc/ssh/sshd_config.d' /etc/ssh/sshd_config /usr/etc/ssh/sshd_config; then
    put /etc/ssh/sshd_config.d/50-azure.conf <<'X' || true
# Azure's load balancers drop idle connections after four minutes.
ClientAliveInterval 180
X
elif ! grep -qx 'ClientAliveInterval 180' /etc/ssh/sshd_config; then
    # the first line of a key counts
    sed -i '1i ClientAliveInterval 180' /etc/ssh/sshd_config
    echo "changed /etc/ssh/sshd_config"
fi

put /etc/cloud/cloud.cfg.d/90-azure.cfg <<'X' || true
datasource_list: [Azure, NoCloud, None]
datasource:
  Azure:
    apply_network_config: true
X

# Azure's virtual function is a second card with the address of the first: no network manager may configure it
put /etc/udev/rules.d/68-azure-vf.rules <<'X' || true
SUBSYSTEM=="net", DRIVERS=="mana|mlx4_core|mlx5_core", ENV{NM_UNMANAGED}="1"
X

rm -f /etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/75-persistent-net-generator.rules

# swap belongs on the resource disk, if anywhere
if grep -qE '^[^#]+\sswap\s' /etc/fstab; then
    swapoff -a
    sed -i -E '/^[^#]+\sswap\s/d' /etc/fstab
    echo "changed /etc/fstab"
fi

# dracut takes only what the machine has on which it runs: this one, not the clone's
put /etc/dracut.conf.d/90-azure.conf <<'X' && initramfs=yes || initramfs=no
hostonly="no"
add_drivers+=" hv_vmbus hv_storvsc hv_netvsc hid_hyperv hyperv_keyboard nvme virtio_pci virtio_blk virtio_scsi "
X
if [ $initramfs = yes ]; then
    dracut --force --regenerate-all
    echo "changed initramfs"
fi

# What else the disk's own line says stays: its network's configuration may depend on net.ifnames=0.
for word in $(. /etc/default/grub; echo "${GRUB_CMDLINE_LINUX:-} ${GRUB_CMDLINE_LINUX_DEFAULT:-}"); do
    case " $kernel_line " in *" $word "*) continue ;; esac
    case $word in
        quiet | splash | rhgb | console=* | earlyprintk=* | rootdelay=* | loglevel=* | resume=* | crashkernel=*) ;;
        *) kernel_line="$kernel_line $word" ;;
    esac
done
before=$(cksum </etc/default/grub)
setting /etc/default/grub GRUB_CMDLINE_LINUX "\"$kernel_line\""
setting /etc/default/grub GRUB_CMDLINE_LINUX_DEFAULT '""'
setting /etc/default/grub GRUB_TIMEOUT 1
setting /etc/default/grub GRUB_TERMINAL '"serial console"'
setting /etc/default/grub GRUB_SERIAL_COMMAND '"serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1"'
if [ "$(cksum </etc/default/grub)" != "$before" ]; then
    # entries of the Boot Loader Specification have a command line of their own
    if command -v grubby >/dev/null; then
        grubby --update-kernel=ALL --args="$kernel_line" --remove-args="rhgb quiet crashkernel resume"
    fi
    grub2-mkconfig -o /boot/grub2/grub.cfg
    echo "changed /boot/grub2/grub.cfg"
fi
