"""Why a clone did not come up, from what its boot left: the fabric's record, DHCP, the console, its disk at rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import GoldsmithError, GuestError
from pipeline.fabric import Exchange, Report
from pipeline.hypervisor.host import UNFILTER, bridges_are_filtered
from pipeline.layers import Image
from pipeline.offline import open_disk

#: The agents' own logs on a Linux guest's disk, and what of them is worth a sentence.
AGENT_LOGS = ("/var/log/waagent.log", "/var/log/cloud-init.log")
#: Bytes that are read of a log.
LIMIT = 4 << 20
_TROUBLE = re.compile(r"\b(ERROR|CRITICAL|WARNING|WARN|Traceback)\b")
#: Characters of a guest's own words in a message.
WORDS = 400

#: The old portal's trap: Start on a generalized VM. It comes to its login prompt, and nobody can log in.
NOT_PROVISIONED = "not-provisioned"
#: What an agent's failure is called where there was something for it to do.
_AGENTS = ("provisioning-failed", "agent-silent", "agent-not-ready")


#: What sshd's own words explain, and which of them do.
_SSHD = ("guest-sshd-dead", "login-refused")
_COMPLAINT = re.compile(
    r"\bsshd(-session)?\[\d+\]: (.*(no hostkeys|[Bb]ad configuration|terminating|fatal|error|line \d+|not allowed|"
    r"Failed|Invalid user|Connection (closed|reset) by (authenticating|invalid)).*)"
)


@dataclass(frozen=True)
class Evidence:
    """What one boot left. `what` is what was waited for in vain; `disk` is at rest, `journal` is off it.

    `medium`: whether a provisioning medium was in its drive.
    """

    what: str
    serial: str
    on_fabric: bool
    medium: bool
    reports: tuple[Report, ...]
    exchanges: tuple[Exchange, ...]
    dhcp: str
    greets: bool
    disk: Image
    store: Path
    user: str
    journal: str = ""


def diagnose(evidence: Evidence) -> GuestError:
    """The first cause that the evidence shows, outermost first: boot, network, agent, report, login."""
    name, text = _cause(evidence)
    words = (name in _SSHD and _sshds_words(evidence.journal)) or _agents_words(evidence)
    told = f"{text}: {words}" if words else text
    # a guest that asks in vain and one that never asked look the same from behind a firewall
    hint = UNFILTER if name in ("guest-no-dhcp", "guest-no-lease") and bridges_are_filtered() else None
    return GuestError(f"{told} ({evidence.what})", name=name, hint=hint)


def _cause(evidence: Evidence) -> tuple[str, str]:
    if not evidence.serial.strip():
        return "console-silent", "nothing came on the serial console: it did not boot, or not to it"
    cause = _fabrics_cause(evidence) if evidence.on_fabric else None
    if cause is not None and cause[0] in _AGENTS and not evidence.medium:
        return NOT_PROVISIONED, f"a generalized disk was started, and nobody provisioned it: {cause[1]}"
    if cause is not None:
        return cause
    if not evidence.greets:
        return "guest-sshd-dead", "no sshd answers"
    return "login-refused", f"sshd answers but does not let {evidence.user} in"


def _fabrics_cause(evidence: Evidence) -> tuple[str, str] | None:
    """What the fabric and its DHCP server saw, or None where they saw all that they wait for."""
    bad = [report for report in evidence.reports if report.failed]
    asked = evidence.exchanges
    if bad:
        told = " ".join(part for part in (bad[-1].substatus, bad[-1].description) if part)
        return "provisioning-failed", f"the agent reported {bad[-1].state}: {told}"
    if "DHCPDISCOVER" not in evidence.dhcp and "DHCPREQUEST" not in evidence.dhcp:
        return "guest-no-dhcp", "the guest never asked for an address"
    if "DHCPACK" not in evidence.dhcp:
        return "guest-no-lease", "the guest asked for an address but took none"
    if not asked:
        return "agent-silent", "no agent asked the fabric for anything"
    if not evidence.reports:
        last = f"{asked[-1].request.method} {asked[-1].request.target}"
        return "agent-not-ready", f"the agent asked the fabric {len(asked)} times, last {last}, but reported nothing"
    return None


def _sshds_words(journal: str) -> str:
    """sshd's last complaint, in its own words."""
    found = [match[2] for line in journal.splitlines() if (match := _COMPLAINT.search(line))]
    return f"sshd: {found[-1].strip()[:WORDS]}" if found else ""


def _agents_words(evidence: Evidence) -> str:
    """The last complaint of the guest's agents, off the disk at rest."""
    try:
        with open_disk(evidence.disk.path, evidence.disk.format, allow_backing_within=evidence.store) as disk:
            for path in AGENT_LOGS:
                text = disk.root.read(path, LIMIT)
                lines = [
                    line for line in (text or b"").decode(errors="replace").splitlines() if _TROUBLE.search(line)
                ]
                if lines:
                    return f"{path}: {lines[-1].strip()[:WORDS]}"
    except (GoldsmithError, OSError):
        return ""  # a disk that cannot be read says nothing
    return ""
