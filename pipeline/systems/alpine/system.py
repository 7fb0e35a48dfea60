"""Alpine: begun with a disk that somebody else made, or with a master of one."""

from __future__ import annotations

from typing import ClassVar

from pipeline.definition.system_rules import SystemRules
from pipeline.systems.alpine.inspection import INSPECTION
from pipeline.systems.inspection import Inspection
from pipeline.systems.linux.residues import Residues
from pipeline.systems.linux.system import LinuxSystem

#: busybox removes an account by another program, and its fstrim knows one mount at a time; services are OpenRC's.
_BEFORE = r"""
if ! command -v systemctl >/dev/null; then
  systemctl() {
    [ "$1" = stop ] && command -v rc-service >/dev/null || return 0
    shift
    for unit in "$@"; do rc-service --ifstarted "${unit%.service}" stop >/dev/null 2>&1 || true; done
  }
fi
if ! command -v userdel >/dev/null && command -v deluser >/dev/null; then
  userdel() { for name in "$@"; do :; done; deluser --remove-home "$name"; }
fi
if fstrim --help 2>&1 | grep -qi busybox; then
  trim=$(command -v fstrim)
  fstrim() {
    while read -r _ place kind _; do
      case $kind in ext[234]|xfs|btrfs|vfat) "$trim" "$place" || true ;; esac
    done </proc/mounts
  }
fi
"""
_AFTER = r"""
if command -v apk >/dev/null; then
  say "apk's caches, dhcpcd's leases, seeds of OpenRC"
  rm -rf /var/cache/apk/*
  rm -f /var/lib/dhcpcd/*.lease* /var/lib/dhcpcd/duid /var/lib/misc/random-seed /var/lib/seedrng/seed.*
  if grep -Eqs '^# (Created by cloud-init|This file is generated from information provided by the datasource)' \
    /etc/network/interfaces; then printf 'auto lo\niface lo inet loopback\n' >/etc/network/interfaces; fi
fi
"""


class AlpineSystem(LinuxSystem):
    """Alpine Linux."""

    name: ClassVar[str] = "alpine"
    inspection: ClassVar[Inspection] = INSPECTION
    rules: ClassVar[SystemRules | None] = None
    residues: ClassVar[Residues] = Residues(before=_BEFORE, after=_AFTER)


SYSTEM = AlpineSystem()
