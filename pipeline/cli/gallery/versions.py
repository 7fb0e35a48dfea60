"""The verbs that look at masters: list, show, verify, diff."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import CheckFailed
from pipeline.base.printable import listed
from pipeline.cli import completion
from pipeline.cli.environment import locate_store
from pipeline.cli.gallery.options import AsJson, Keys, Reference, SomeNames, evidence_judge, open_gallery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pipeline.evidence.version_diff import Changes
    from pipeline.gallery import Gallery
    from pipeline.gallery.integrity import Finding
    from pipeline.gallery.listing import Row
    from pipeline.maintenance.usage import Usage


#: How many names of a kind `diff` shows a person.
SHOWN = 12


def list_versions(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="NAME", help="Only this image (default: all).", autocompletion=completion.complete_image
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also list refused candidates and the reasons.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the masters, oldest first.

    Example:
      goldsmith gallery list debian-13
    """
    from pipeline.cli.show import print_json, table
    from pipeline.gallery.listing import list_versions as look
    from pipeline.gallery.retention import withdrawn
    from pipeline.gallery.verdict import count

    gallery = open_gallery()
    names = gallery.names()
    if name is not None:
        if name not in names:
            if as_json:
                print_json([])
            raise gallery.unknown(name)
        names = [name]
    found = look(gallery, names, lambda checks: count(checks).to_json())
    reasons = {name: withdrawn(gallery, name) for name in names}
    taken_back = [reasons[row.summary["name"]].get(row.summary["version"]) for row in found.rows]
    if as_json:
        shown = [
            {**row.summary, "verdict": row.verdict, "withdrawn": why}
            for row, why in zip(found.rows, taken_back, strict=True)
        ]
        print_json(shown)
        _refuse_damaged(found.damaged)
        return
    columns = ("image", "version", "channels", "state", "gen", "checks", "size", "on disk", "created")
    table(
        [_cells(row, withdrawn=why is not None) for row, why in zip(found.rows, taken_back, strict=True)],
        columns,
        empty="there are no versions; goldsmith build NAME makes one",
    )
    _print_refusals(gallery, names, everything)
    _refuse_damaged(found.damaged)


def _cells(row: Row, *, withdrawn: bool) -> tuple[str, ...]:
    from pipeline.cli.show import size
    from pipeline.gallery.verdict import Verdict

    shown = row.summary
    disk = shown["disks"][0]
    return (
        shown["name"],
        shown["version"],
        ",".join(shown["channels"]),
        shown["state"] + ("" if shown["signed_by"] else ", unsigned") + (", withdrawn" if withdrawn else ""),
        ",".join(str(generation) for generation in shown["generations"]),
        Verdict.from_json(row.verdict).short,
        *("missing" if disk[key] is None else size(disk[key]) for key in ("size", "allocated")),
        shown["created"],
    )


def _print_refusals(gallery: Gallery, names: Sequence[str], everything: bool) -> None:
    """Which candidates were refused: in one line on stderr, or with `everything` a line each."""
    refusals = {image: refused for image in names if (refused := gallery.refused(image))}
    if everything:
        for image, refused in refusals.items():
            when, run = refused.get("when", "?"), refused.get("run", "?")
            print(f"{image}: refused by {refused['gate']} on {when} ({run}): {refused['why']}")
    elif refusals:
        shown = ", ".join(list(refusals)[:SHOWN]) + (", ..." if len(refusals) > SHOWN else "")
        what = "the newest candidate" if len(refusals) == 1 else f"the newest candidates of {len(refusals)} images"
        print(f"refused: {what} ({shown}); goldsmith gallery list --all shows the reasons", file=sys.stderr)


def _refuse_damaged(damaged: list[str]) -> None:
    """Raise an error for the damaged versions, after the good ones were listed."""
    if damaged:
        raise CheckFailed(
            f"{len(damaged)} damaged: {'; '.join(damaged)}",
            name="gallery-damaged",
            hint="goldsmith gallery verify shows details; import the version again, or restore it from the archive",
        )


