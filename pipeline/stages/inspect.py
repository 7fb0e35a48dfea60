"""inspect: what must be true of a master is read from the very file that ships."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import checks
from pipeline.base.errors import CheckFailed
from pipeline.base.printable import listed
from pipeline.base.runs import write_json
from pipeline.cache.layers import Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.checks.versions import inspection_inputs
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import DataDisk, DiskSource
from pipeline.gallery.verdict import BLOCKING, UNCHECKED, Verdict, count
from pipeline.guest.secret_gate import refuse_secrets

if TYPE_CHECKING:
    from pipeline.checks import CheckResult
    from pipeline.checks.model import Status

RESULTS = "checks.json"
#: How many checks a message names that could not look for one cause.
_NAMED = 8


class Inspect(BaseStage):
    """The checks on the VHD at rest."""

    name = "inspect"
    version = 1
    is_gate = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        definition = context.definition
        inputs: dict[str, object] = {
            **inspection_inputs(context.system.name),
            "waive": _waived(context),
            "accounts": sorted(definition.accounts),
            "generations": sorted(definition.generations),
        }
        if definition.ports:
            inputs["ports"] = sorted(context.system.open_ports(definition) or ())
        if context.data_disks:
            inputs["data disks"] = [[disk.lun, disk.filesystem, disk.label] for disk in context.data_disks]
        return (UnitSpec("checks", inputs, _run),)


def _waived(context: BuildContext) -> dict[str, str]:
    """The checks that may fail, each with its reason: by other keys of the definition, and by its `waive:`."""
    return {**context.system.implied_waivers(context.definition), **context.definition.waive}


def _run(context: BuildContext, source: Layer | None, draft: PendingLayer) -> StageResult:
    assert source is not None
    context.begin_flat_digests(source.image)
    definition = context.definition
    refuse_secrets(context.secrets, context.made, source.image, context.progress)
    # what comes out of a guest is not trusted: its disk is read in a process without rights
    results = checks.inspect_disk(
        source.image.path,
        source.image.format.key,
        profile=context.system.profile,
        accounts=definition.accounts,
        waive=_waived(context),
        generations=definition.generations,
        ports=context.system.open_ports(definition),
    )
    brought = _brought_luns(context)
    results += [_data_disk(disk, dict(source.image.data)[disk.lun], brought) for disk in context.data_disks]
    listed = [result.to_json() for result in results]
    write_json(context.log_file(RESULTS), listed)
    write_json(draft.path / RESULTS, listed)
    verdict = count(listed)
    for result in results:
        if result.status in (*BLOCKING, "warn", "waived"):
            context.line(f"{result.status}: {result.id}: {result.evidence}")
    if not verdict.good:
        raise _refusal(results, verdict, context.log_file(RESULTS))
    return StageResult(source.image, {"checks": listed, "verdict": verdict.to_json()}, str(verdict))


def _refusal(results: Sequence[CheckResult], verdict: Verdict, log: Path) -> CheckFailed:
    """Why the disk does not ship: what failed, with its remedy, then what could not be looked at, by its cause."""
    failed = [result for result in results if result.status == "fail"]
    lines = [f"  {r.id}: {r.evidence}\n    remedy: {r.remedy}" for r in failed]
    causes: dict[str, list[str]] = {}
    for result in results:
        if result.status == UNCHECKED:
            causes.setdefault(result.evidence, []).append(result.id)
    for cause, names in causes.items():
        lines.append(f"  unchecked: {listed(names, _NAMED)}: {cause}")
    blocking = [result.id for result in results if result.status in BLOCKING]
    return CheckFailed(
        "\n".join([f"the disk has not passed inspect: {verdict}", *lines]),
        name=f"check-{blocking[0]}" if len(blocking) == 1 else "checks-failed" if failed else "checks-unchecked",
        hint=f"read all results in {log}",
    )


def _brought_luns(context: BuildContext) -> set[int]:
    """The LUNs whose disks came with content of their own, which no definition describes."""
    source = context.definition.source
    return {each.lun for each in source.data} if isinstance(source, DiskSource) else set()


def _data_disk(disk: DataDisk, shipped: Image, brought: Collection[int]) -> CheckResult:
    """Whether a data disk is what the definition says, and was left in order. A blank one is anybody's."""
    content = f"{disk.filesystem} {disk.label or ''}".strip()
    undefined = "as it was brought" if disk.lun in brought else "blank"
    evidence = (
        f"{shipped.size} bytes, {undefined}" if disk.filesystem is None else f"{shipped.size} bytes, {content}, clean"
    )
    status: Status = "pass"
    if disk.filesystem is not None:
        from pipeline.systems.questions import list_disk

        rows = list_disk(shipped.path, shipped.format.key, what="volumes")
        found = [(number, kind, label, state) for number, kind, label, _uuid, state in rows]
        if found != [("0", disk.filesystem, disk.label or "", "clean")]:
            status = "fail"
            seen = ", ".join(" ".join(word for word in volume[1:] if word) or "nothing known" for volume in found)
            evidence = f"{seen or 'an empty partition table'}, not a clean {content}"
    return checks.CheckResult(
        f"data-disk-{disk.lun}",
        f"The data disk at LUN {disk.lun} has the defined file system",
        status,
        "fail",
        evidence,
        "Check which step overwrites the disk or leaves it mounted.",
        "Clones get this disk unchanged, so its content must match the definition.",
    )
