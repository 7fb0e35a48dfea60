"""What a Linux guest needs for building, generalizing and proving."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.guest.access import BUILD_USER
from pipeline.systems.linux.identity_removal import removal_script
from pipeline.systems.linux.residues import Residues


def build_user_data(public_key: str) -> dict[str, Any]:
    """cloud-config of a build guest: one user, one host key type, the root file system grown."""
    return {
        "users": [
            {
                "name": BUILD_USER,
                "gecos": "goldsmith build user",
                "shell": "/bin/sh",
                "lock_passwd": True,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [public_key],
            }
        ],
        # every other type costs seconds under TCG, and the guest's keys are thrown away anyway
        "ssh_genkeytypes": ["ed25519"],
        "package_update": False,
        "package_upgrade": False,
    }


def prove_user_data(user: str, public_key: str) -> dict[str, Any]:
    """cloud-config of a clone, as a user of the image would give it."""
    data = build_user_data(public_key)
    data["users"][0]["name"] = user
    data["users"][0]["gecos"] = "clone user"
    return data


def network_config(access_mac: str, outside_mac: str | None) -> dict[str, Any]:
    """Netplan v2: the access card leads nowhere (no routes, no names); the outside card is the default route."""
    cards: dict[str, Any] = {
        "access": {
            "match": {"macaddress": access_mac},
            "dhcp4": True,
            "dhcp6": False,
            "dhcp4-overrides": {"use-routes": False, "use-dns": False},
        }
    }
    if outside_mac:
        cards["outside"] = {
            "match": {"macaddress": outside_mac},
            "dhcp4": True,
            "dhcp6": False,
            # a step without network has this card unplugged: the boot must not wait for it
            "optional": True,
        }
    return {"version": 2, "ethernets": cards}


def generalize_script(agent: str, installs: str = "", user: str = "", residues: Residues | None = None) -> str:
    """The script that makes a guest forget who it is. It runs as root over the guest agent, not over ssh.

    Order: what waagent does not touch while it runs, then identity and accounts, `user` among them; then `installs`,
    what only clones are to run; the trim comes last. `residues`: what a distribution adds.
    """
    added = residues or Residues()
    return "\n".join(
        [
            "set -eu",
            "export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            'say() { echo "generalize: $*"; }',
            *([added.before] if added.before else []),
            *([_WAAGENT] if agent == "waagent" else []),
            _QUIET,
            _CLOUD_INIT,
            _TRACES,
            *([added.after] if added.after else []),
            *([_WAAGENT_DONE] if agent == "waagent" else []),
            _IDENTITY,
            removal_script(),
            _HOST_NAME,
            _ACCOUNTS,
            *([f"user={shlex.quote(user)}", _USER] if user else []),
            *([installs] if installs else []),
            _TRIM,
        ]
    )


_QUIET = r"""
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
# ifupdown would give the lease back at the shutdown, and its client writes that into the file that we remove
[ ! -e /run/network/ifstate ] || : > /run/network/ifstate
pkill -KILL -x 'dhclient|dhcpcd|udhcpc' 2>/dev/null || true
"""

_CLOUD_INIT = r"""
if command -v cloud-init >/dev/null; then
  # where it has not run in this guest there is nothing of it, and to find that out takes it five seconds under TCG
  if [ -e /var/lib/cloud/instance ] || [ -s /var/log/cloud-init.log ]; then
    say "cloud-init clean"
    cloud-init clean --logs --seed
    rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem
  fi
  # a brought disk may have these of an earlier machine whose other traces are gone
  rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* /etc/systemd/network/*cloud-init* \
    /etc/NetworkManager/system-connections/cloud-init-* /etc/sudoers.d/90-cloud-init-users
fi
"""

_WAAGENT = r"""
command -v waagent >/dev/null || { echo "waagent is not installed" >&2; exit 41; }
say "waagent -force -deprovision+user"
resolv=$(readlink /etc/resolv.conf 2>/dev/null || true)
# it is Python, and busy for seconds under TCG: what does not touch the same files goes on meanwhile
waagent -force -deprovision+user & deprovision=$!
"""

_WAAGENT_DONE = r"""
wait "$deprovision" || { echo "waagent refused with $?" >&2; exit 42; }
# waagent deletes resolv.conf; where that was systemd-resolved's link, a clone would have no names
if [ -n "$resolv" ] && [ ! -e /etc/resolv.conf ]; then ln -sf "$resolv" /etc/resolv.conf; fi
rm -rf /var/lib/waagent /var/log/azure /var/log/waagent.log*
"""

_IDENTITY = r"""
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
"""

#: Who provisions a clone names it. A name of the build would be announced until then, and for ever where nobody does.
_HOST_NAME = r"""
name=$(head -n 1 /etc/hostname 2>/dev/null | tr -d ' \t\r' || true)
case "$name" in
  ""|localhost|localhost.*) name= ;;
  *) echo localhost > /etc/hostname; say "removed the host name $name: who provisions a clone names it" ;;
esac
# 127.0.1.1 is Debian's line for the machine's own name (Debian reference 5.1.1); waagent leaves it behind
if [ -f /etc/hosts ] && command -v awk >/dev/null; then
  kept=$(awk -v name="$name" '
    BEGIN { split(name, part, ".") }
    $1 !~ /^(127\.|::1$)/ { print; next }
    { line = $1; left = gone = 0
      for (i = 2; i <= NF; i++)
        if (($1 == "127.0.1.1" && $i !~ /^localhost/) || (name != "" && ($i == name || $i == part[1]))) gone++
        else { line = line " " $i; left++ }
      if (!gone) print; else if (left) print line }' /etc/hosts)
  if [ "$kept" != "$(cat /etc/hosts)" ]; then
    # in place: the file may be a link, or mounted
    printf '%s\n' "$kept" > /etc/hosts
    say "removed the build's own name from /etc/hosts"
  fi
fi
"""

_ACCOUNTS = r"""
say "the build user"
rm -f /etc/systemd/network/10-goldsmith-*.network /etc/sudoers.d/90-goldsmith-build
if id goldsmith-build >/dev/null 2>&1; then
  userdel --force --remove goldsmith-build 2>/dev/null || { echo "cannot remove goldsmith-build" >&2; exit 43; }
fi
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /root/.*_history /root/.lesshst /root/.viminfo /root/.wget-hsts
for home in /home/*; do [ -d "$home" ] && rm -f "$home"/.*_history "$home"/.lesshst; done
rm -rf /root/.ansible /home/*/.ansible /root/.cache
"""

#: The account that a VM's provisioning created: a clone's provisioning creates the clone's own.
_USER = r"""
say "the user $user"
pkill -KILL -u "$user" 2>/dev/null || true
if id "$user" >/dev/null 2>&1; then
  userdel --force --remove "$user" 2>/dev/null || { echo "cannot remove $user" >&2; exit 44; }
fi
# cloud-init gives root the same key, behind a command that refuses it (cloudinit/ssh_util.py, DISABLE_USER_OPTS)
keys=/root/.ssh/authorized_keys
if [ -f "$keys" ]; then
  kept=$(grep -v 'command="echo .Please login as the user ' "$keys" || true)
  if [ -n "$kept" ]; then printf '%s\n' "$kept" > "$keys"; else rm -f "$keys"; fi
fi
rm -f /etc/sudoers.d/waagent /etc/sudoers.d/90-cloud-init-users /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow-
"""

_TRACES = r"""
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
"""

_TRIM = r"""
say "freed blocks"
sync
fstrim -a || true
sync
say "done"
"""

#: Exit codes of the script that are refusals with a name.
REFUSALS: Mapping[int, str] = {
    41: "waagent is not installed in the guest",
    42: "waagent -deprovision+user failed",
    43: "the build user could not be removed",
    44: "the VM's user could not be removed",
}
