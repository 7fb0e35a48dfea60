"""generalize of a Linux: a script over the agent removes what it knows of itself, and it powers itself off."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import GuestError
from pipeline.cache.layers import Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import Definition
from pipeline.guest.build import Build
from pipeline.systems.linux import scripts
from pipeline.systems.linux.first_boot_service import install_script
from pipeline.systems.linux.residues import Residues

if TYPE_CHECKING:
    from pipeline.hypervisor.agent import Executed
    from pipeline.systems.base import LiveGuest

#: Seconds for the whole script: 30 s of cleaning under TCG, and a trim that grows with what was freed.
DEADLINE = 600.0

#: Waits for cloud-init, however it ends: its own exit code tells of errors (cloud-init status --help).
_SETTLED = """
command -v cloud-init >/dev/null || exit 0
cloud-init status --wait >/dev/null
[ $? -le 2 ]
"""


def generalize_unit(build: Build, residues: Residues) -> UnitSpec[Build]:
    """The unit that generalizes the build's live guest; `residues` is what its distribution adds to the script."""
    definition = build.definition
    # the script has the files of the first-boot service in it
    reread = partial(_script_input, definition, residues)
    inputs: dict[str, object] = {"agent": definition.generalize.agent, **reread()}
    if not definition.steps:
        inputs["disk size"] = definition.disk
    return UnitSpec("generalize", inputs, partial(_run, residues), live=True, reread=reread)


def _script_input(definition: Definition, residues: Residues) -> dict[str, object]:
    return {"script": hashlib.sha256(_script(definition, residues).encode()).hexdigest()}


def generalize_instance(guest: LiveGuest, residues: Residues) -> None:
    """Remove the identity of a running VM, and power it off. Azure's agent deprovisions where the VM has it."""
    timeouts = guest.timeouts
    # a prompt that stands there for long already says nothing of an agent that starts late
    agent = guest.machine.wait_agent(timeouts.boot, timeouts.boot)
    guest.on_progress("waiting for the end of its provisioning")
    # a VM is Ready before cloud-init has ended, and what is cleaned meanwhile would be written again
    waited = agent.execute(["/bin/sh", "-c", _SETTLED], deadline=timeouts.boot, check=guest.machine.check)
    if waited.code != 0:
        raise GuestError(
            "cloud-init has not ended in the guest",
            name="generalize-refused",
            hint="`cloud-init status --long` in the guest shows what it waits for; then generalize it again",
        )
    found = agent.execute(["/bin/sh", "-c", "command -v waagent"], deadline=timeouts.command)
    name = "waagent" if found.code == 0 else "none"
    guest.on_progress("waagent -deprovision+user" if name == "waagent" else "removing its identity")
    script = scripts.generalize_script(name, user=guest.user, residues=residues)
    done = agent.execute(["/bin/sh", "-s"], stdin=script, deadline=DEADLINE, check=guest.machine.check)
    log = guest.logs / "generalize.log"
    log.write_text(done.stdout + done.stderr)
    _need_done(done, log)
    guest.on_progress("powering off")
    guest.machine.shutdown(timeouts.shutdown)


def _need_done(done: Executed, log: Path) -> None:
    if done.code != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        why = scripts.REFUSALS.get(done.code, "generalize failed")
        raise GuestError(f"{why}: {last}", name="generalize-refused", hint=f"read its whole output in {log}")


def _script(definition: Definition, residues: Residues) -> str:
    service = definition.first_boot
    return scripts.generalize_script(
        definition.generalize.agent, install_script(service) if service else "", residues=residues
    )


def _run(residues: Residues, build: Build, source: Layer | None, draft: PendingLayer) -> StageResult:
    from pipeline.systems.linux.build_guest import running_guest

    assert source is not None
    session = running_guest(build, source, draft)
    agent_name = build.definition.generalize.agent
    build.progress("waagent -deprovision" if agent_name == "waagent" else "cleaning")
    done = session.agent.execute(
        ["/bin/sh", "-s"], stdin=_script(build.definition, residues), deadline=DEADLINE, check=session.machine.check
    )
    log = build.log_file("generalize.log")
    log.write_text(done.stdout + done.stderr)
    for line in (done.stdout + done.stderr).splitlines():
        build.line(line)
    _need_done(done, log)
    disk = session.disk
    build.progress("shutting down")
    build.end_guest()
    return StageResult(disk, {}, agent_name)
