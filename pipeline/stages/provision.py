"""provision: the definition's steps, each in the live guest, each its own layer."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pipeline.base import process
from pipeline.base.errors import CheckFailed, GuestError, UsageError
from pipeline.base.printable import shorten
from pipeline.cache.layers import DISK, Draft, Layer
from pipeline.context import BaseStage, BuildContext, StageResult, UnitSpec
from pipeline.definition import CopyStep, Definition, MsiStep, PlaybookStep, ScriptStep, Step, Updates, step_inputs
from pipeline.guest.ansible_requirements import Installed, install_requirements
from pipeline.guest.ansible_run import AnsibleProject, ansible_version
from pipeline.guest.tls_failures import GUEST_HINT, NOT_TRUSTED

if TYPE_CHECKING:
    from pipeline.systems.linux.session import GuestSession
    from pipeline.systems.linux.step_end import StepEnd
    from pipeline.systems.windows.session import WindowsSession

#: Failures behind which another one may be: what the guest says of itself decides.
_SYMPTOMS = frozenset({"guest-agent-silent", "guest-powered-off", "guest-rebooted", "step-timeout"})
#: Characters of a step's log: a guest may print for ever.
LARGEST_LOG = 64 << 20


class Provision(BaseStage):
    """The definition's steps."""

    name = "provision"
    version = 2
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec, ...]:
        # what a guest may reach beside the public network decides what it finds
        allowed: dict[str, object] = (
            {"allow": [str(one) for one in context.definition.allow]} if context.definition.allow else {}
        )
        if context.definition.os == "windows":
            works = [*_updates(context.definition.updates), *_legs(context.definition.steps)]
            return tuple(replace(work, inputs={**work.inputs, **allowed}) for work in works)
        works = []
        for number, step in enumerate(context.definition.steps, 1):
            _need_content(step)
            inputs: dict[str, object] = {"kind": step.kind, "network": step.network, **step_inputs(step)}
            if isinstance(step, PlaybookStep):
                inputs["ansible-core"] = ansible_version()
                if (installed := _installed(context, step)) is not None:
                    inputs["requirements"] = installed.digest
                    inputs["required versions"] = dict(installed.versions)
            if number == 1:
                inputs["disk size"] = context.definition.disk
            if step.network == "full":
                # what a step installs depends on what the archive holds
                inputs["package index"] = context.package_index(context.suite)
                inputs |= allowed
            works.append(UnitSpec(step.title, inputs, partial(_run, step, number), live=True, steps=(step.title,)))
        return tuple(works)

    def why_root(self, _definition: Definition) -> str:
        return "it makes the network of its guest"


def _updates(wish: Updates | None) -> Iterator[UnitSpec]:
    """Windows' updates, before the steps: they take longest, and change least.

    There is no index of them that could be read. Microsoft releases them on a day that is known, so that day stands
    in the key: what was up to date on the last of these days stays until the next.
    """
    if wish is not None:
        from pipeline.systems.windows import updates

        inputs: dict[str, object] = {
            "only": wish.only,
            updates.RELEASED: updates.today().isoformat(),
            "script": hashlib.sha256(updates.script(wish.only)).hexdigest(),
        }
        yield UnitSpec(wish.title, inputs, partial(_run_updates, wish), steps=(wish.title,), counted=False)


