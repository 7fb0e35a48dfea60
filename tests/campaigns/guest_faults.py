"""Guests that fail, each in its own way; each must end within its deadline, by its own name, with a black box."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import Lab, Say, wanted


@dataclass(frozen=True)
class Fault:
    """One failing guest. `scripts` are its steps; `edit` are debugfs commands on a copy of the golden master."""

    id: str
    error: str
    scripts: tuple[str, ...] = ()
    timeout: str = "5 min"
    edit: tuple[str, ...] = ()
    exit_code: int = 4
    #: Seconds within which the whole build must have ended, from the word go.
    deadline: float = 420.0
    #: What the message must say besides.
    says: str = ""
    box: tuple[str, ...] = field(default=("serial.log", "journal.log", "agent.log"))


UNITS = "/etc/systemd/system"
FAULTS = (
    Fault("step-fails", "step-failed", ("echo before; exit 3",)),
    Fault("step-hangs", "step-timeout", ("sleep 3600",), timeout="20 s"),
    Fault(
        "no-agent", "source-no-agent", ("true",), edit=("rm /usr/sbin/qemu-ga",), exit_code=2, deadline=60.0, box=()
    ),
    Fault(
        "agent-broken",
        "guest-no-agent",
        ("true",),
        # nor is it a disk whose kernel goldsmith starts itself, so that it comes to a login prompt
        edit=("sif /usr/sbin/qemu-ga mode 0100644", f"rm {UNITS}/multi-user.target.wants/systemd-networkd.service"),
        box=("serial.log", "journal.log"),
    ),
    Fault(
        "kernel-hangs",
        "guest-kernel-hung",
        ("true",),
        edit=(
            f"write {Path(__file__).with_name('spin.service')} {UNITS}/spin.service",
            f"mkdir {UNITS}/sysinit.target.wants",
            f"symlink {UNITS}/sysinit.target.wants/spin.service {UNITS}/spin.service",
        ),
        # twice: the boot is tried once more
        deadline=660.0,
        box=("serial.log", "hung-serial.log", "hung-screen.png"),
    ),
    Fault(
        "no-network",
        "guest-no-network",
        ("true",),
        edit=("symlink /etc/systemd/system/systemd-networkd.service /dev/null",),
    ),
    Fault("kernel-panic", "guest-kernel-panic", ("sync; echo c > /proc/sysrq-trigger; sleep 600",)),
    Fault(
        "disk-full",
        "guest-disk-full",
        # most of it is only reserved: to write eight GiB would take an emulated guest minutes
        ("fallocate -l $(df --output=avail -B1M / | tail -n 1)M /var/big; cat /dev/zero > /var/rest; exit 1",),
    ),
    # as the kernel does it at an error of the disk
    Fault("read-only", "guest-root-read-only", ("echo u > /proc/sysrq-trigger; sleep 3; touch /srv/file",)),
    Fault("reboot", "guest-rebooted", ("systemctl reboot; sleep 600",)),
    Fault(
        "generalize-refused",
        "generalize-refused",
        ("printf '#!/bin/sh\\necho no lease >&2\\nexit 9\\n' > /usr/sbin/waagent; chmod 755 /usr/sbin/waagent",),
    ),
    # a restart as the last command is waited for: it is the next step that fails
    Fault(
        "reboot-at-the-end", "step-failed", ("touch /srv/before; reboot", "test -e /srv/before; exit 3"), says="end-2"
    ),
    Fault("shutdown-to-come", "step-took-guest-down", ("shutdown -r +5",), says="scheduled a reboot"),
    Fault("powers-off", "step-took-guest-down", ("systemctl poweroff -ff; sleep 600",), says="powered off"),
    Fault("powers-off-at-the-end", "step-took-guest-down", ("poweroff",), says="powered off"),
    Fault("halts", "step-took-guest-down", ("halt",), says="halted"),
    Fault(
        "port-of-sshd",
        "step-cut-ssh",
        ("echo Port 2222 >/etc/ssh/sshd_config.d/port.conf; systemctl restart ssh", "true"),
        says="port 2222",
    ),
    Fault(
        "network-down",
        "guest-no-network",
        ("for card in /sys/class/net/e*; do ip link set ${card##*/} down; done", "true"),
        says="down-1",
    ),
    Fault("sshd-dead", "guest-sshd-dead", ("systemctl mask --now ssh.service", "true")),
    # what generalize does not clean must stop the build at inspect: by its own check
    Fault(
        "password-ships",
        "checks-failed",
        ("useradd -m oper; echo 'oper:secret' | chpasswd",),
        exit_code=1,
        deadline=600.0,
        says="password-hash",
        box=("serial.log", "checks.json"),
    ),
)


def definition(fault: Fault, lab: Lab, master: Path) -> str:
    """Write the faulty project into the lab; the image's name."""
    name = f"fault-{fault.id}"
    lines = ["goldsmith: 1", f"summary: fails by {fault.id}", "os: linux", "machine: {cpus: 1}"]
    if fault.edit:
        disk = edited(master, lab.folder / f"{name}.vhd", fault.edit)
        lines += [f"source: {{disk: {{path: {disk.name}, format: vhd}}}}", "disk: 9 GiB"]
    else:
        lines += ["source: {master: debian-12@golden}"]
    lines += ["steps:"]
    for number, script in enumerate(fault.scripts, 1):
        path = f"scripts/{name}-{number}.sh"
        lab.write(path, f"#!/bin/sh\n{script}\n")
        lines += [f"  - script: {path}", f"    timeout: {fault.timeout}"]
    lab.write(f"images/{name}.yaml", "\n".join(lines) + "\n")
    return name


