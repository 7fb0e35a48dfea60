"""generalize of a Windows: its firewall, its first-boot program, then sysprep; what came of it the disk says."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pipeline.base.errors import DiskError, GuestError
from pipeline.cache.layers import Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import Definition, IsoSource
from pipeline.guest.build import Build
from pipeline.systems.windows.image_state import GENERALIZED, SETUP_STATE

if TYPE_CHECKING:
    from pipeline.systems.base import LiveGuest

#: Failures of sysprep's whose cause may stand in its log.
_UNEXPLAINED = frozenset({"sysprep-refused", "sysprep-hangs", "sysprep-not-generalized"})
#: Lines of the log, and characters of each, that an error quotes.
_LINES, _LINE = 5, 1000


def sysprep_unit(build: Build) -> UnitSpec[Build]:
    """The unit that generalizes by sysprep."""
    # a plan of another system's image needs none of these
    from pipeline.systems.windows import firewall, first_boot, sysprep

    definition = build.definition
    inputs: dict[str, object] = {
        "agent": "sysprep",
        "mode_vm": definition.generalize.mode_vm,
        "answers": hashlib.sha256(_answers(definition) or b"").hexdigest(),
        "preflight": hashlib.sha256(sysprep.PREFLIGHT).hexdigest(),
        "preparation": hashlib.sha256(sysprep.PREPARATION).hexdigest(),
    }
    if _sets_ports(definition):
        inputs["ports"] = hashlib.sha256(firewall.script(definition.ports)).hexdigest()
    if definition.first_boot is None:
        return UnitSpec("sysprep", inputs, _run)
    service = definition.first_boot

    def first_boot_input() -> dict[str, object]:
        return {"first boot": first_boot.digest(service)}

    return UnitSpec("sysprep", {**inputs, **first_boot_input()}, _run, reread=first_boot_input)


def generalize_instance(guest: LiveGuest) -> None:
    """Run sysprep in a running VM, and wait until it has powered itself off."""
    from pipeline.systems.windows import oobe, sysprep
    from pipeline.systems.windows.session import session_of_instance

    session = session_of_instance(guest.machine, guest.logs, guest.on_progress)
    session.machine.wait_agent(session.deadlines.boot, session.deadlines.boot)
    oobe.need_complete(session)
    with (guest.logs / "generalize.log").open("w", encoding="utf-8") as log:
        sysprep.generalize(session, None, mode_vm=False, on_line=lambda line: print(line, file=log))


def _answers(definition: Definition) -> bytes | None:
    from pipeline.systems.windows import answers

    skips = definition.generalize.skip_oobe
    return answers.first_boot(definition.locale, definition.timezone) if skips else None


def _sets_ports(definition: Definition) -> bool:
    """Whether the firewall has to be seen to: a parent may have opened what this image does not declare."""
    return bool(definition.ports) or not isinstance(definition.source, IsoSource)


def _run(build: Build, source: Layer | None, draft: PendingLayer) -> StageResult:
    from pipeline.systems.windows import first_boot, oobe, ports, sysprep
    from pipeline.systems.windows.build_guest import guest_on_overlay

    assert source is not None
    definition = build.definition
    session, overlay = guest_on_overlay(build, source, draft)
    oobe.begin(session)
    session.machine.outside(False)
    if _sets_ports(definition):
        ports.open_ports(session, definition.ports, build.line)
    if definition.first_boot:
        first_boot.install(session, definition.first_boot, build.line)
    try:
        left = sysprep.generalize(
            session, _answers(definition), mode_vm=definition.generalize.mode_vm, on_line=build.line
        )
        session.close()
        build.session = None
        build.progress("checking whether the disk is generalized")
        _require_generalized(build, overlay)
    except GuestError as error:
        raise named_by_disk(build, overlay, error) from None
    return StageResult(overlay, {"rearms_left": left}, "sysprep")


def named_by_disk(build: Build, disk: Image, error: GuestError) -> GuestError:
    """The failure under the name of the cause that stands in sysprep's log on the disk.

    Where sysprep fails the agent is often gone, and cannot be asked for it.
    """
    from pipeline.systems.windows import sysprep

    if error.name not in _UNEXPLAINED or (build.session is not None and build.keep_failed):
        return error
    if build.session is not None:
        # qemu holds the disk; what the guest still tells is saved first
        build.session.black_box()
        build.session.machine.destroy()
    try:
        log = "; ".join(_logged_errors(build, disk))
    except DiskError:
        return error  # a disk that is still written to may not be readable
    if not log:
        return error
    named = sysprep.by_log(log, error.message)
    return named or GuestError(f"{error.message}: {log}", name=error.name, hint=error.hint)


def _logged_errors(build: Build, disk: Image) -> list[str]:
    """The first errors in sysprep's log on the disk, as printable text. Raises DiskError."""
    from pipeline.disk import sandbox
    from pipeline.disk.questions import Question, clean_text, lies

    question = Question("sysprep-errors", "pipeline.systems.windows.sysprep_log:answer_errors")
    lines = sandbox.ask(question, disk.path, disk.format.key, within=build.store.root).value
    if not isinstance(lines, list):
        raise lies(disk.path)
    return [clean_text(line, _LINE) for line in lines[:_LINES]]


def _require_generalized(build: Build, disk: Image) -> None:
    """Ask the disk at rest whether it is generalized. Raises GuestError (sysprep-not-generalized)."""
    try:
        rows = build.list_disk(disk, what="registry", key=SETUP_STATE)
    except DiskError as error:
        raise GuestError(
            f"the disk does not show whether it is generalized: {error.message}", name="sysprep-not-generalized"
        ) from None
    state = next((value for name, value in rows if name.lower() == "imagestate"), "not set")
    if state != GENERALIZED:
        raise GuestError(
            f"the machine has powered off, but is not generalized: its image state is {state}",
            name="sysprep-not-generalized",
            hint="sysprep failed, or another program shut the machine down; read the logs in the run's folder",
        )
