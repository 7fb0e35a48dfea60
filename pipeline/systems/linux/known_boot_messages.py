"""Messages of a boot that say nothing against a master, each with its reason: data for `boot_messages`.

Each was seen in clones of masters that are as they should be, or is what a kernel writes where its processor gets too
little time. A message that nothing explains is a finding, and does not belong here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownMessage:
    """`source` (the program's name in the journal, or `kernel`) and `text` must match the whole.

    `emulated_only`: what explains it is an emulated processor; under KVM it is a finding.
    """

    source: re.Pattern[str]
    text: re.Pattern[str]
    reason: str
    emulated_only: bool = False


def _known(source: str, text: str, reason: str, *, emulated_only: bool = False) -> KnownMessage:
    return KnownMessage(re.compile(source), re.compile(text, re.DOTALL), reason, emulated_only)


_CLOCK = "an emulated processor has no steady clock to calibrate by"
_TIME = "the processors of the clone got too little time from the host"
_WIRELESS = "the kernel has wireless networks built in and looks for their rules; no VM has a wireless card"
_VSOCK = (
    "systemd-ssh-generator of systemd 257 fails where no vsock device is (systemd issue 42188); it offers ssh over "
    "vsock, which nobody uses here"
)

KNOWN_MESSAGES = (
    # the machine
    _known("kernel", r"Failed to access perfctr msr .*", "no hypervisor here has the processor's counters of events"),
    _known(
        "kernel",
        r"acpi PNP0A03:00: fail to add MMCONFIG information, can't access extended .*configuration space .*",
        "the bridge of i440fx has no extended configuration space",
    ),
    _known(
        "kernel",
        r"GPT: ?Use GNU Parted to correct GPT errors\.",
        "a clone's disk is larger than the master's, so the second table is not at its end; the first boot moves it",
    ),
    _known("kernel", r"(?:tsc: )?Fast TSC calibration failed", _CLOCK),
    _known("kernel", r"calibrate_delay_direct\(\) failed to get a good estimate .*", _CLOCK, emulated_only=True),
    _known("kernel", r"\.\.MP-BIOS bug: 8254 timer not connected to IO-APIC", _CLOCK, emulated_only=True),
    # a host that is busy
    _known("kernel", r"(?:rcu: |\t\().*", _TIME, emulated_only=True),
    _known("kernel", r"(?:NMI )?watchdog: (?:BUG: soft lockup - )?CPU.*", _TIME, emulated_only=True),
    _known("kernel", r"watchdog: BUG: soft lockup .*", _TIME, emulated_only=True),
    _known("kernel", r"INFO: task \S+ blocked for more than \d+ seconds\.", _TIME, emulated_only=True),
    _known("kernel", r" +(?:Not tainted|Tainted: .*) \d+\.\d+.*", _TIME, emulated_only=True),
    _known("kernel", r'"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" .*', _TIME, emulated_only=True),
    _known("kernel", r"tpm tpm\d+: Operation Timed out", _TIME, emulated_only=True),
    _known("kernel", r"ima: Error Communicating to TPM chip, result: -62", _TIME, emulated_only=True),  # ETIME
    # what the kernel looks for
    _known("kernel", r"(?:platform regulatory\.0|cfg80211): .*regulatory\.db.*", _WIRELESS),
    _known(
        "kernel",
        r"firmware_class: See https://wiki\.debian\.org/Firmware .*",
        "Debian 12's kernel adds it to the first firmware that it does not find; that message is judged by itself",
    ),
    # systemd
    _known("systemd-ssh-generator", r"Failed to query local AF_VSOCK CID: .*", _VSOCK),
    _known(
        r"systemd|\(sd-exec.*|kernel",
        r"(?:\(sd-exec-\[\d+\]: )?/usr/lib/systemd/system-generators/systemd-ssh-generator failed .*",
        _VSOCK,
    ),
    _known(
        "systemd",
        r"Failed to start ssh\.service - OpenBSD Secure Shell server\.",
        "waagent without cloud-init makes the host keys, and starts sshd again; that it then runs, the login shows",
    ),
    # goldsmith itself
    _known(
        r"sshd(?:-session)?",
        r"error: kex_exchange_identification: .*",
        "goldsmith looks whether sshd answers, and closes the connection",
    ),
    _known(r"sshd(?:-session)?", r"fatal: Timeout before authentication for .*", _TIME, emulated_only=True),
)