def edited(master: Path, copy: Path, commands: tuple[str, ...]) -> Path:
    """A sparse copy of a master with its root file system changed at rest by debugfs."""
    subprocess.run(["cp", "--sparse=always", master, copy], check=True)
    copy.chmod(0o644)
    first = subprocess.run(["sgdisk", "-i", "1", copy], capture_output=True, text=True, check=True).stdout
    start = int(first.split("First sector: ")[1].split()[0])
    done = subprocess.run(
        ["debugfs", "-w", f"{copy}?offset={start * 512}"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    # a folder that exists already, or a file that is not there to be removed, is as wanted
    harmless = ("debugfs ", "mkdir: Ext2 directory", "ext2fs_mkdir: Ext2 directory", "rm: File not found")
    wrong = [line for line in done.stderr.splitlines() if not line.startswith(harmless) and line.strip()]
    assert not wrong, wrong
    return copy


def run(fault: Fault, lab: Lab, master: Path) -> dict[str, object]:
    """Build the faulty definition and judge how it ended. Raises AssertionError."""
    name = definition(fault, lab, master)
    began = time.monotonic()
    # the deadline is that of a quiet host; others may be at work on this one
    done = lab.run("build", name, deadline=2 * fault.deadline)
    took = time.monotonic() - began
    record = lab.last_run(name)
    error = record.get("error", {})
    assert done.returncode == fault.exit_code, f"exit {done.returncode}: {done.stderr}"
    assert error.get("name") == fault.error, error
    assert fault.says in error["message"], error
    assert str(record["folder"]) in done.stderr, "the black box's path is not printed"
    for file in fault.box:
        path = record["folder"] / file
        assert path.is_file() and path.stat().st_size > 0, f"{file} is missing from the black box"
    assert "Traceback" not in done.stderr + done.stdout
    (lab.folder / f"{name}.vhd").unlink(missing_ok=True)
    return {"fault": fault.id, "error": error["name"], "seconds": round(took), "message": error["message"][:100]}


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    def run_fault(fault: Fault) -> dict[str, object]:
        try:
            row: dict[str, object] = {**run(fault, lab, master), "ok": True}
        except (AssertionError, subprocess.TimeoutExpired) as error:
            row = {"fault": fault.id, "error": "", "seconds": 0, "message": str(error)[:300], "ok": False}
        say(row)
        return row

    names = wanted(fault.id for fault in FAULTS)
    # two at a time: a guest that waits for its deadline leaves a core idle
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run_fault, [fault for fault in FAULTS if fault.id in names]))
    left = lab.leftovers()
    rows.append({"fault": "what all of them left", "error": "", "seconds": 0, "message": str(left), "ok": not left})
    return rows
