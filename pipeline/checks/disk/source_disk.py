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
from pipeline.disk.volumes import closed_kinds
from pipeline.systems.answers import systems_of
from pipeline.systems.installed import find_or_generic
from pipeline.systems.questions import known_systems, with_systems
from pipeline.vhd.footer import MAX_SIZE

SOURCE = Question("source disk", "pipeline.checks.disk.source_disk:examine")
#: What is looked at: whether there is a system, and whether it boots in a generation.
_BOOT_CHECKS = ("boot-bios", "boot-efi")
#: What is said of a disk without a root by what holds its file systems.
_ROOT_INSIDE = {
    "luks": DiskError(
        "what may be its root is encrypted",
        name="source-encrypted",
        hint="unlock it on the host that has its key, and store it without encryption",
    ),
    "bitlocker": DiskError(
        "what may be its root is encrypted",
        name="source-encrypted",
        hint="turn BitLocker off in Windows (manage-bde -off C:)",
    ),
    "raid": DiskError(
        "what may be its root is on a member of a RAID",
        name="source-on-raid",
        hint="copy the file systems to a disk without software RAID",
    ),
    "bcache": DiskError(
        "what may be its root is behind bcache",
        name="source-in-cache",
        hint="copy the file systems to a disk without a cache",
    ),
    "lvm": DiskError(
        "what may be its root is in a volume group that cannot be read",
        name="source-lvm-damaged",
        hint="check the group's description with pvck and vgck on a copy of the disk",
    ),
    "lvm-incomplete": DiskError(
        "what may be its root is in a volume group with physical volumes on other disks",
        name="source-lvm-incomplete",
        hint="move all volumes to one disk (pvmove, vgreduce)",
    ),
}
_OTHER_LVM = DiskError(
    "what may be its root is in a logical volume that is neither linear nor striped",
    name="source-lvm-kind",
    hint="convert it (lvconvert), or copy the file systems: snapshots, caches, mirrors and thin pools are not read",
)


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
    #: Kinds of volumes that hold file systems which cannot be seen.
    closed: tuple[str, ...] = ()


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
            "closed": closed_kinds(disk.filesystems),
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
    agent, cloud_init = (
        value.get(name) if isinstance(value.get(name), bool) else None for name in ("agent", "cloud_init")
    )
    closed = value.get("closed")
    kinds = tuple(clean_text(kind, 40) for kind in closed) if isinstance(closed, list) else ()
    return SourceDisk(faults, value.get("direct") is True, agent, cloud_init, kinds)


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
        inside = next(filter(None, map(_root_inside, disk.closed)), None)
        if inside is not None:
            raise DiskError(f"{name}: {inside.message}; {faults[check]}", name=inside.name, hint=inside.hint)
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


def _root_inside(kind: str) -> DiskError | None:
    """The refusal for a kind of volume that holds file systems; None of a kind without a name of its own."""
    return _ROOT_INSIDE.get(kind, _OTHER_LVM if kind.startswith("lvm-") else None)


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
