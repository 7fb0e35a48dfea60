"""prove: clones of the shipped file boot on both generations, and are what their user asked for."""

from __future__ import annotations

import os
import secrets
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import command
from pipeline.definition import CommandExpectation, HttpExpectation
from pipeline.errors import BuildError, CheckFailed, GoldsmithError, GuestError
from pipeline.gallery.digests import chunk_digests
from pipeline.guests import linux
from pipeline.guests.access import Access, free_port
from pipeline.guests.overlay import create_overlay
from pipeline.guests.session import GuestSession
from pipeline.hypervisor.connection import connect
from pipeline.hypervisor.domain import Disk, Forward, Spec
from pipeline.job import Job, Made, Work
from pipeline.layers import Draft, Image, Layer
from pipeline.record import remove_tree

NAME = "prove"
VERSION = 1
#: Bytes that a clone's disk is larger than the master's, to see the root file system grow.
GROWTH = 1 << 30
#: The user that a clone is asked to make.
CLONE_USER = "clone"
#: Seconds for a clone's units to settle after its sshd answers.
SETTLE = {True: 120.0, False: 360.0}


@dataclass(frozen=True)
class Hardware:
    """The likeness of a generation: what Azure and Hyper-V give, as near as QEMU comes."""

    firmware: str
    machine: str
    bus: str
    says: str


CELLS = {
    "gen1": Hardware("bios", "pc", "ide", "generation 1 (BIOS, IDE)"),
    "gen2": Hardware("efi", "q35", "scsi", "generation 2 (UEFI, SCSI)"),
}


@dataclass
class Verdict:
    """What one cell saw. `checks` maps what was looked at to what was seen; `failures` names what was wrong."""

    cell: str
    checks: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    screenshot: str | None = None

    def see(self, what: str, seen: str, good: bool) -> None:
        self.checks[what] = seen
        if not good:
            self.failures.append(f"{what}: {seen}")


def plan(job: Job) -> tuple[Work, ...]:
    definition = job.definition
    inputs: dict[str, object] = {
        "cells": sorted(definition.prove),
        "expect": [asdict_any(expectation) for expectation in definition.expect],
    }
    return (Work(", ".join(definition.prove), inputs, _run),)


def asdict_any(thing: Any) -> dict[str, Any]:
    data: dict[str, Any] = thing.model_dump() if hasattr(thing, "model_dump") else asdict(thing)
    return {"kind": type(thing).__name__, **data}


def _run(job: Job, source: Layer | None, draft: Draft) -> Made:
    assert source is not None
    verdicts, tree = prove(job, source.image, draft.path)
    told = " and ".join(f"{v.cell} in {v.seconds['ssh']:.0f} s" for v in verdicts)
    return Made(source.image, {"cells": {v.cell: asdict(v) for v in verdicts}, "tree": tree}, told)


def prove(job: Job, master: Image, pictures: Path) -> tuple[list[Verdict], str]:
    """Boot a clone of `master` in each of the definition's cells; their verdicts and the master's tree digest.

    Screenshots go to `pictures`. Raises CheckFailed where a clone is not what it should be, GuestError where one
    does not come up, BuildError where the master changed meanwhile.
    """
    before = chunk_digests(master.path).tree
    cells = list(job.definition.prove)
    _ = job.verdict  # measured once, before the threads share it
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(max_workers=max(1, min(len(cells), os.cpu_count() or 1))) as pool:
        futures = {pool.submit(_cell, job, master, cell, pictures): cell for cell in cells}
        try:
            for future in as_completed(futures):
                verdicts.append(future.result())
        except BaseException:
            job.cancelled.set()
            raise
    verdicts.sort(key=lambda verdict: verdict.cell)
    job.progress("the master's digests")
    if chunk_digests(master.path).tree != before:
        raise BuildError(f"{master.path} changed while it was proven", name="master-changed")
    _identities(verdicts)
    failures = [f"{verdict.cell}: {failure}" for verdict in verdicts for failure in verdict.failures]
    if failures:
        raise CheckFailed(
            "the master boots, but is not what it should be\n" + "\n".join(f"  {line}" for line in failures),
            name="prove-failed",
            hint=f"screenshots, serial logs and journals are in {job.run.folder / 'prove'}",
        )
    return verdicts, before


