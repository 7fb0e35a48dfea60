#!/bin/sh
# What waagent-provisioning.yml does, in one script: a task each would cost minutes on a slow guest.
# Prints `changed` for what it changed.
set -eu
export DEBIAN_FRONTEND=noninteractive

if [ "$(dpkg-query -W -f '${db:Status-Status}' cloud-init 2>/dev/null)" = installed ]; then
    apt-get -q -y purge cloud-init
    echo "changed cloud-init"
fi
rm -rf /etc/cloud /var/lib/cloud /var/log/cloud-init.log /var/log/cloud-init-output.log

agent=/etc/waagent.conf
if ! grep -qx 'Provisioning.Agent=waagent' $agent; then
    sed -i '/^#\? *Provisioning.Agent=/d' $agent
    echo 'Provisioning.Agent=waagent' >>$agent
    echo "changed Provisioning.Agent"
fi

# without cloud-init nobody else formats and mounts Azure's resource disk
if ! grep -qx 'ResourceDisk.Format=y' $agent; then
    sed -i '/^#\? *ResourceDisk.Format=/d' $agent
    echo 'ResourceDisk.Format=y' >>$agent
    echo "changed ResourceDisk.Format"
fi

# A generalized image has no host keys; the agent makes them, and then restarts an sshd that runs, but starts none that
# has given up. So sshd does not give up: it comes as soon as there are keys, and not before.
wait=/etc/systemd/system/ssh.service.d/wait-for-host-keys.conf
if [ ! -e $wait ]; then
    mkdir -p "${wait%/*}"
    cat >$wait <<'X'
[Unit]
StartLimitIntervalSec=0

[Service]
RestartSec=3
X
    echo "changed sshd"
fi

unit=/etc/systemd/system/grow-root.service
if [ ! -e $unit ]; then
    cat >$unit <<'X'
[Unit]
Description=Grow the root file system to the size of its disk
After=systemd-remount-fs.service
Before=local-fs.target
DefaultDependencies=no

[Service]
Type=oneshot
# growpart ends with 1 where there is nothing to grow
# of a btrfs the subvolume stands in brackets behind the device; a root in a logical volume keeps its size
ExecStart=/bin/sh -c 'part=$(findmnt -nvo SOURCE /) && [ -e /sys/class/block/$${part##*/}/partition ] || exit 0; \
    number=$(cat /sys/class/block/$${part##*/}/partition) && \
    disk=/dev/$(lsblk -dno PKNAME $part) && { growpart $disk $number || [ $? = 1 ]; } && \
    case $(findmnt -no FSTYPE /) in xfs) xfs_growfs / ;; btrfs) btrfs filesystem resize max / ;; \
    *) resize2fs $part ;; esac'
RemainAfterExit=yes

[Install]
WantedBy=local-fs.target
X
    systemctl --quiet enable grow-root.service
    echo "changed grow-root"
fi
