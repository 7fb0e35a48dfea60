"""generalize: the guest forgets who it is, and powers itself off. A forced power-off is never a generalized disk."""

from __future__ import annotations

import hashlib

from pipeline.errors import GuestError
from pipeline.guests import linux
from pipeline.guests.adapter import install_script
from pipeline.job import Job, Made, Work
from pipeline.layers import Draft, Layer

NAME = "generalize"
VERSION = 2
#: Seconds for the whole script: 30 s of cleaning under TCG, and a trim that grows with what was freed.
DEADLINE = 600.0


def plan(job: Job) -> tuple[Work, ...]:
    if job.definition.generalize.agent == "outside":
        return ()
    script = _script(job)
    inputs: dict[str, object] = {
        "agent": job.definition.generalize.agent,
        "script": hashlib.sha256(script.encode()).hexdigest(),
    }
    if not job.definition.steps:
        inputs["disk size"] = job.definition.disk
    return (Work("generalize", inputs, _run, live=True),)


def _script(job: Job) -> str:
    first_boot = job.definition.first_boot
    return linux.generalize_script(job.definition.generalize.agent, install_script(first_boot) if first_boot else "")


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
        why = linux.REFUSALS.get(done.code, "generalize failed")
        raise GuestError(f"{why}: {last}", name="generalize-refused", hint=f"its whole output is {log}")
    disk = session.disk
    job.progress("shutting down")
    job.end_guest()
    return Made(disk, {}, agent_name)
