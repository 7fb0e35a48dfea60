"""The steps of a Linux build: each in the live guest, each its own layer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base import process
from pipeline.base.byte_progress import ByteProgress
from pipeline.base.errors import GuestError
from pipeline.cache.layers import Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import CopyStep, PlaybookStep, ScriptStep, Step, step_inputs
from pipeline.guest.ansible_requirements import Installed, install_requirements
from pipeline.guest.ansible_run import AnsibleProject, ansible_version
from pipeline.guest.build import Build
from pipeline.guest.secret_values import SECRETS
from pipeline.guest.step_log import describe_failure, line_writer, masked, named_failure, require_content, step_log
from pipeline.guest.tls_failures import GUEST_HINT, NOT_TRUSTED

if TYPE_CHECKING:
    from pipeline.systems.linux.session import GuestSession
    from pipeline.systems.linux.step_end import StepEnd

#: Failures behind which another one may be: what the guest says of itself decides.
_SYMPTOMS = frozenset({"guest-agent-silent", "guest-powered-off", "guest-rebooted", "step-timeout"})


def step_units(build: Build) -> Iterator[UnitSpec[Build]]:
    """A unit for each step of the definition."""
    definition = build.definition
    for number, step in enumerate(definition.steps, 1):
        require_content(step)
        inputs: dict[str, object] = {"kind": step.kind, "network": step.network, **step_inputs(step)}
        if isinstance(step, PlaybookStep):
            inputs["ansible-core"] = ansible_version()
            if (installed := _installed(build, step)) is not None:
                inputs["requirements"] = installed.digest
                inputs["required versions"] = dict(installed.versions)
        if number == 1:
            inputs["disk size"] = definition.disk
        if step.network == "full":
            # what a step installs depends on what the archive holds
            inputs["package index"] = build.package_index(build.suite)
            # what a guest may reach beside the public network decides what it finds
            if definition.allow:
                inputs["allow"] = [str(destination) for destination in definition.allow]
        run, reread = partial(_run_step, step, number), partial(step_inputs, step)
        yield UnitSpec(step.title, inputs, run, live=True, steps=(step.title,), reread=reread)


def _run_step(step: Step, number: int, build: Build, source: Layer | None, draft: PendingLayer) -> StageResult:
    from pipeline.guest.ssh_reach import named
    from pipeline.systems.linux.build_guest import running_guest
    from pipeline.systems.linux.step_end import StepEnd

    assert source is not None
    session = running_guest(build, source, draft)
    session.machine.mark()
    log = step_log(build, number, step)
    began = time.monotonic()
    end = StepEnd(session, build.progress)
    try:
        end.begin()
    except GuestError as error:
        raise named(error, f"before {step.title}") from None
    session.machine.outside(step.network == "full")
    build.progress(step.title)
    with log.open("a", encoding="utf-8") as file:
        try:
            _execute(step, session, build, line_writer(build, file))
        except (process.CommandFailed, process.CommandTimeout, GuestError) as error:
            raise masked(_failure(error, step, end, log), build.secrets.mask) from None
        finally:
            session.watch = None
    try:
        end.settle(logs_in=any(_needs_ssh(each) for each in build.definition.steps[number:]))
    except GuestError as error:
        raise named(error, step.title) from None
    facts: dict[str, object] = {
        "seconds": round(time.monotonic() - began, 2),
        **({"restarted": True} if end.restarted else {}),
    }
    if step.secrets:
        facts[SECRETS] = build.secrets.fingerprints(step.secrets)
    return StageResult(session.disk, facts, step.title)


def _installed(build: Build, step: PlaybookStep) -> Installed | None:
    return install_requirements(step, build.definition.project, build.store)


def _needs_ssh(step: Step) -> bool:
    from pipeline.guest import agent_script

    if isinstance(step, ScriptStep):
        return step.file.is_file() and step.file.stat().st_size > agent_script.LARGEST
    return True


def _execute(step: Step, session: GuestSession, build: Build, write_line: Callable[[str], None]) -> None:
    from pipeline.guest import agent_script
    from pipeline.systems.linux.build_guest import proxy_environment
    from pipeline.systems.linux.step_secrets import step_secrets

    on_line = write_line
    if _needs_ssh(step):
        watch = session.watch_ssh()

        def on_line(line: str) -> None:
            watch.hear(line)
            write_line(line)

    environment = proxy_environment(build, session) if step.network == "full" else {}
    if isinstance(step, PlaybookStep):
        installed = _installed(build, step)
        variables = session.access.folder / "private" / "vars.json"
        variables.write_text(json.dumps(dict(step.vars)))
        ansible = AnsibleProject.of(step, installed.folder if installed else None, build.definition.path)
        session.steps.playbook(
            step.file,
            variables,
            ansible=ansible,
            deadline=step.timeout,
            on_line=on_line,
            task_environment=environment,
            secrets=_write_secrets(step, session.access.folder / "private", build),
        )
    elif isinstance(step, ScriptStep):
        script: bytes | str = ""
        if step.file.stat().st_size > agent_script.LARGEST:
            with step.file.open("rb") as file:
                head = b"" if file.read(2) == b"#!" else agent_script.DEFAULT_HEAD
            script = agent_script.new_place()
            session.steps.copy(step.file, script, "0700", deadline=step.timeout, head=head)
            session.watch = None
        else:
            script = step.file.read_bytes()
        with step_secrets(session, build.secrets.read_all(step.secrets)) as added:
            session.agent_script.run(
                script, deadline=step.timeout, on_line=on_line, environment={**environment, **added}
            )
    else:
        assert isinstance(step, CopyStep), "the rules of Linux refuse all other steps"
        session.steps.copy(
            step.file,
            step.to,
            step.mode,
            deadline=step.timeout,
            on_bytes=ByteProgress(build.progress, step.title),
        )


def _write_secrets(step: Step, folder: Path, build: Build) -> Path | None:
    """A file of variables for ansible-playbook; `folder` is in memory, and nobody else may enter it."""
    if not step.secrets:
        return None
    path = folder / "secrets.yml"
    texts = build.secrets.read_texts(step.secrets)
    # a password may have braces in it: it is no template
    path.write_text("".join(f"{name}: !unsafe {json.dumps(text)}\n" for name, text in texts.items()))
    return path


def _failure(error: Exception, step: Step, end: StepEnd, log: Path) -> GuestError:
    """The step's failure under the name of its cause, as far as the guest still tells."""
    hint = f"the step's log is {log}"
    own = named_failure(error, step, log)
    if own is not None and own.name not in _SYMPTOMS:
        return own
    cause = end.cause(error)
    if cause is not None:
        timed_out = isinstance(error, process.CommandTimeout)
        words = "" if timed_out or own is not None else f" ({describe_failure(error)})"
        return GuestError(f"{step.title}: {cause.message}{words}", name=cause.name, hint=f"{cause.hint}; {hint}")
    text = f"{error} {error.stderr} {error.stdout}" if isinstance(error, process.CommandFailed) else str(error)
    remedy = GUEST_HINT if NOT_TRUSTED.search(text) else "correct the step, then build again"
    hint = f"{remedy}; {hint}"
    return own or GuestError(f"{step.title}: {describe_failure(error)}", name="step-failed", hint=hint)
