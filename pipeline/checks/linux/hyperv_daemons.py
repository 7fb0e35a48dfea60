"""Hyper-V's daemons in the guest: at rest only, since they speak with Hyper-V's bus alone."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.linux.agents import enabled
from pipeline.checks.model import CLOUD, LISA, Subject, check
from pipeline.disk.udev_rules import rule_files

#: systemd's units, and scripts of OpenRC.
_UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/etc/init.d")
#: Bytes of a rule file that are read.
_RULES_LIMIT = 1 << 20


@check(
    "hyperv-kvp",
    "The daemon that exchanges values with Hyper-V starts",
    why="Without it Azure and Hyper-V see no address, version or provisioning report of the guest.",
    remedy="apt-get install hyperv-daemons (hyperv-daemons or hypervkvpd on Fedora and Red Hat, linux-cloud-tools on "
    "Ubuntu, hyper-v on SUSE); unmask and enable its unit.",
    source=LISA,
    severity="warn",
    profiles=CLOUD,
)
def hyperv_kvp(subject: Subject) -> Iterator[str]:
    root, names = subject.root, subject.system.agent_units.get("kvp", ())
    there = [name for name in names if any(root.is_file(f"{folder}/{name}") for folder in _UNIT_FOLDERS)]
    if not there:
        yield "the KVP daemon of Hyper-V is not installed"
        return
    open_units = [name for name in there if root.read_link(f"/etc/systemd/system/{name}") != "/dev/null"]
    if not open_units:
        yield f"{' and '.join(there)} is masked"
    elif not enabled(subject, tuple(open_units)) and not _wanted_by_rules(subject, open_units):
        yield f"{' nor '.join(open_units)} is not enabled, and no udev rule starts it"


def _wanted_by_rules(subject: Subject, units: list[str]) -> bool:
    """Whether a udev rule starts one of them when its device comes, as Debian's rules do (SYSTEMD_WANTS)."""
    for path in rule_files(subject.root):
        text = subject.root.text(path, _RULES_LIMIT)
        if "SYSTEMD_WANTS" in text and any(unit in text for unit in units):
            return True
    return False
