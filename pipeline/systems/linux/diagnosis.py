"""Why a clone did not come up, from what its boot left: the fabric's record, DHCP, the console, its disk at rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.cache.layers import Image
from pipeline.disk.facts import read_files
from pipeline.fabric import Exchange, Report
from pipeline.guest.sshd_log import sshd_reason
from pipeline.hypervisor.host_services import UNFILTER, bridges_are_filtered

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


#: Where UEFI firmware ends that finds nothing to start.
FIRMWARE_SHELL = re.compile(rb"UEFI Interactive Shell")

#: What sshd's own words explain, and which of them do.
_SSHD = ("guest-sshd-dead", "login-refused")
#: sshd listens; whether it has ended since is for its later words to say.
_LISTENS, _ENDS = re.compile(r"\bsshd\[\d+\]: Server listening"), re.compile(r"\bsshd\[\d+\]: .*terminating")
#: What logind says when goldsmith has pressed the button: from there on everybody ends, and says so.
_BUTTON = re.compile(r"\bsystemd-logind\[\d+\]: (Power key pressed|Powering off|System is powering down)")
#: What the network's own words are.
_NETWORK = re.compile(r"\b(?:systemd-networkd(?:-wait-online)?|NetworkManager|dhclient|dhcpcd)\[\d+\]: (.*)")


@dataclass(frozen=True)
class Evidence:
    """What one boot left. `what` is what was waited for in vain; `disk` is at rest, `journal` is off it.

    `disk` is None of a guest that runs on. `medium`: whether a provisioning medium was in its drive.
    """

    what: str
    serial: str
    on_fabric: bool
    medium: bool
    reports: tuple[Report, ...]
    exchanges: tuple[Exchange, ...]
    dhcp: str
    greets: bool
    disk: Image | None
    store: Path
    user: str
    journal: str = ""


def diagnose(evidence: Evidence) -> GuestError:
    """The first cause that the evidence shows, outermost first: boot, network, agent, report, login."""
    journal = _before_the_button(evidence.journal)
    name, text = _cause(evidence, journal)
    if name == "guest-unreachable":
        words = _networks_words(journal)
    else:
        words = (name in _SSHD and sshd_reason(journal)) or _agents_words(evidence)
    message = f"{text}: {words}" if words else text
    # a guest that asks in vain and one that never asked look the same from behind a firewall
    hint = UNFILTER if name in ("guest-no-dhcp", "guest-no-lease") and bridges_are_filtered() else None
    return GuestError(f"{message} ({evidence.what})", name=name, hint=hint)


def _cause(evidence: Evidence, journal: str) -> tuple[str, str]:
    if cause := _consoles_cause(evidence.serial):
        return cause
    cause = _fabrics_cause(evidence) if evidence.on_fabric else None
    if cause is not None and cause[0] in _AGENTS and not evidence.medium:
        return NOT_PROVISIONED, f"the clone was started but not provisioned: {cause[1]}"
    if cause is not None:
        return cause
    if not evidence.greets and _listens(journal):
        return "guest-unreachable", "sshd listens, but the clone's address does not answer: its network is not up"
    if not evidence.greets:
        return "guest-sshd-dead", "no sshd answers"
    return "login-refused", f"sshd answers, but refuses the user {evidence.user}"


def _consoles_cause(serial: str) -> tuple[str, str] | None:
    if not serial.strip():
        return (
            "console-silent",
            "the serial console shows nothing: the guest did not boot, or does not use this console",
        )
    if FIRMWARE_SHELL.search(serial.encode()):
        message = r"nothing bootable: the firmware ended in its own shell, so \EFI\BOOT\BOOTX64.EFI may be missing"
        return "guest-no-boot", message
    return None


def _fabrics_cause(evidence: Evidence) -> tuple[str, str] | None:
    """What the fabric and its DHCP server saw, or None where they saw all that they wait for."""
    bad = [report for report in evidence.reports if report.failed]
    asked = evidence.exchanges
    if bad:
        report = " ".join(part for part in (bad[-1].substatus, bad[-1].description) if part)
        return "provisioning-failed", f"the agent reported {bad[-1].state}: {report}"
    if "DHCPDISCOVER" not in evidence.dhcp and "DHCPREQUEST" not in evidence.dhcp:
        return "guest-no-dhcp", "the guest did not request an address"
    if "DHCPACK" not in evidence.dhcp:
        return "guest-no-lease", "the guest requested an address but did not accept one"
    if not asked:
        return "agent-silent", "no agent sent a request to the fabric"
    if not evidence.reports:
        last = f"{asked[-1].request.method} {asked[-1].request.target}"
        return (
            "agent-not-ready",
            f"the agent sent {len(asked)} requests to the fabric (the last: {last}) but reported nothing",
        )
    return None


def _before_the_button(journal: str) -> str:
    """The journal without the words of an end that was ours."""
    found = _BUTTON.search(journal)
    return journal[: found.start()].rpartition("\n")[0] if found else journal


def _listens(journal: str) -> bool:
    """Whether sshd listened at the last."""
    listens = False
    for line in journal.splitlines():
        listens = bool(_LISTENS.search(line)) or (listens and not _ENDS.search(line))
    return listens


def _networks_words(journal: str) -> str:
    """The last that the guest's network service said of itself, in its own words."""
    found = [match[0] for line in journal.splitlines() if (match := _NETWORK.search(line))]
    return "; ".join(found[-2:])[:WORDS] or "no network service has written a message"


def _agents_words(evidence: Evidence) -> str:
    """The last complaint of the guest's agents, off the disk at rest."""
    if evidence.disk is None:
        return ""
    try:
        logs = read_files(
            evidence.disk.path, evidence.disk.format.key, AGENT_LOGS, limit=LIMIT, within=evidence.store
        )
        for path, text in zip(AGENT_LOGS, logs, strict=True):
            lines = [line for line in (text or b"").decode(errors="replace").splitlines() if _TROUBLE.search(line)]
            if lines:
                return f"{path}: {lines[-1].strip()[:WORDS]}"
    except (GoldsmithError, OSError):
        return ""  # a disk that cannot be read says nothing
    return ""
