"""generalize: the guest forgets who it is, and powers itself off. A forced power-off is never a generalized disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import checks
from pipeline.base.errors import DiskError, GuestError
from pipeline.cache.layers import DISK, Draft, Image, Layer
from pipeline.context import BaseStage, BuildContext, StageResult, UnitSpec
from pipeline.definition import Definition, IsoSource
from pipeline.systems.linux import scripts
from pipeline.systems.linux.first_boot_service import install_script

if TYPE_CHECKING:
    from pipeline.checks import CheckResult

#: Seconds for the whole script: 30 s of cleaning under TCG, and a trim that grows with what was freed.
DEADLINE = 600.0
#: Failures of sysprep's whose cause may stand in its log.
_UNTOLD = frozenset({"sysprep-refused", "sysprep-hangs", "sysprep-not-generalized"})
_SETUP_STATE = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State"


class Generalize(BaseStage):
    """The identity removed, and the guest shut down."""

    name = "generalize"
    version = 2
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec, ...]:
        if context.definition.generalize.agent == "outside":
            return ()
        if context.definition.os == "windows":
            return (_windows(context),)
        script = _script(context)
        inputs: dict[str, object] = {
            "agent": context.definition.generalize.agent,
            "script": hashlib.sha256(script.encode()).hexdigest(),
        }
        if not context.definition.steps:
            inputs["disk size"] = context.definition.disk
        return (UnitSpec("generalize", inputs, _run, live=True),)

    def why_root(self, _definition: Definition) -> str:
        return "it makes the network of its guest"


def _windows(context: BuildContext) -> UnitSpec:
    # a plan of a Linux image needs none of these
    from pipeline.systems.windows import firewall, first_boot, sysprep

    definition = context.definition
    inputs: dict[str, object] = {
        "agent": "sysprep",
        "mode_vm": definition.generalize.mode_vm,
        "answers": hashlib.sha256(_answers(context) or b"").hexdigest(),
        "preflight": hashlib.sha256(sysprep.PREFLIGHT).hexdigest(),
        "preparation": hashlib.sha256(sysprep.PREPARATION).hexdigest(),
    }
    if _opens(context):
        inputs["ports"] = hashlib.sha256(firewall.script(definition.ports)).hexdigest()
    if definition.first_boot:
        inputs["first boot"] = first_boot.digest(definition.first_boot)
    return UnitSpec("sysprep", inputs, _run_sysprep)


def _answers(context: BuildContext) -> bytes | None:
    from pipeline.systems.windows import answers

    definition = context.definition
    skips = definition.generalize.skip_oobe
    return answers.first_boot(definition.locale, definition.timezone) if skips else None


def _opens(context: BuildContext) -> bool:
    """Whether the firewall has to be seen to: a parent may have opened what this image does not declare."""
    return bool(context.definition.ports) or not isinstance(context.definition.source, IsoSource)


def _run_sysprep(context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    from pipeline.guest.disks import create_overlay
    from pipeline.systems.windows import first_boot, oobe, ports, sysprep

    assert source is not None
    overlay = create_overlay(draft.path / DISK, source.image)
    session = context.windows(overlay)
    oobe.begin(session)
    session.machine.outside(False)
    if _opens(context):
        ports.open_ports(session, context.definition.ports, context.line)
    if context.definition.first_boot:
        first_boot.install(session, context.definition.first_boot, context.line)
    try:
        left = sysprep.generalize(
            session, _answers(context), mode_vm=context.definition.generalize.mode_vm, said=context.line
        )
        session.close()
        context.session = None
        context.progress("is it generalized?")
        _proven(context, overlay)
    except GuestError as error:
        raise _named_by_disk(context, overlay, error) from None
    return StageResult(overlay, {"rearms_left": left}, "sysprep")


def inspect_disk(disk: Image, within: Path) -> list[CheckResult]:
    """What the checks say of a Windows disk at rest, whose layers lie in `within`. Raises DiskError."""
    return checks.inspect_disk(disk.path, disk.format.key, profile="azure-windows", allow_backing_within=within)


def _named_by_disk(context: BuildContext, disk: Image, error: GuestError) -> GuestError:
    """The failure under the name of the cause that stands in sysprep's log on the disk.

    Where sysprep fails the agent is often gone, and cannot be asked for it.
    """
    from pipeline.systems.windows import sysprep

    if error.name not in _UNTOLD or (context.session is not None and context.keep_failed):
        return error
    if context.session is not None:
        # qemu holds the disk; what the guest still tells is saved first
        context.session.black_box()
        context.session.machine.destroy()
    try:
        results = inspect_disk(disk, context.store.root)
    except DiskError:
        return error  # a disk that is still written to may not be readable
    told = next((one.evidence for one in results if one.id == "win-sysprep-errors" and one.status == "warn"), "")
    if not told:
        return error
    named = sysprep.by_log(told, error.message)
    return named or GuestError(f"{error.message}: {told}", name=error.name, hint=error.hint)


def _proven(context: BuildContext, disk: Image) -> None:
    """Ask the disk at rest whether it is generalized. Raises GuestError (sysprep-not-generalized)."""
    try:
        rows = checks.list_disk(
            disk.path, disk.format.key, what="registry", key=_SETUP_STATE, allow_backing_within=context.store.root
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


def _script(context: BuildContext) -> str:
    adapter = context.definition.first_boot
    return scripts.generalize_script(context.definition.generalize.agent, install_script(adapter) if adapter else "")


def _run(context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    assert source is not None
    session = context.guest(source, draft)
    agent_name = context.definition.generalize.agent
    context.progress("waagent -deprovision" if agent_name == "waagent" else "cleaning")
    done = session.agent.execute(
        ["/bin/sh", "-s"], stdin=_script(context), deadline=DEADLINE, check=session.machine.check
    )
    log = context.log_file("generalize.log")
    log.write_text(done.stdout + done.stderr)
    for line in (done.stdout + done.stderr).splitlines():
        context.line(line)
    if done.code != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        why = scripts.REFUSALS.get(done.code, "generalize failed")
        raise GuestError(f"{why}: {last}", name="generalize-refused", hint=f"its whole output is {log}")
    disk = session.disk
    context.progress("shutting down")
    context.end_guest()
    return StageResult(disk, {}, agent_name)
