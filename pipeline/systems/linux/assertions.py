"""What is looked at in a running clone, and what the definition expects of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.base.printable import shorten
from pipeline.definition import CommandExpectation, DataDisk, HttpExpectation
from pipeline.fabric.instance import INTERNAL_DOMAIN, WIRESERVER
from pipeline.hypervisor.console import LOGIN
from pipeline.hypervisor.domain import NVME_DATA
from pipeline.prove import web
from pipeline.prove.first_boot_report import SETTLE
from pipeline.prove.result import CloneResult
from pipeline.systems.linux import resource_disk
from pipeline.systems.linux.clone import Clone

#: Seconds by which a clone's clock may differ from the host's; the question itself takes a second or two, emulated.
CLOCK = 15.0
#: Seconds for a clone to resolve a name: the C library asks a server that is silent twice, 5 s each.
RESOLVE = 20.0
#: Seconds for a page that is expected, from the connection to its last byte.
HTTP_DEADLINE = 10.0

#: Resolves a name as any program would, and says who was asked. busybox has no getent where musl's tools are missing.
RESOLVER_LINES = r"""
name=TOKEN.DOMAIN
if command -v getent >/dev/null; then
  found=$(timeout RESOLVE getent ahostsv4 $name 2>/dev/null | sed -n '1s/ .*//p')
else
  found=$(timeout RESOLVE ping -c 1 -W 1 $name 2>/dev/null | sed -n '1s/^[^(]*(\([0-9.]*\)).*/\1/p')
fi
echo "resolved=$found"
servers=$(sed -n '/^nameserver/p' /etc/resolv.conf 2>/dev/null | tr '\n' ' ')
echo "resolver=$(readlink /etc/resolv.conf || ls /etc/resolv.conf 2>&1) ${servers:-without a server}"
"""

#: Shell lines that print `others=`, the bytes of the other partitions of the disk of the root, and `root-on=` where
#: the root is in a logical volume.
ROOT_LINES = r"""
part=$(readlink -f "$(df --output=source / | sed -n '2{s/\[.*//;p}')")
part=$(readlink -f "/sys/class/block/${part##*/}")
if [ -e "$part/dm" ]; then echo "root-on=a logical volume"; fi
others=0
for p in "$part"/../*/partition; do
  [ ! -e "$p" ] || [ "$(readlink -f "${p%/*}")" = "$part" ] || others=$((others + $(cat "${p%/*}/size") * 512))
done
echo "others=$others"
"""

#: Runs as root in the clone. TOKEN is in the custom data that the clone was given. What `cloud-init status` would say
#: is read from where it reads it: its Python takes an emulated clone ten seconds to start.
_LOOK = r"""
echo "user=$SUDO_USER"
echo "hostname=$(hostname)"
echo "date=$(date +%s)"
echo "root=$(df -B1 --output=size / | tail -n 1 | tr -d ' ')"
ROOT_LINES
echo "machine-id=$(cat /etc/machine-id)"
echo "boot-id=$(cat /proc/sys/kernel/random/boot_id)"
echo "uuid=$(cat /sys/class/dmi/id/product_uuid)"
echo "mac=$(cat /sys/class/net/e*/address | head -n 1)"
for f in /var/lib/cloud/instance/user-data.txt /var/lib/waagent/CustomData; do
  [ -e "$f" ] && { cat "$f"; echo; base64 -d "$f" 2>/dev/null; echo; }
done | grep -q TOKEN && echo "custom-data=found"
for d in /sys/block/sd* /sys/block/nvme[0-9]*n[0-9]*; do
  # nvme0c0n1 is a way to nvme0n1
  case $d in */nvme*c*) continue;; esac
  [ -e "$d/device" ] || continue
  n=${d##*/}
  type=$(blkid -p -o value -s TYPE "/dev/$n" 2>/dev/null)
  label=$(blkid -p -o value -s LABEL "/dev/$n" 2>/dev/null)
  case $n in
    nvme*) place=nvme:$(($(cat "$d/nsid") - NVME_DATA));;
    *) place=$(basename "$(readlink -f "$d/device")");;
  esac
  echo "disk $n=$place $(cat "$d/size") ${type:--} ${label:--}"
