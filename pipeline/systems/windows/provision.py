"""Windows' updates, then the definition's steps from checkpoint to checkpoint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base import process
from pipeline.base.errors import CheckFailed, GuestError
from pipeline.cache.layers import Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import MsiStep, Step, Updates, step_inputs
from pipeline.guest.build import Build
from pipeline.guest.step_log import describe_failure, line_writer, named_failure, require_content, step_log

if TYPE_CHECKING:
    from pipeline.systems.windows.session import WindowsSession


def provision_units(build: Build) -> Iterator[UnitSpec[Build]]:
    """A unit for the updates, and one for the steps up to each checkpoint."""
    definition = build.definition
    # what a guest may reach beside the public network decides what it finds
    allowed: dict[str, object] = {"allow": [str(each) for each in definition.allow]} if definition.allow else {}
    for unit in (*_update_units(definition.updates), *_step_units(definition.steps)):
        yield replace(unit, inputs={**unit.inputs, **allowed})


def _update_units(wanted: Updates | None) -> Iterator[UnitSpec[Build]]:
    """Windows' updates, before the steps: they take longest, and change least.

    There is no index of them that could be read. Microsoft releases them on a day that is known, so that day stands
    in the key: what was up to date on the last of these days stays until the next.
    """
    if wanted is not None:
        from pipeline.systems.windows import release_days, updates

        inputs: dict[str, object] = {
            "only": wanted.only,
            release_days.RELEASED: release_days.today().isoformat(),
            "script": hashlib.sha256(updates.script(wanted.only)).hexdigest(),
        }
        yield UnitSpec(wanted.title, inputs, partial(_run_updates, wanted), steps=(wanted.title,), counted=False)


def _run_updates(wanted: Updates, build: Build, source: Layer | None, draft: PendingLayer) -> StageResult:
    from pipeline.systems.windows import oobe, updates
    from pipeline.systems.windows.build_guest import guest_on_overlay, shut_down

    assert source is not None
    session, overlay = guest_on_overlay(build, source, draft)
    oobe.begin(session)
    session.machine.outside(True)
    log = build.log_file("updates.log")
    with log.open("a", encoding="utf-8") as file:
        updating = updates.Updating(session, wanted.only, wanted.deadline, line_writer(build, file))
        try:
            updating.run()
        except GuestError as error:
            error = session.lost() or error
            raise GuestError(error.message, name=error.name, hint=error.hint or f"the log is {log}") from None
        finally:
            # of what failed too: which were in is half of the diagnosis
            build.run.note(updates=updating.summary())
    record = updating.summary()
    shut_down(build, session)
    detail = f"{len(record['updates'])} updates, {record['restarts']} restarts"
    return StageResult(overlay, record, detail)


def _step_units(steps: Sequence[Step]) -> Iterator[UnitSpec[Build]]:
    """A unit for the steps up to each checkpoint: the file systems are at rest only in a guest that is shut down."""
    part: list[Step] = []
    for number, step in enumerate(steps, 1):
        part.append(step)
        if step.checkpoint or number == len(steps):
            inputs = _inputs_of(tuple(part))
            titles = tuple(each.title for each in part)
            title = titles[0] if len(part) == 1 else f"{titles[0]} to {titles[-1]}"
            first = number - len(part) + 1
            run, reread = partial(_run_steps, tuple(part), first), partial(_inputs_of, tuple(part))
            yield UnitSpec(title, inputs, run, steps=titles, reread=reread)
            part = []


def _inputs_of(steps: Sequence[Step]) -> dict[str, object]:
    return {"steps": [verified_inputs(each) for each in steps]}


def verified_inputs(step: Step) -> dict[str, object]:
    """A step's inputs. Raises CheckFailed (checksum-mismatch) for a package that is not the one that was meant.

    The content is read for the key anyway: here it is known before anything boots.
    """
    require_content(step)
    inputs = step_inputs(step)
    if isinstance(step, MsiStep) and (found := inputs[f"msi {step.path}"]) != step.sha256:
        raise CheckFailed(
            f"{step.file}: its sha256 is {found}, but the definition requires {step.sha256}",
            name="checksum-mismatch",
            hint=f"download it again, or correct the sha256 of step {step.title}",
        )
    return {"kind": step.kind, "network": step.network, **inputs}


def _run_steps(
    steps: tuple[Step, ...], first: int, build: Build, source: Layer | None, draft: PendingLayer
) -> StageResult:
    from pipeline.systems.windows import oobe
    from pipeline.systems.windows.build_guest import guest_on_overlay, shut_down
    from pipeline.systems.windows.steps import windows_step

    assert source is not None
    session, overlay = guest_on_overlay(build, source, draft)
    oobe.begin(session)
    began = time.monotonic()
    for number, step in enumerate(steps, first):
        log = step_log(build, number, step)
        session.machine.outside(step.network == "full")
        build.progress(step.title)
        with log.open("a", encoding="utf-8") as file:
            try:
                windows_step(session, step, line_writer(build, file), log.with_suffix(".installer.log").write_bytes)
            except (process.CommandFailed, process.CommandTimeout, GuestError) as error:
                raise _failure(error, step, session, log) from None
    seconds = round(time.monotonic() - began, 2)
    shut_down(build, session)
    return StageResult(overlay, {"seconds": seconds}, ", ".join(step.title for step in steps))


def _failure(error: Exception, step: Step, session: WindowsSession, log: Path) -> GuestError:
    """The step's failure under the name of its cause. The machine says whether the guest is lost."""
    lost = session.lost()
    if lost is not None:
        return GuestError(
            f"{step.title}: {lost.message}", name=lost.name, hint=f"{lost.hint}; the step's log is {log}"
        )
    return named_failure(error, step, log) or GuestError(
        f"{step.title}: {describe_failure(error)}",
        name="step-failed",
        hint=f"correct the step, then build again; the step's log is {log}",
    )
