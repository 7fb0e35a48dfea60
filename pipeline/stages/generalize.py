"""generalize: the guest forgets who it is, and powers itself off. A forced power-off is never a generalized disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import checks
from pipeline.base.errors import DiskError, GuestError
from pipeline.cache.layers import DISK, Draft, Image, Layer
from pipeline.context import Job, Made, Work
from pipeline.definition import IsoSource
from pipeline.systems.linux import scripts
from pipeline.systems.linux.first_boot_service import install_script

if TYPE_CHECKING:
    from pipeline.checks import CheckResult

NAME = "generalize"
VERSION = 2
#: Seconds for the whole script: 30 s of cleaning under TCG, and a trim that grows with what was freed.
DEADLINE = 600.0
#: Failures of sysprep's whose cause may stand in its log.
_UNTOLD = frozenset({"sysprep-refused", "sysprep-hangs", "sysprep-not-generalized"})
_SETUP_STATE = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State"


def plan(job: Job) -> tuple[Work, ...]:
    if job.definition.generalize.agent == "outside":
        return ()
    if job.definition.os == "windows":
        return (_windows(job),)
    script = _script(job)
    inputs: dict[str, object] = {
        "agent": job.definition.generalize.agent,
        "script": hashlib.sha256(script.encode()).hexdigest(),
    }
    if not job.definition.steps:
        inputs["disk size"] = job.definition.disk
    return (Work("generalize", inputs, _run, live=True),)


def _windows(job: Job) -> Work:
    # a plan of a Linux image needs none of these
    from pipeline.systems.windows import firewall, first_boot, sysprep

    definition = job.definition
    inputs: dict[str, object] = {
        "agent": "sysprep",
        "mode_vm": definition.generalize.mode_vm,
        "answers": hashlib.sha256(_answers(job) or b"").hexdigest(),
        "preflight": hashlib.sha256(sysprep.PREFLIGHT).hexdigest(),
        "preparation": hashlib.sha256(sysprep.PREPARATION).hexdigest(),
    }
    if _opens(job):
        inputs["ports"] = hashlib.sha256(firewall.script(definition.ports)).hexdigest()
    if definition.first_boot:
        inputs["first boot"] = first_boot.digest(definition.first_boot)
    return Work("sysprep", inputs, _run_sysprep)


def _answers(job: Job) -> bytes | None:
    from pipeline.systems.windows import answers

    definition = job.definition
    skips = definition.generalize.skip_oobe
    return answers.first_boot(definition.locale, definition.timezone) if skips else None


def _opens(job: Job) -> bool:
    """Whether the firewall has to be seen to: a parent may have opened what this image does not declare."""
    return bool(job.definition.ports) or not isinstance(job.definition.source, IsoSource)


def _run_sysprep(job: Job, source: Layer | None, draft: Draft) -> Made:
    from pipeline.guest.disks import create_overlay
    from pipeline.systems.windows import first_boot, oobe, ports, sysprep

    assert source is not None
    overlay = create_overlay(draft.path / DISK, source.image)
    session = job.windows(overlay)
    oobe.begin(session)
    session.machine.outside(False)
    if _opens(job):
        ports.open_ports(session, job.definition.ports, job.line)
    if job.definition.first_boot:
        first_boot.install(session, job.definition.first_boot, job.line)
    try:
        left = sysprep.generalize(session, _answers(job), mode_vm=job.definition.generalize.mode_vm, said=job.line)
        session.close()
        job.session = None
        job.progress("is it generalized?")
        _proven(job, overlay)
    except GuestError as error:
        raise _named_by_disk(job, overlay, error) from None
    return Made(overlay, {"rearms_left": left}, "sysprep")


def inspect_disk(disk: Image, within: Path) -> list[CheckResult]:
    """What the checks say of a Windows disk at rest, whose layers lie in `within`. Raises DiskError."""
    return checks.inspect_disk(disk.path, disk.format, profile="azure-windows", allow_backing_within=within)


def _named_by_disk(job: Job, disk: Image, error: GuestError) -> GuestError:
    """The failure under the name of the cause that stands in sysprep's log on the disk.

    Where sysprep fails the agent is often gone, and cannot be asked for it.
    """
    from pipeline.systems.windows import sysprep

    if error.name not in _UNTOLD or (job.session is not None and job.keep_failed):
        return error
    if job.session is not None:
        # qemu holds the disk; what the guest still tells is saved first
        job.session.black_box()
        job.session.machine.destroy()
    try:
        results = inspect_disk(disk, job.store.root)
    except DiskError:
        return error  # a disk that is still written to may not be readable
    told = next((one.evidence for one in results if one.id == "win-sysprep-errors" and one.status == "warn"), "")
    if not told:
        return error
    named = sysprep.by_log(told, error.message)
    return named or GuestError(f"{error.message}: {told}", name=error.name, hint=error.hint)


def _proven(job: Job, disk: Image) -> None:
    """Ask the disk at rest whether it is generalized. Raises GuestError (sysprep-not-generalized)."""
    try:
        rows = checks.list_disk(
            disk.path, disk.format, what="registry", key=_SETUP_STATE, allow_backing_within=job.store.root
        )
    except DiskError as error:
        raise GuestError(
            f"the disk does not tell whether it is generalized: {error.message}", name="sysprep-not-generalized"
        ) from None
    state = next((value for name, value in rows if name.lower() == "imagestate"), "not set")
    from pipeline.checks.windows.state import GENERALIZED

    if state != GENERALIZED:
        raise GuestError(
            f"the machine has powered off, and is not generalized: its image state is {state}",
            name="sysprep-not-generalized",
            hint="sysprep failed, or something else shut it down; see its logs in the black box",
        )


def _script(job: Job) -> str:
    adapter = job.definition.first_boot
    return scripts.generalize_script(job.definition.generalize.agent, install_script(adapter) if adapter else "")


def _run(job: Job, source: Layer | None, draft: Draft) -> Made:
    assert source is not None
    session = job.guest(source, draft)
    agent_name = job.definition.generalize.agent
    job.progress("waagent -deprovision" if agent_name == "waagent" else "cleaning")
    done = session.agent.execute(
        ["/bin/sh", "-s"], stdin=_script(job), deadline=DEADLINE, check=session.machine.check
    )
    log = job.log_file("generalize.log")
    log.write_text(done.stdout + done.stderr)
    for line in (done.stdout + done.stderr).splitlines():
        job.line(line)
    if done.code != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        why = scripts.REFUSALS.get(done.code, "generalize failed")
        raise GuestError(f"{why}: {last}", name="generalize-refused", hint=f"its whole output is {log}")
    disk = session.disk
    job.progress("shutting down")
    job.end_guest()
    return Made(disk, {}, agent_name)