def show(reference: Reference, as_json: AsJson = False) -> None:
    """Show one master: disk, inputs, results of checks and tests, leases, the VMs and versions that stand on it.

    Example:
      goldsmith gallery show debian-13@golden
    """
    from pipeline.cli.show import booted, name_digest, print_json
    from pipeline.gallery.retention import leases, withdrawn
    from pipeline.gallery.verdict import count
    from pipeline.maintenance.usage import find_usage

    gallery = open_gallery()
    version = gallery.get(reference)
    usage = find_usage(locate_store(), version)
    manifest = version.manifest
    held = [lease for lease in leases(gallery, version.name) if lease.version == version.version]
    why = withdrawn(gallery, version.name).get(version.version)
    if as_json:
        vms = [{"name": name, "set": its_set} for name, its_set in usage.vms]
        more: dict[str, Any] = {"leases": [vars(lease) for lease in held], "withdrawn": why}
        more |= {"vms": vms, "children": list(usage.children)}
        print_json({**version.summary(), **more, "manifest": manifest})
        return
    disk = manifest["disk"]
    print(f"{version.name} {version.version}  {' '.join(version.channels)}")
    print(f"  {manifest.get('summary', '')}")
    if why:
        print(f"  withdrawn: {why}")
    for lease in held:
        print(f"  leased   {lease.id}: {lease.why}")
    for line in usage_lines(usage):
        print(f"  used     {line}")
    print(f"  disk     {version.disk}")
    shown = version.summary()["disks"]
    print(f"           {_on_disk(shown[0])}, {name_digest(version.digest)}")
    print(f"  signed   {'by key ' + manifest['signed_by'] if manifest.get('signed_by') else 'no signature'}")
    for row, disk in zip(shown[1:], version.data_disks, strict=True):
        what = f"{disk.filesystem} {disk.label or ''}".strip() if disk.filesystem else "blank"
        print(f"  LUN {disk.lun:<4} {row['path']}")
        print(f"           {_on_disk(row)}, {what}, caching {disk.caching}")
    print(f"  checks   {count(manifest.get('checks'))}")
    for cell, seen in manifest.get("prove", {}).items():
        checks = "; ".join(f"{what}: {value}" for what, value in seen.get("checks", {}).items())
        print(f"  {booted(cell, seen)}; {checks}")
        for what, picture in seen.get("pages", {}).items():
            drawn = picture.endswith(".png")
            print(f"           {what}: {version.path / 'screenshots' / picture if drawn else f'picture {picture}'}")
    for timing in manifest.get("timings", ()):
        print(f"  {timing['stage']:10} {timing.get('title') or '':28} {timing.get('seconds') or 0:7.1f} s")
    print(f"  run      {manifest.get('run', '?')}, created {manifest['created']}")


def usage_lines(usage: Usage) -> list[str]:
    """Who stands on a version, a line for VMs and one for versions."""
    vms = [name if its_set is None else f"{name} (set {its_set})" for name, its_set in usage.vms]
    lines = [f"VMs run from it: {', '.join(vms)}"] if vms else []
    return lines + ([f"versions were built on it: {', '.join(usage.children)}"] if usage.children else [])


def _on_disk(disk: Mapping[str, Any]) -> str:
    from pipeline.cli.show import size

    if disk["size"] is None:
        return "the disk is missing"
    return f"{size(disk['size'])}, {size(disk['allocated'])} on disk"


def verify(names: SomeNames = None, key: Keys = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Read masters again and compare them with their captured digests. NAME may be NAME@VERSION.

    Example:
      goldsmith gallery verify debian-13 --key builder.pub
    """
    from pipeline.cli.show import print_json
    from pipeline.gallery.integrity import verify as look

    gallery, judge = open_gallery(), evidence_judge(key)
    found = []
    for reference in names or gallery.names():
        name, _, which = reference.partition("@")
        only = _number(gallery, name, which) if which else None
        if not gallery.versions(name):
            gallery.refuse_unknown(name)
        for finding in look(gallery, name, only, judge=judge):
            found.append(finding)
            word = _state_of(finding)
            if not as_json:
                print(f"{word:8} {finding.what}  {finding.wrong}".rstrip())
    if as_json:
        print_json([vars(finding) for finding in found])
    bad = [finding.what for finding in found if finding.wrong and not finding.scratch]
    if bad:
        raise CheckFailed(
            f"{len(bad)} of {len(found)} are damaged: {listed(bad)}",
            name="gallery-damaged",
            hint="replace them (gallery import, gallery restore), or delete them (gallery remove)",
        )


def _state_of(finding: Finding) -> str:
    if finding.scratch:
        return "scratch"
    if finding.wrong:
        return "BAD"
    return "unsigned" if finding.unsigned else "good"


def _number(gallery: Gallery, name: str, which: str) -> str:
    """The number of a version that may be damaged, by its number or by a channel. Raises UsageError."""
    from pipeline.gallery.versions import parse

    there = parse(which) and (gallery.root / name / which).is_dir()
    return which if there else gallery.get(f"{name}@{which}").version


def diff(
    old: Annotated[str, typer.Argument(metavar="NAME@OLD", help="The older version or channel.")],
    new: Annotated[str, typer.Argument(metavar="NAME@NEW", help="The newer version or channel.")],
    as_json: AsJson = False,
) -> None:
    """Show the differences of two versions: packages, files, checks, blocks.

    Example:
      goldsmith gallery diff debian-13@2026.1121.0 debian-13@golden
    """
    from pipeline.cache.digests import BLOCK
    from pipeline.cli.show import print_json, size
    from pipeline.evidence.version_diff import compare

    gallery = open_gallery()
    seen = compare(gallery.get(old), gallery.get(new))
    if as_json:
        print_json(seen.to_json())
        return
    print(f"{seen.old} -> {seen.new}")
    for what, changes in (("packages", seen.packages), ("checks", seen.checks), ("files", seen.files)):
        _print_changes(what, changes)
    print(f"blocks    {seen.blocks} of {BLOCK >> 10} KiB, {size(seen.changed_bytes)} in sectors")


def _print_changes(what: str, changes: Changes) -> None:
    counts = f"{len(changes.added)} added, {len(changes.removed)} removed, {len(changes.changed)} changed"
    print(f"{what:9} {counts}")
    lines = [f"+ {name} {value}" for name, value in changes.added.items()]
    lines += [f"- {name} {value}" for name, value in changes.removed.items()]
    lines += [f"  {name} {before} -> {after}" for name, (before, after) in changes.changed.items()]
    for line in lines[:SHOWN]:
        print(f"          {line}")
    if len(lines) > SHOWN:
        print(f"          ... {len(lines) - SHOWN} more, with --json")