def _identities(verdicts: list[Verdict]) -> None:
    """Two clones of one master share no identity."""
    for what in ("machine-id", "host key"):
        seen: dict[str, str] = {}
        for verdict in verdicts:
            value = verdict.checks.get(what, "")
            if value in seen:
                verdict.failures.append(f"{what}: the same as {seen[value]}'s: {value}")
            seen[value] = verdict.cell


def _cell(job: Job, master: Image, cell: str, pictures: Path) -> Verdict:
    """Boot one clone and look at it. Raises what the boot raises, with the cell's name in front."""
    hardware = CELLS[cell]
    verdict = Verdict(cell)
    logs = job.run.folder / "prove" / cell
    logs.mkdir(parents=True, exist_ok=True)
    scratch = job.store.tmp / f"prove-{job.run.id}-{cell}"
    scratch.mkdir(parents=True, exist_ok=True)
    scratch.chmod(0o755)
    hostname = f"{cell}-{secrets.token_hex(3)}"
    access = Access.create(job.label, cell, CLONE_USER)
    ports = {e.port: free_port() for e in job.definition.expect if isinstance(e, HttpExpectation)}
    size = _grown(master.path)
    overlay = create_overlay(scratch / "disk.qcow2", master, size)
    spec = Spec(
        name=f"goldsmith-{job.label}-{cell}",
        run=job.label,
        role=f"prove {cell}",
        kvm=job.verdict.kind == "kvm",
        cpus=_cpus(job),
        memory=job.definition.machine.memory,
        disks=(Disk(overlay, hardware.bus),),
        serial_log=logs / "serial.log",
        firmware=hardware.firmware,
        machine=hardware.machine,
        forwards=(access.forward, *(Forward(host, guest) for guest, host in ports.items())),
        # a clone of another run must not meet the same address twice, nor find it pinned
        access_mac=f"52:54:00:{secrets.token_hex(1)}:{secrets.token_hex(1)}:{secrets.token_hex(1)}",
    )
    # one connection a thread: libvirt tracks event callbacks by connection, and two threads' calls collide
    connection = connect()
    session = GuestSession(
        connection,
        spec,
        access,
        logs=logs,
        cancelled=job.cancelled,
        progress=lambda text: job.progress(f"{cell}: {text}"),
    )
    try:
        session.open(linux.prove_user_data(CLONE_USER, access.public_key), hostname)
        verdict.seconds = dict(session.seconds)
        _look(session, verdict, hostname, size, SETTLE[spec.kvm])
        for expectation in job.definition.expect:
            _expect(expectation, session, verdict, ports)
        picture = pictures / f"{cell}.png"
        if session.machine.screenshot(picture):
            verdict.screenshot = picture.name
        job.progress(f"{cell}: shutting down")
        session.machine.shutdown(session.patience.shutdown)
    except GoldsmithError as error:
        session.black_box(quick=job.cancelled.is_set())
        error.message = f"{hardware.says}: {error.message}"
        error.args = (error.message,)
        error.hint = error.hint or f"look at {logs}"
        raise
    finally:
        session.close()
        connection.close()
        remove_tree(scratch)
    return verdict


