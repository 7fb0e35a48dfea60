"""Red Hat's family: begun with a disk that somebody else made, or with a master of one."""

from __future__ import annotations

from typing import ClassVar

from pipeline.definition.system_rules import SystemRules
from pipeline.systems.inspection import Inspection
from pipeline.systems.linux.residues import Residues
from pipeline.systems.linux.system import LinuxSystem
from pipeline.systems.rhel.inspection import INSPECTION

#: cloud-init's own network files name the build's card; what generalize wrote has the label of its folder then, as
#: SELinux asks for. subscription-manager's certificate is a finding of inspect: who registers must unregister.
_AFTER = r"""
if command -v dnf >/dev/null || command -v yum >/dev/null; then
  say "dnf's caches, and cloud-init's network files"
  { dnf -q clean all || yum -q clean all; } >/dev/null 2>&1 || true
  rm -rf /var/cache/dnf/* /var/cache/libdnf5/* /var/cache/yum/*
  rm -f /etc/NetworkManager/system-connections/cloud-init-*.nmconnection
  for file in /etc/sysconfig/network-scripts/ifcfg-*; do
    if grep -qs '^# Created by cloud-init' "$file"; then rm -f "$file"; fi
  done
  rm -f /root/anaconda-ks.cfg /root/original-ks.cfg
fi
if [ -d /sys/fs/selinux/policy_capabilities ] && command -v restorecon >/dev/null; then
  restorecon -F /etc/machine-id /etc/hostname /etc/hosts /etc/resolv.conf /etc/passwd /etc/shadow /etc/group \
    /etc/gshadow 2>/dev/null || true
fi
"""


class RhelSystem(LinuxSystem):
    """Fedora, RHEL, CentOS Stream, Rocky, Alma, Oracle."""

    name: ClassVar[str] = "rhel"
    inspection: ClassVar[Inspection] = INSPECTION
    rules: ClassVar[SystemRules | None] = None
    residues: ClassVar[Residues] = Residues(after=_AFTER)


SYSTEM = RhelSystem()