done
echo "secure-boot=$(od -An -t u1 -j 4 /sys/firmware/efi/efivars/SecureBoot-* 2>/dev/null | tr -d ' ')"
echo "tpm=$(cat /sys/class/tpm/tpm0/tpm_version_major 2>/dev/null)"
echo "state=$(timeout SETTLE systemctl is-system-running --wait)"
RESOLVER_LINES
RESOURCE_DISK
echo "failed=$(systemctl list-units --failed --plain --no-legend | awk '{printf "%s ", $1}')"
c=/run/cloud-init
if [ -e $c/disabled ]; then echo "cloud-init=status: disabled"
elif [ -s $c/result.json ]; then
  grep -q '"errors": \[\]' $c/result.json && echo "cloud-init=status: done" || echo "cloud-init=status: error"
elif [ -d $c ]; then echo "cloud-init=status: running"
fi
echo "waagent=$(systemctl is-active walinuxagent.service waagent.service 2>/dev/null | grep -x active | head -n 1)"
"""


def resolver_lines(token: str) -> str:
    """Shell lines that print `resolved=`, the address of a name that no file of the clone knows, and `resolver=`."""
    lines = RESOLVER_LINES.replace("TOKEN", token).replace("DOMAIN", INTERNAL_DOMAIN)
    return lines.replace("RESOLVE", f"{RESOLVE:.0f}").strip("\n")


def facts(clone: Clone, token: str) -> dict[str, str]:
    """What a clone says of itself, asked over its own ssh as the user that it was asked to make."""
    settle = SETTLE[clone.spec.kvm]
    script = _LOOK.replace("RESOLVER_LINES", resolver_lines(token)).replace("RESOURCE_DISK", resource_disk.LOOK)
    script = script.replace("ROOT_LINES", ROOT_LINES.strip("\n"))
    script = script.replace("SETTLE", f"{settle:.0f}").replace("TOKEN", token).replace("NVME_DATA", str(NVME_DATA))
    output = clone.steps.ssh("sudo -n sh -s", stdin=script, deadline=settle + clone.timeouts.command).stdout
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def provisioned(
    clone: Clone, result: CloneResult, seen: Mapping[str, str], *, hostname: str, size: int, growth: int
) -> None:
    """Judge a first boot: the clone is what it was asked to be."""
    result.see("login", clone.access.user, seen.get("user") == clone.access.user)
    result.see("host name", seen.get("hostname", ""), seen.get("hostname") == hostname)
    result.see("custom data", seen.get("custom-data", "not there"), seen.get("custom-data") == "found")
    see_growth(result, seen, size=size, growth=growth)
    machine_id = seen.get("machine-id", "")
    result.see("machine-id", machine_id, len(machine_id) == 32)
    result.see("host key", clone.access.known_hosts.read_text().split()[-1][-16:], True)
    result.see("uuid", seen.get("uuid", ""), bool(seen.get("uuid")))
    result.see("mac", seen.get("mac", ""), bool(seen.get("mac")))
    if seen.get("cloud-init"):
        result.see("cloud-init", seen["cloud-init"], "done" in seen["cloud-init"])
    healthy(clone, result, seen)
    if clone.spec.secure_boot:
        result.see("secure boot", "on" if seen.get("secure-boot") == "1" else "off", seen.get("secure-boot") == "1")
    if clone.spec.tpm:
        result.see("tpm", seen.get("tpm") or "none", seen.get("tpm") == "2")
    settle = SETTLE[clone.spec.kvm]
    console = _prompts(clone, settle)
    result.see("serial console", "login prompt" if console else f"no login prompt within {settle:.0f} s", console)


def see_growth(result: CloneResult, seen: Mapping[str, str], *, size: int, growth: int) -> None:
    """Judge the root's size on a disk of `size` bytes, which is `growth` bytes larger than the shipped one.

    Other partitions of that disk keep their place, and a logical volume its size: nothing but a step of the
    definition's own enlarges one.
    """
    root, others = (int(seen.get(name, "0") or 0) for name in ("root", "others"))
    shown = f"{root >> 20} of {size >> 20} MiB"
    if on := seen.get("root-on"):
        result.see("root", f"{shown}, in {on}, which is not grown", root > 0)
        return
    # the overhead of the file system is less than a tenth
    result.see("root grown", shown, root > (size - growth - others) * 0.9 + growth * 0.8)


def attached(clone: Clone, result: CloneResult, seen: Mapping[str, str], disks: Sequence[DataDisk]) -> None:
    """Judge the data disks: each at its LUN, of its size, with its file system. AHCI knows no LUN."""
    rows = [value.split() for name, value in seen.items() if name.startswith("disk ")]
    found = [(row[0].split(":"), int(row[1]) * 512, row[2], row[3]) for row in rows if len(row) == 4]
    for disk in disks:
        wanted = (disk.size, disk.filesystem or "-", disk.label or "-")
        description = f"{disk.size >> 20} MiB, {disk.filesystem or 'blank'} {disk.label or ''}".strip()
        there = [place for place, *rest in found if tuple(rest) == wanted]
        if clone.spec.virtio:
            there = [place for place in there if place[-1] == str(disk.lun)]
        result.see(f"data disk LUN {disk.lun}", description if there else f"not there: {description}", bool(there))


def healthy(clone: Clone, result: CloneResult, seen: Mapping[str, str]) -> None:
    """Judge what must hold after any boot."""
    state, failed = seen.get("state", ""), seen.get("failed", "").strip()
    result.see("services", f"{state} {failed}".strip(), state == "running" and not failed)
    if clone.guest is not None:
        found = seen.get("resolved", "")
        resolved = (
            found or f"no name can be resolved: /etc/resolv.conf is {seen.get('resolver', 'not known').strip()}"
        )
        result.see("names", resolved, found == WIRESERVER)
    # the answer came before the units had settled: the clock was read first, the whole took as long as it did
    behind = float(seen.get("date", "0") or 0) - time.time()
    settle = SETTLE[clone.spec.kvm]
    result.see("clock", _apart(behind, settle), -(settle + CLOCK) < behind < CLOCK)


def _apart(seconds: float, settle: float) -> str:
    if -(settle + CLOCK) < seconds < CLOCK:
        return "right"
    return f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"


def _prompts(clone: Clone, settle: float) -> bool:
    """Whether the serial console comes to its login prompt; on a slow guest it does after sshd.

    The host name before it does not matter: where waagent provisions, the prompt appears before the name is set.
    """
    try:
        clone.machine.wait(
            "the serial console's login prompt",
            lambda: True if LOGIN.search(clone.machine.serial()) else None,
            deadline=settle,
            name="console-silent",
        )
    except GuestError as error:
        if error.name != "console-silent":
            raise
        return False
    return True


def expect(
    expectation: HttpExpectation | CommandExpectation, clone: Clone, result: CloneResult, ports: Mapping[int, int]
) -> dict[str, str]:
    """Judge what the definition expects of a running clone; the pages that it answered with, by their address."""
    if isinstance(expectation, CommandExpectation):
        try:
            clone.steps.ssh(expectation.command, deadline=clone.timeouts.command)
        except process.CommandFailed as error:
            result.see(expectation.command, f"exit code {error.code}: {shorten(error.stderr.strip())}", False)
        else:
            result.see(expectation.command, "exit code 0", True)
        return {}
    what = f"http port {expectation.port} {expectation.path}"
    last = "no answer"
    pages: dict[str, str] = {}

    def answered() -> bool | None:
        nonlocal last
        try:
            answer = web.fetch(ports[expectation.port], expectation.path, HTTP_DEADLINE)
        except OSError as error:
            last = str(error)
            return None
        last = answer.describe()
        pages[what] = answer.body
        good = answer.status == expectation.status and (expectation.contains or "") in answer.body
        result.see(what, last if good else f"{last}: {answer.body[: web.WORDS]!r}", good)
        return True

    try:
        clone.machine.wait(what, answered, deadline=clone.timeouts.command, name="http-silent")
    except GuestError as error:
        if error.name != "http-silent":
            raise
        result.see(what, last, False)
    return pages
