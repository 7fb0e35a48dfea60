set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "generalize: $*"; }

say "timers and log writers stop"
systemctl stop apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
  unattended-upgrades.service cron.service rsyslog.service 2>/dev/null || true
# from here the journal lives in memory: what is said while we clean must not land on the disk
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\n' > /run/systemd/journald.conf.d/90-goldsmith.conf
systemctl restart systemd-journald.service
# it writes a seed when it is stopped; stopped now, the shutdown has nothing left to write
systemctl stop systemd-random-seed.service 2>/dev/null || true
pkill -KILL -u goldsmith-build 2>/dev/null || true


# where it has not run in this guest there is nothing of it, and to find that out takes it five seconds under TCG
if command -v cloud-init >/dev/null && { [ -e /var/lib/cloud/instance ] || [ -s /var/log/cloud-init.log ]; }; then
  say "cloud-init clean"
  cloud-init clean --logs --seed
  rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem
  rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init \
    /etc/sudoers.d/90-cloud-init-users
fi


say "traces of the build"
find /var/log -type f \( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' \) -delete
find /var/log -type f ! -path '/var/log/journal/*' -exec truncate -s 0 {} +
rm -rf /var/log/journal/* /var/log/installer
# the shutdown writes to these only where they are; the next boot makes them anew
rm -f /var/log/wtmp /var/log/btmp /var/log/lastlog
apt-get clean 2>/dev/null || true
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /var/tmp/* /tmp/* /tmp/.[!.]* 2>/dev/null || true
rm -f /var/crash/* /var/lib/systemd/coredump/* 2>/dev/null || true


say "identity"
rm -f /etc/ssh/ssh_host_*
# empty, not deleted: without the file the next boot waits minutes for its network
: > /etc/machine-id
if [ -e /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
  rm -f /var/lib/dbus/machine-id; ln -s /etc/machine-id /var/lib/dbus/machine-id
fi
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /boot/efi/loader/random-seed
rm -f /var/lib/dhcp/* /var/lib/NetworkManager/*.lease /var/lib/dhcpcd/*.lease /var/lib/systemd/network/* || true
rm -f /etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/75-persistent-net-generator.rules


say "the build user"
rm -f /etc/systemd/network/10-goldsmith-*.network /etc/sudoers.d/90-goldsmith-build
if id goldsmith-build >/dev/null 2>&1; then
  userdel --force --remove goldsmith-build 2>/dev/null || { echo "cannot remove goldsmith-build" >&2; exit 43; }
fi
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /root/.*_history /root/.lesshst /root/.viminfo /root/.wget-hsts
for home in /home/*; do [ -d "$home" ] && rm -f "$home"/.*_history "$home"/.lesshst; done
rm -rf /root/.ansible /home/*/.ansible /root/.cache


say "freed blocks"
sync
fstrim -a || true
sync
say "done"
