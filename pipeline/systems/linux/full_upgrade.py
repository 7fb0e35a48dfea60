"""A full upgrade of a clone's packages and a restart: after both it must be the same machine, and healthy.

LISA asks this of an image (`verify_os_update`). The clone has a way out to the archives that its master names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.base.printable import shorten
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.boot_messages import check_boot_messages
from pipeline.systems.linux.clone import Clone

#: What upgrades all packages.
SCRIPT = Path(__file__).parent / "inside" / "full-upgrade.sh"
#: What the package manager has printed, and the messages of the boot after it, in the clone's folder.
LOG, MESSAGES_LOG = "full-upgrade.log", "boot-messages-upgraded.log"
#: What the checks are called in results.
CHECK, RESTART, KERNEL, MESSAGES = (
    "full upgrade",
    "restart after the upgrade",
    "kernel after the upgrade",
    "boot messages after the upgrade",
)
#: Seconds for the upgrade. By KVM: True. Emulated, a new kernel's initramfs alone takes minutes.
DEADLINE = {True: 900.0, False: 2400.0}
#: What a restart must not change.
IDENTITY = ("host name", "machine-id", "SSH host keys")
#: The script's exit codes, in words, each with its remedy.
_CAUSES = {
    82: ("apt knows no package archive", "name one in /etc/apt/sources.list.d of the image"),
    83: ("the package lists could not be updated", "check that this host reaches the archives that the image names"),
    84: ("packages could not be upgraded", "upgrade a VM of the master and correct the package that fails"),
}
_UNSUPPORTED = 81
#: Lines by which apt and dpkg say what is wrong.
_TROUBLE = re.compile(r"(dpkg: error|E: |Err:).*")
#: The end of apt's summary.
_KEPT_BACK = re.compile(r"^\d+ upgraded, .* and (\d+) not upgraded\.", re.MULTILINE)

#: Runs as root in the clone.
_STATE = r"""
echo "boot id=$(cat /proc/sys/kernel/random/boot_id)"
echo "host name=$(hostname)"
echo "machine-id=$(cat /etc/machine-id)"
echo "SSH host keys=$(cat /etc/ssh/ssh_host_*_key.pub | cut -d ' ' -f 1,2 | sha256sum)"
echo "kernel=$(uname -r)"
for kernel in /boot/vmlinuz-*; do echo "kernel ${kernel#/boot/vmlinuz-}="; done
dpkg-query -W -f '${db:Status-Abbrev}package ${binary:Package}=${Version}\n' | sed -n 's/^[hi]i *//p'
"""


@dataclass(frozen=True)
class State:
    """What a clone says of itself: `facts` by name, `packages` with their versions, installed `kernels`."""

    facts: Mapping[str, str]
    packages: Mapping[str, str]
    kernels: frozenset[str]

    @classmethod
    def parse(cls, output: str) -> State:
        facts: dict[str, str] = {}
        packages: dict[str, str] = {}
        kernels = set()
        for line in output.splitlines():
            name, _, value = line.partition("=")
            if name.startswith("package "):
                packages[name.removeprefix("package ")] = value
            elif name.startswith("kernel "):
                kernels.add(name.removeprefix("kernel "))
            else:
                facts[name] = value.strip()
        return cls(facts, packages, frozenset(kernels))


def upgrade(clone: Clone, result: CloneResult) -> None:
    """Upgrade all packages, restart, and judge that the clone is the machine that it was.

    Raises GuestError: upgrade-unsupported, upgrade-failed; guest-no-restart and what a boot raises.
    """
    before = _read_state(clone)
    began = time.monotonic()
    output = _run(clone)
    result.seconds["upgrade"] = round(time.monotonic() - began, 1)
    clone.restart()
    result.seconds["restart"] = clone.seconds["ssh"]
    after = _read_state(clone)
    if clone.guest is not None:
        # only what the agent says from here on is of the upgraded machine
        clone.guest.begin()
    judge_upgrade(result, before, after, output)


def check_boot(clone: Clone, result: CloneResult) -> None:
    """Judge the messages of the boot after the upgrade."""
    check_boot_messages(clone, result, check=MESSAGES, log=MESSAGES_LOG)


def judge_upgrade(result: CloneResult, before: State, after: State, output: str) -> None:
    """Judge two states of a clone, and what the package manager printed between them."""
    result.see(CHECK, count_changes(before.packages, after.packages, output), True)
    lost = [what for what in IDENTITY if not after.facts.get(what) or before.facts.get(what) != after.facts[what]]
    if before.facts.get("boot id") == after.facts.get("boot id"):
        result.see(RESTART, "the boot id is the same: the clone did not restart", False)
    else:
        result.see(RESTART, f"another {', another '.join(lost)}" if lost else "the same machine", not lost)
    kernel, new = after.facts.get("kernel", ""), after.kernels - before.kernels
    if new and kernel not in new:
        result.see(KERNEL, f"{kernel} runs, although the upgrade installed {', '.join(sorted(new))}", False)
    else:
        result.see(KERNEL, kernel, bool(kernel))


def count_changes(before: Mapping[str, str], after: Mapping[str, str], output: str) -> str:
    """`2 packages upgraded, 1 installed, 0 removed`; with `1 kept back` where the package manager said so."""
    upgraded = sum(name in before and before[name] != version for name, version in after.items())
    words = [
        f"{upgraded} package{'' if upgraded == 1 else 's'} upgraded",
        f"{len(after.keys() - before.keys())} installed",
        f"{len(before.keys() - after.keys())} removed",
    ]
    kept_back = [int(number) for number in _KEPT_BACK.findall(output)]
    return ", ".join([*words, *([f"{kept_back[-1]} kept back"] if kept_back and kept_back[-1] else [])])


def _read_state(clone: Clone) -> State:
    return State.parse(clone.steps.ssh("sudo -n sh -s", stdin=_STATE, deadline=clone.timeouts.command).stdout)


def _run(clone: Clone) -> str:
    """Run the upgrade; what it printed. Its lines are in the log as they come."""
    deadline = DEADLINE[clone.spec.kvm]
    with (clone.logs / LOG).open("w", encoding="utf-8") as log:

        def keep(line: str) -> None:
            log.write(f"{line}\n")
            log.flush()

        try:
            return clone.steps.ssh("sudo -n sh -s", stdin=SCRIPT.read_text(), deadline=deadline, on_line=keep).stdout
        except process.CommandTimeout:
            what = f"it was not done after {deadline:.0f} s"
            raise GuestError(
                f"full upgrade: {what}", name="upgrade-failed", hint=f"read {clone.logs / LOG}; the host may be busy"
            ) from None
        except process.CommandFailed as error:
            raise _explain(error, clone.logs / LOG) from None


def _explain(error: process.CommandFailed, log: Path) -> GuestError:
    if error.code == _UNSUPPORTED:
        return GuestError(
            "full upgrade: the clone has no apt-get, and goldsmith knows no other package manager's upgrade",
            name="upgrade-unsupported",
            hint="test another target than gen2-upgrade",
        )
    cause, remedy = _CAUSES.get(
        error.code, (f"it ended with {error.code}", "the connection to the clone may be lost")
    )
    words = first_trouble(error.stdout) or error.stderr.strip()
    message = f"full upgrade: {cause}{f': {shorten(words)}' if words else ''}"
    return GuestError(message, name="upgrade-failed", hint=f"{remedy}; all messages are in {log}")


def first_trouble(output: str) -> str:
    """The first complaint in apt's output, with the line that dpkg continues it in."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if found := _TROUBLE.match(line.strip()):
            more = lines[number + 1].strip() if found[0].endswith(":") and number + 1 < len(lines) else ""
            return f"{found[0]} {more}".rstrip()
    return ""
