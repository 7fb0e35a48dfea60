"""Whether goldsmith can build on a disk that somebody has brought: asked when it is taken, not after its boot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import DiskError
from pipeline.checks import run
from pipeline.checks.model import Check
from pipeline.disk import sandbox
from pipeline.disk.questions import Asked, Question, clean_text, lies
from pipeline.systems.answers import systems_of
from pipeline.systems.installed import find_or_generic
from pipeline.systems.questions import known_systems, with_systems
from pipeline.vhd.footer import MAX_SIZE

SOURCE = Question("source disk", "pipeline.checks.disk.source_disk:examine")
#: What is looked at: whether there is a system, and whether it boots in a generation.
_BOOT_CHECKS = ("boot-bios", "boot-efi")


@dataclass(frozen=True)
class SourceDisk:
    """What a disk shows. `faults` maps the id of a check that failed to its evidence.

    `direct`: goldsmith starts its kernel itself, and needs neither its boot loader nor its cloud-init. `agent` and
    `cloud_init` are None where there is no root to look at.
    """

    faults: Mapping[str, str]
    direct: bool
    agent: bool | None
    cloud_init: bool | None


def examine(asked: Asked) -> dict[str, Any]:
    """In the sandbox's worker: the results of the checks, and what the root holds."""
    order = asked.parameters
    with asked.disk() as disk:
        systems = systems_of(asked)
        _, inspection, system = find_or_generic(disk, systems, order["profile"])
        results = run.inspect(
            disk,
            profile=order["profile"],
            systems=systems,
            generations=order["generations"],
            only={inspection.root_check, *_BOOT_CHECKS},
        ).results
        faults = {each.id: each.evidence for each in results if each.status == "fail"}
        readable = inspection.root_check not in faults
        return {
            "faults": faults,
            "direct": readable and system.boots_directly(),
            "agent": system.has_guest_agent() if readable else None,
            "cloud_init": system.has_cloud_init() if readable else None,
        }


def look_at_source(
    path: Path, fmt: str, *, profile: str, generations: Collection[int], within: Path | None = None
) -> SourceDisk:
    """Ask the sandbox. Raises DiskError as it does."""
    order = {"profile": profile, "generations": sorted(generations), "systems": known_systems()}
    value = sandbox.ask(with_systems(SOURCE), path, fmt, parameters=order, within=within).value
    if not isinstance(value, dict) or not isinstance(value.get("faults"), dict):
        raise lies(path)
    faults = {str(name): clean_text(text) for name, text in value["faults"].items() if name in _checks()}
    states = [value.get(name) if isinstance(value.get(name), bool) else None for name in ("agent", "cloud_init")]
    return SourceDisk(faults, value.get("direct") is True, *states)


def judge_size(name: str, size: int, wanted: int | None) -> None:
    """`size` bytes of a brought disk; `wanted` is the definition's `disk`. Raises DiskError."""
    if size > MAX_SIZE:
        raise DiskError(
            f"{name} has {size / 2**30:.0f} GiB, but a VHD has at most 2040 GiB",
            name="vhd-too-large",
            hint="shrink its file systems and partitions, then the disk (qemu-img resize --shrink), and use the "
            "result",
        )
    if wanted is not None and wanted < size:
        raise DiskError(
            f"{name} has {size / 2**30:.1f} GiB, and the definition's disk is {wanted / 2**30:.1f} GiB: goldsmith "
            "cannot shrink a disk",
            name="disk-smaller-than-source",
            hint="omit `disk`, or set it to at least the source's size",
        )


def judge_source(
    disk: SourceDisk, name: str, *, generations: Collection[int], waived: Collection[str], builds: bool
) -> list[str]:
    """What a build cannot go on with, as DiskError; what it had better know, as lines. Pure.

    `builds`: a guest is started on the disk. One that is only proven is judged by `inspect`; but a root that cannot
    be read, which no waiver accepts, is refused here too.
    """
    faults = {check: text for check, text in disk.faults.items() if check not in waived}
    for check in faults.keys() - _BOOT_CHECKS:
        raise DiskError(f"{name}: {faults[check]}", name="source-no-root", hint=_checks()[check].remedy)
    # a build's guest boots as generation 1 where the image is for both
    boots, boot_check = (2, "boot-efi") if set(generations) == {2} else (1, "boot-bios")
    notes = []
    for check in _BOOT_CHECKS:
        if check not in faults:
            continue
        generation = 1 if check == "boot-bios" else 2
        message = f"{name} does not boot as generation {generation}: {faults[check]}"
        if builds and check == boot_check and not disk.direct:
            raise DiskError(message, name="source-no-boot", hint=_boot_hint(disk, boots))
        notes.append(f"{message}; correct this in a step, or remove the generation from `generations`")
    if builds and disk.agent is False:
        raise _lacks(name, "qemu-guest-agent")
    if builds and disk.cloud_init is False and not disk.direct:
        raise _lacks(name, "cloud-init")
    return notes


def _checks() -> dict[str, Check]:
    return {check.id: check for check in run.all_checks()}


def _boot_hint(disk: SourceDisk, generation: int) -> str:
    other = 3 - generation
    check = "boot-efi" if other == 2 else "boot-bios"
    ways = [] if check in disk.faults else [f"`generations: [{other}]`, if the disk boots so"]
    return " or ".join([*ways, f"on the disk: {_checks()['boot-bios' if generation == 1 else 'boot-efi'].remedy}"])


def _lacks(name: str, package: str) -> DiskError:
    why = "answers to goldsmith in it" if package == "qemu-guest-agent" else "makes goldsmith's user in it"
    return DiskError(
        f"{name} has no {package} that runs, which {why}: goldsmith cannot run steps there or generalize it",
        name="source-no-agent",
        hint=f"install and enable {package} on the disk and try again; or generalize the disk yourself and import "
        "it with `goldsmith capture DISK --as NAME`",
    )