def _cpus(job: Job) -> int:
    """As many processors as the definition says; emulated ones only as far as the host has some for each clone.

    Emulated processors that wait for each other's host core burn it: two clones of two on two cores boot slower
    than two clones of one.
    """
    wanted = job.definition.machine.cpus
    if job.verdict.kind == "kvm":
        return wanted
    return max(1, min(wanted, (os.cpu_count() or 1) // len(job.definition.prove)))


def _grown(disk: Path) -> int:
    """The clone's virtual size in bytes: the master's, without the footer, and GROWTH."""
    return (disk.stat().st_size - 512) + GROWTH


def _look(session: GuestSession, verdict: Verdict, hostname: str, size: int, settle: float) -> None:
    """What every clone must show, asked over its own ssh as the user it was asked to make."""
    script = _LOOK.replace("SETTLE", f"{settle:.0f}")
    said = session.steps.ssh("sudo -n sh -s", stdin=script, deadline=settle + session.patience.command).stdout
    seen = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    verdict.see("login", session.access.user, seen.get("user") == session.access.user)
    verdict.see("host name", seen.get("hostname", ""), seen.get("hostname") == hostname)
    root = int(seen.get("root", "0") or 0)
    # partitions, ESP and file system overhead take less than a tenth
    verdict.see("root grown", f"{root >> 20} of {size >> 20} MiB", root > (size - GROWTH) * 0.9 + GROWTH * 0.8)
    state = seen.get("state", "")
    failed = seen.get("failed", "").strip()
    verdict.see("services", f"{state} {failed}".strip(), state == "running" and not failed)
    machine_id = seen.get("machine-id", "")
    verdict.see("machine-id", machine_id, len(machine_id) == 32)
    verdict.see("host key", session.access.known_hosts.read_text().split()[-1][-16:], True)
    verdict.see("cloud-init", seen.get("cloud-init", ""), "done" in seen.get("cloud-init", ""))
    console = _prompts(session, f"{hostname} login:".encode(), settle)
    verdict.see("serial console", "login prompt" if console else f"no login prompt within {settle:.0f} s", console)


def _prompts(session: GuestSession, prompt: bytes, settle: float) -> bool:
    """Whether the serial console comes to its login prompt; on a slow guest it does after sshd."""
    try:
        session.machine.wait(
            "the serial console's login prompt",
            lambda: True if prompt in session.machine.serial() else None,
            deadline=settle,
            name="console-silent",
        )
    except GuestError as error:
        if error.name != "console-silent":
            raise
        return False
    return True


_LOOK = r"""
echo "user=$SUDO_USER"
echo "hostname=$(hostname)"
echo "root=$(df -B1 --output=size / | tail -n 1 | tr -d ' ')"
echo "machine-id=$(cat /etc/machine-id)"
echo "state=$(timeout SETTLE systemctl is-system-running --wait)"
echo "failed=$(systemctl list-units --failed --plain --no-legend | awk '{printf "%s ", $1}')"
echo "cloud-init=$(cloud-init status 2>/dev/null | head -n 1)"
"""


def _expect(
    expectation: HttpExpectation | CommandExpectation, session: GuestSession, verdict: Verdict, ports: dict[int, int]
) -> None:
    if isinstance(expectation, CommandExpectation):
        try:
            session.steps.ssh(expectation.command, deadline=session.patience.command)
        except command.CommandFailed as error:
            verdict.see(expectation.command, f"exit code {error.code}: {error.stderr.strip()[-200:]}", False)
        else:
            verdict.see(expectation.command, "exit code 0", True)
        return
    what = f"http port {expectation.port} {expectation.path}"
    url = f"http://127.0.0.1:{ports[expectation.port]}{expectation.path}"
    last = "no answer"

    def answered() -> bool | None:
        nonlocal last
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                status, body = reply.status, reply.read(1 << 20).decode(errors="replace")
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read(1 << 20).decode(errors="replace")
        except OSError as error:
            last = str(error)
            return None
        last = f"{status}, {len(body)} bytes"
        good = status == expectation.status and (expectation.contains or "") in body
        verdict.see(what, last if good else f"{last}: {body[:120]!r}", good)
        return True

    try:
        session.machine.wait(what, answered, deadline=session.patience.command, name="http-silent")
    except GuestError as error:
        if error.name != "http-silent":
            raise
        verdict.see(what, last, False)