def _run_updates(wish: Updates, context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    from pipeline.guest.disks import create_overlay
    from pipeline.systems.windows import oobe, updates

    assert source is not None
    overlay = create_overlay(draft.path / DISK, source.image)
    session = context.windows(overlay)
    oobe.begin(session)
    session.machine.outside(True)
    log = context.log_file("updates.log")
    with log.open("a", encoding="utf-8") as file:
        updating = updates.Updating(session, wish.only, wish.deadline, _tell(context, file))
        try:
            updating.run()
        except GuestError as error:
            error = session.lost() or error
            raise GuestError(error.message, name=error.name, hint=error.hint or f"the log is {log}") from None
        finally:
            # of what failed too: which were in is half of the diagnosis
            context.run.note(updates=updating.told())
    told = updating.told()
    session.shut_down()
    context.session = None
    detail = f"{len(told['updates'])} updates, {told['restarts']} restarts"
    return StageResult(overlay, told, detail)


def _legs(steps: Sequence[Step]) -> Iterator[UnitSpec]:
    """Windows' steps, from checkpoint to checkpoint: its file systems are at rest only when it is shut down."""
    leg: list[Step] = []
    for number, step in enumerate(steps, 1):
        leg.append(step)
        if step.checkpoint or number == len(steps):
            told = [_told(each) for each in leg]
            titles = tuple(each.title for each in leg)
            title = titles[0] if len(leg) == 1 else f"{titles[0]} to {titles[-1]}"
            first = number - len(leg) + 1
            yield UnitSpec(title, {"steps": told}, partial(_run_leg, tuple(leg), first), steps=titles)
            leg = []


def _need_content(step: Step) -> None:
    """Raises UsageError, before anything boots: step-empty of a copy without a file, copy-special-file."""
    if not isinstance(step, CopyStep):
        return
    from pipeline.guest.copy_stream import need_plain_files

    need_plain_files(step.file)
    if not step.file.is_dir():
        return
    if not any(path.is_symlink() or not path.is_dir() for path in step.file.rglob("*")):
        raise UsageError(
            f"{step.title}: {step.file} has no file below it",
            name="step-empty",
            hint="put a file in it (git keeps no empty folder), or make the folder in a script",
        )


def _told(step: Step) -> dict[str, object]:
    """A step's inputs. Raises CheckFailed (checksum-mismatch) for a package that is not the one that was meant.

    The content is read for the key anyway: here it is known before anything boots.
    """
    _need_content(step)
    inputs = step_inputs(step)
    if isinstance(step, MsiStep) and (found := inputs[f"msi {step.path}"]) != step.sha256:
        raise CheckFailed(
            f"{step.file}: its sha256 is {found}, the definition says {step.sha256}",
            name="checksum-mismatch",
            hint=f"download it again, or correct the sha256 of step {step.title}",
        )
    return {"kind": step.kind, "network": step.network, **inputs}


def _run_leg(
    leg: tuple[Step, ...], first: int, context: BuildContext, source: Layer | None, draft: Draft
) -> StageResult:
    from pipeline.guest.disks import create_overlay
    from pipeline.systems.windows import oobe
    from pipeline.systems.windows.steps import windows_step

    assert source is not None
    overlay = create_overlay(draft.path / DISK, source.image)
    session = context.windows(overlay)
    oobe.begin(session)
    began = time.monotonic()
    for number, step in enumerate(leg, first):
        log = context.log_file(f"steps/{number:02}-{_file_name(step)}.log")
        session.machine.outside(step.network == "full")
        context.progress(step.title)
        with log.open("a", encoding="utf-8") as file:
            try:
                windows_step(session, step, _tell(context, file), log.with_suffix(".installer.log").write_bytes)
            except (process.CommandFailed, process.CommandTimeout, GuestError) as error:
                raise _windows_failure(error, step, session, log) from None
    seconds = round(time.monotonic() - began, 2)
    session.shut_down()
    context.session = None
    return StageResult(overlay, {"seconds": seconds}, ", ".join(step.title for step in leg))


def _windows_failure(error: Exception, step: Step, session: WindowsSession, log: Path) -> GuestError:
    """The step's failure under the name of its cause. A guest that is lost is told by the machine."""
    lost = session.lost()
    if lost is not None:
        return GuestError(
            f"{step.title}: {lost.message}", name=lost.name, hint=f"{lost.hint}; the step's log is {log}"
        )
    return _said(error, step, log) or GuestError(
        f"{step.title}: {_words(error)}", name="step-failed", hint=f"the step's log is {log}"
    )


def _tell(context: BuildContext, file: TextIO) -> Callable[[str], None]:
    """What a step says goes to its log, and to whoever follows the build."""

    left = LARGEST_LOG

    def said(line: str) -> None:
        nonlocal left
        if left > 0:
            left -= len(line) + 1
            file.write(line + "\n" if left > 0 else f"the log is full at {LARGEST_LOG >> 20} MiB\n")
            file.flush()
        context.line(line)

    return said


def _file_name(step: Step) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", step.title)[:60]


def _run(step: Step, number: int, context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    from pipeline.guest.ssh_reach import named
    from pipeline.systems.linux.step_end import StepEnd

    assert source is not None
    session = context.guest(source, draft)
    session.machine.mark()
    log = context.log_file(f"steps/{number:02}-{_file_name(step)}.log")
    began = time.monotonic()
    end = StepEnd(session, context.progress)
    try:
        end.begin()
    except GuestError as error:
        raise named(error, f"before {step.title}") from None
    session.machine.outside(step.network == "full")
    context.progress(step.title)
    with log.open("a", encoding="utf-8") as file:
        try:
            _do(step, session, context, _tell(context, file))
        except (process.CommandFailed, process.CommandTimeout, GuestError) as error:
            raise _named(error, step, end, log) from None
        finally:
            session.watch = None
    try:
        end.settle(logs_in=any(_needs_ssh(each) for each in context.definition.steps[number:]))
    except GuestError as error:
        raise named(error, step.title) from None
    facts = {"seconds": round(time.monotonic() - began, 2), **({"restarted": True} if end.restarted else {})}
    return StageResult(session.disk, facts, step.title)


def _installed(context: BuildContext, step: PlaybookStep) -> Installed | None:
    return install_requirements(step, context.definition.project, context.store)


def _needs_ssh(step: Step) -> bool:
    from pipeline.guest import agent_script

    if isinstance(step, ScriptStep):
        return step.file.is_file() and step.file.stat().st_size > agent_script.LARGEST
    return True


def _do(step: Step, session: GuestSession, context: BuildContext, tell: Callable[[str], None]) -> None:
    from pipeline.guest import agent_script

    on_line = tell
    if _needs_ssh(step):
        watch = session.watch_ssh()

        def on_line(line: str) -> None:
            watch.hear(line)
            tell(line)

    environment = context.proxy_environment(session) if step.network == "full" else {}
    if isinstance(step, PlaybookStep):
        installed = _installed(context, step)
        variables = session.access.folder / "private" / "vars.json"
        variables.write_text(json.dumps(dict(step.vars)))
        ansible = AnsibleProject.of(step, installed.folder if installed else None)
        session.steps.playbook(
            step.file,
            variables,
            ansible=ansible,
            deadline=step.timeout,
            on_line=on_line,
            task_environment=environment,
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
        session.errand.run(script, deadline=step.timeout, on_line=on_line, environment=environment)
    elif isinstance(step, CopyStep):
        session.steps.copy(
            step.file,
            step.to,
            step.mode,
            deadline=step.timeout,
            on_bytes=lambda done, total: context.progress(f"{step.title}: {done >> 20} of {total >> 20} MiB"),
        )
    else:
        raise UsageError(f"{step.title}: this kind of step is not built yet", name="not-built-yet")


def _named(error: Exception, step: Step, end: StepEnd, log: Path) -> GuestError:
    """The step's failure under the name of its cause, as far as the guest still tells."""
    hint = f"the step's log is {log}"
    own = _said(error, step, log)
    if own is not None and own.name not in _SYMPTOMS:
        return own
    cause = end.cause(error)
    if cause is not None:
        words = "" if isinstance(error, process.CommandTimeout) or own is not None else f" ({_words(error)})"
        return GuestError(f"{step.title}: {cause.message}{words}", name=cause.name, hint=f"{cause.hint}; {hint}")
    text = f"{error} {error.stderr} {error.stdout}" if isinstance(error, process.CommandFailed) else str(error)
    if NOT_TRUSTED.search(text):
        hint = f"{GUEST_HINT}; {hint}"
    return own or GuestError(f"{step.title}: {_words(error)}", name="step-failed", hint=hint)


def _said(error: Exception, step: Step, log: Path) -> GuestError | None:
    """The failure where the error itself has a name for it."""
    if isinstance(error, GuestError) and error.name != "step-failed":
        hint = f"{error.hint}; the step's log is {log}" if error.hint else f"the step's log is {log}"
        return GuestError(f"{step.title}: {error.message}", name=error.name, hint=hint)
    if isinstance(error, process.CommandTimeout):
        return GuestError(
            f"{step.title}: not done after {step.timeout:.0f} s, the step's timeout",
            name="step-timeout",
            hint=f"raise the step's `timeout`, or see where it hangs: {log}",
        )
    return None


def _words(error: Exception) -> str:
    return _last_words(error) if isinstance(error, process.CommandFailed) else str(error)


def _last_words(error: process.CommandFailed) -> str:
    """A script's exit code and the last thing it said, on stderr or else on stdout."""
    lines = (error.stderr.strip() or error.stdout.strip()).splitlines()
    return f"exit code {error.code}: {shorten(lines[-1].strip())}" if lines else f"exit code {error.code}, no output"
