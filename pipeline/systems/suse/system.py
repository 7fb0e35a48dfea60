"""SUSE: begun with a disk that somebody else made, or with a master of one."""

from __future__ import annotations

from typing import ClassVar

from pipeline.definition.system_rules import SystemRules
from pipeline.systems.inspection import Inspection
from pipeline.systems.linux.residues import Residues
from pipeline.systems.linux.system import LinuxSystem
from pipeline.systems.suse.inspection import INSPECTION

#: zypper counts machines by a number of its own. A snapshot holds the files of the build that the clone must not
#: have; the one that is mounted (active) and the one that boots (default) stay: snapper(8), --csvout.
_AFTER = r"""
if command -v zypper >/dev/null; then
  say "zypper's caches, its machine's number, and leases of wicked"
  zypper --non-interactive --quiet clean --all >/dev/null 2>&1 || true
  rm -rf /var/cache/zypp/*
  rm -f /var/lib/zypp/AnonymousUniqueId /var/lib/wicked/lease-*.xml /var/lib/wicked/duid.xml /var/lib/wicked/iaid.xml
  for file in /etc/sysconfig/network/ifcfg-*; do
    if grep -qs '^# Created by cloud-init' "$file"; then rm -f "$file"; fi
  done
fi
if command -v snapper >/dev/null && [ -e /etc/snapper/configs/root ]; then
  say "snapshots of the build"
  snapper --no-dbus --csvout -c root list --columns number,default,active 2>/dev/null |
    while IFS=, read -r number default active; do
      case $number in ''|0|*[!0-9]*) continue ;; esac
      [ "$default" = yes ] || [ "$active" = yes ] || snapper --no-dbus -c root delete --sync "$number" || true
    done
fi
"""


class SuseSystem(LinuxSystem):
    """SUSE Linux Enterprise and openSUSE."""

    name: ClassVar[str] = "suse"
    inspection: ClassVar[Inspection] = INSPECTION
    rules: ClassVar[SystemRules | None] = None
    residues: ClassVar[Residues] = Residues(after=_AFTER)


SYSTEM = SuseSystem()
