"""`goldsmith gallery`: what masters there are, which of them is golden, and which of them stay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.cli import context
from pipeline.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pipeline.compare import Changes
    from pipeline.gallery import Gallery, Version
    from pipeline.gallery.integrity import Judge

Reference = Annotated[str, typer.Argument(metavar="NAME[@VERSION|CHANNEL]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SomeNames = Annotated[Optional[list[str]], typer.Argument(metavar="NAME...", help="Only these images.")]  # noqa: UP045
Keys = Annotated[
    list[Path],
    typer.Option("--key", metavar="FILE", help="A public key: what it did not sign is damaged; repeatable."),
]
Repository = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--archive", metavar="FOLDER", help="Where the archive is; by default in the store."),
]
AllowUnsigned = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Take it without a signature of a trusted key; it is shown as unsigned."),
]
#: How many names of a kind `diff` shows a person.
SHOWN = 12


def register(app: typer.Typer) -> None:
    noun = typer.Typer(help="The golden masters.", no_args_is_help=True, rich_markup_mode=None)
    noun.command("list")(list_versions)
    noun.command("show")(show)
    noun.command("promote")(promote)
    noun.command("rollback")(rollback)
    noun.command("prune")(prune)
    noun.command("verify")(verify)
    noun.command("diff")(diff)
    noun.command("delta")(delta)
    noun.command("lease")(lease)
    noun.command("export")(export)
    noun.command("import")(take_in)
    noun.command("archive")(archive)
    noun.command("restore")(restore)
    app.add_typer(noun, name="gallery")


def _gallery() -> Gallery:
    from pipeline.gallery import Gallery
    from pipeline.store import Store

    return Gallery(Store.locate().gallery)


def list_versions(
    name: Annotated[Optional[str], typer.Argument(metavar="NAME", help="Only this image.")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """List the masters, oldest first."""
    from pipeline.checks.verdict import count
    from pipeline.cli.show import print_json, size, table

    gallery = _gallery()
    names = [name] if name else gallery.names()
    versions = [v for image in names for v in gallery.versions(image)]
    damaged = [f"{error.path}: {error.why}" for image in names for error in gallery.damaged(image)]
    damaged += [f"{v.path / disk}: it is missing" for v in versions for disk in v.missing()]
    if as_json:
        print_json([{**v.summary(), "verdict": count(v.manifest.get("checks")).to_json()} for v in versions])
        _refuse_damaged(damaged)
        return
    rows = []
    for version in versions:
        row = version.summary()
        disk = row["disks"][0]
        generations = ",".join(str(g) for g in row["generations"])
        shown = tuple("missing" if disk[key] is None else size(disk[key]) for key in ("size", "allocated"))
        rows.append(
            (
                row["name"],
                row["version"],
                ",".join(row["channels"]),
                row["state"] + ("" if row["signed_by"] else ", unsigned"),
                generations,
                count(version.manifest.get("checks")).short,
                *shown,
                row["created"],
            )
        )
    table(rows, ("image", "version", "channels", "state", "gen", "checks", "size", "on disk", "created"))
    for image in [name] if name else gallery.names():
        if refused := gallery.refused(image):
            when, run = refused.get("when", "?"), refused.get("run", "?")
            print(f"{image}: refused by {refused['gate']} on {when} ({run}): {refused['why']}")
    _refuse_damaged(damaged)


def _refuse_damaged(damaged: list[str]) -> None:
    """The end of a list that is not whole: what is good was shown, and this is what was not."""
    if damaged:
        raise CheckFailed(
            f"{len(damaged)} damaged: {'; '.join(damaged)}",
            name="gallery-damaged",
            hint="goldsmith gallery verify says more; bring a version back from an export or the archive",
        )


def show(reference: Reference, as_json: AsJson = False) -> None:
    """Show one master: its disk, what went in, what was checked and proven, who keeps it."""
    from pipeline.checks.verdict import count
    from pipeline.cli.show import booted, print_json, seal
    from pipeline.gallery.keeping import leases, withdrawn

    gallery = _gallery()
    version = gallery.get(reference)
    manifest = version.manifest
    held = [one for one in leases(gallery, version.name) if one.version == version.version]
    why = withdrawn(gallery, version.name).get(version.version)
    if as_json:
        more = {"leases": [vars(one) for one in held], "withdrawn": why}
        print_json({**version.summary(), **more, "manifest": manifest})
        return
    disk = manifest["disk"]
    print(f"{version.name} {version.version}  {' '.join(version.channels)}")
    print(f"  {manifest.get('summary', '')}")
    if why:
        print(f"  taken back: {why}")
    for one in held:
        print(f"  leased   {one.id}: {one.why}")
    print(f"  disk     {version.disk}")
    shown = version.summary()["disks"]
    print(f"           {_on_disk(shown[0])}, {seal(version.digest)}")
    print(f"  signed   {'by key ' + manifest['signed_by'] if manifest.get('signed_by') else 'by nobody'}")
    for told, disk in zip(shown[1:], version.data_disks, strict=True):
        what = f"{disk.filesystem} {disk.label or ''}".strip() if disk.filesystem else "blank"
        print(f"  LUN {disk.lun:<4} {told['path']}")
        print(f"           {_on_disk(told)}, {what}, caching {disk.caching}")
    print(f"  checks   {count(manifest.get('checks'))}")
    for cell, seen in manifest.get("prove", {}).items():
        checks = "; ".join(f"{what}: {value}" for what, value in seen.get("checks", {}).items())
        print(f"  {booted(cell, seen)}; {checks}")
    for timing in manifest.get("timings", ()):
        print(f"  {timing['stage']:10} {timing.get('title') or '':28} {timing.get('seconds') or 0:7.1f} s")
    print(f"  run      {manifest.get('run', '?')}, created {manifest['created']}")


def _on_disk(disk: Mapping[str, Any]) -> str:
    from pipeline.cli.show import size

    if disk["size"] is None:
        return "it is missing"
    return f"{size(disk['size'])}, {size(disk['allocated'])} on disk"


def promote(
    reference: Reference,
    channel: Annotated[
        str, typer.Argument(metavar="CHANNEL", help="golden, candidate, or a name of your own.")
    ] = "golden",
) -> None:
    """Point a channel at a version. Golden takes only what passed its gates."""
    from pipeline.gallery import GOLDEN
    from pipeline.gallery.keeping import promote as point

    gallery = _gallery()
    version = gallery.get(reference)
    # its disks are not read again: `verify` does that
    if channel == GOLDEN and (wrong := _judge([])(version.path, version.manifest)):
        raise CheckFailed(
            f"{version.name} {version.version} cannot be golden: {wrong}",
            name="evidence-damaged",
            hint="goldsmith gallery verify says more; `gallery import --allow-unsigned` takes an unsigned one",
        )
    point(gallery, version, channel)
    print(f"{version.name}@{channel} is {version.version}")


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    channel: Annotated[str, typer.Option("--channel", help="The channel to move back.")] = "golden",
    why: Annotated[str, typer.Option("--why", help="What was wrong; it is kept.")] = "rolled back by hand",
) -> None:
    """Point a channel at the good version before its own. No build makes the one that was left golden again."""
    from pipeline.gallery.keeping import roll_back

    before, now = roll_back(_gallery(), name, channel, why)
    print(f"{name}@{channel} is {now.version} again; {before.version} was taken back: {why}")


def prune(
    names: SomeNames = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--keep", min=1, metavar="N", help="So many versions, whatever the definition says."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let go the versions that their definitions do not keep; never a channel's, never one in use."""
    from pipeline.cli.show import print_json, table
    from pipeline.definition import Keep, load_named
    from pipeline.retention import prune_masters
    from pipeline.store import Store

    store = Store.locate()
    found = []
    for name in names or _gallery().names():
        if keep is not None:
            policy = Keep(versions=keep)
        else:
            try:
                policy = load_named(context.project(), name).keep
            except UsageError:
                # an image without a definition has nobody who lets it go
                print(f"{name}: no definition here, all kept")
                continue
        found += prune_masters(store, name, policy, dry=dry)
    if as_json:
        print_json(
            [{"name": g.version.name, "version": g.version.version, "why": g.why, "held": g.held} for g in found]
        )
        return
    word = "would go" if dry else "gone"
    rows = [(g.version.name, g.version.version, f"kept: {g.held}" if g.held else word, g.why) for g in found]
    table(rows, ("image", "version", "", "why")) if rows else print("nothing to let go")


def _judge(keys: list[Path], *, arriving: bool = False, admit: str | None = None) -> Judge:
    """What holds a master's evidence to the keys that are trusted: those given, else those beside this host's own.

    A signature is demanded of what this host makes, and of what is `arriving`; `admit` is the digest of a manifest
    that needs none.
    """
    from functools import partial

    from pipeline.evidence import signing, unsigned
    from pipeline.evidence.judge import judge

    key = signing.locate()
    trusted = keys or signing.trusted(key)
    demanded = bool(keys) or arriving or signing.signs(key)
    admitted = set() if keys or not demanded else set(unsigned.admitted(unsigned.register_beside(key), _gallery()))
    if admit is not None:
        admitted.add(admit)
    return partial(judge, keys=[signing.load_public(path) for path in trusted], demanded=demanded, admitted=admitted)


def verify(names: SomeNames = None, key: Keys = [], as_json: AsJson = False) -> None:  # noqa: B006
    """Read every master again and compare it with what was captured. NAME may be NAME@VERSION."""
    from pipeline.cli.show import print_json
    from pipeline.gallery.integrity import verify as look

    gallery, judge = _gallery(), _judge(key)
    found = []
    for reference in names or gallery.names():
        name, _, which = reference.partition("@")
        only = _number(gallery, name, which) if which else None
        if not gallery.versions(name) and name not in gallery.names():
            raise UsageError(f"no image {name} in the gallery", name="gallery-unknown")
        for one in look(gallery, name, only, judge=judge):
            found.append(one)
            word = "scratch" if one.scratch else "BAD" if one.wrong else "unsigned" if one.unsigned else "good"
            if not as_json:
                print(f"{word:8} {one.what}  {one.wrong}".rstrip())
    if as_json:
        print_json([vars(one) for one in found])
    bad = [one.what for one in found if one.wrong and not one.scratch]
    if bad:
        raise CheckFailed(f"{len(bad)} of {len(found)} are damaged: {', '.join(bad)}", name="gallery-damaged")


def _number(gallery: Gallery, name: str, which: str) -> str:
    """The number of a version that may be damaged, by its number or by a channel. Raises UsageError."""
    from pipeline.gallery.versions import parse

    there = parse(which) and (gallery.root / name / which).is_dir()
    return which if there else gallery.get(f"{name}@{which}").version


def diff(
    old: Annotated[str, typer.Argument(metavar="NAME@OLD")],
    new: Annotated[str, typer.Argument(metavar="NAME@NEW")],
    as_json: AsJson = False,
) -> None:
    """Say what one version has that another has not: packages, files, checks, blocks."""
    from pipeline.cli.show import print_json, size
    from pipeline.compare import compare
    from pipeline.digests import BLOCK

    gallery = _gallery()
    seen = compare(gallery.get(old), gallery.get(new))
    if as_json:
        print_json(seen.to_json())
        return
    print(f"{seen.old} -> {seen.new}")
    for what, changes in (("packages", seen.packages), ("checks", seen.checks), ("files", seen.files)):
        _print_changes(what, changes)
    print(f"blocks    {seen.blocks} of {BLOCK >> 10} KiB, {size(seen.changed_bytes)} in sectors")


def delta(
    old: Annotated[str, typer.Argument(metavar="NAME@OLD")],
    new: Annotated[str, typer.Argument(metavar="NAME@NEW")],
    target: Annotated[Path, typer.Argument(metavar="FILE.vhd")],
    force: Annotated[bool, typer.Option("--force", help="Write over FILE.vhd.")] = False,
) -> None:
    """Write a differencing VHD that gives NEW's disk back from OLD's, bit for bit (goldsmith vhd apply)."""
    import time

    from pipeline.cli.show import size
    from pipeline.compare import delta as write

    gallery = _gallery()
    before, after = gallery.get(old), gallery.get(new)
    made = write(before, after, target, timestamp=int(time.time()), force=force)
    print(f"{made.path}  {size(made.allocated)} on disk, for {after.name} {after.version} on {before.version}")
    print(f"\n  goldsmith vhd apply {made.path} NEW.vhd --parent {before.disk} --to fixed\n")


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


def lease(
    reference: Reference,
    why: Annotated[str, typer.Option("--why", help="What for.")] = "by hand",
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="When it ends by itself.")] = 24.0,
    release: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--release", metavar="ID", help="End this lease."),
    ] = None,
) -> None:
    """Keep a version from being pruned while something uses it: an upload, a clone, another host."""
    from pipeline.gallery.keeping import give_back, take_lease

    gallery = _gallery()
    version = gallery.get(reference)
    if release is not None:
        give_back(gallery, version.name, release)
        print(f"{release} has ended")
        return
    taken = take_lease(gallery, version, why, seconds=hours * 3600)
    print(taken.id)


def export(
    reference: Reference, target: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")]
) -> None:
    """Copy a master to a folder, with its manifest and SHA256SUMS."""
    from pipeline.gallery.keeping import leased
    from pipeline.gallery.parcels import export as send

    gallery = _gallery()
    version = gallery.get(reference)
    with leased(gallery, version, f"export to {target}"):
        print(send(version, target.absolute(), judge=_judge([])))


def take_in(
    parcel: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `export` made.")],
    key: Keys = [],  # noqa: B006  typer wants a list, and nobody changes it
    allow_unsigned: AllowUnsigned = False,
) -> None:
    """Put an exported master into this gallery, judged by its manifest and its evidence. No channel moves."""
    from pipeline.evidence.seal import settle
    from pipeline.gallery.parcels import take_in as receive
    from pipeline.store import Store

    Store.locate().ensure()
    admit = _manifest_digest(parcel) if allow_unsigned else None
    made = receive(_gallery(), parcel, judge=_judge(key, arriving=True, admit=admit), complete=settle)
    _admit(made, admit, f"imported from {parcel} with --allow-unsigned")
    print(f"{made.name} {made.version}  {made.disk}")
    print(f"  goldsmith gallery promote {made.name}@{made.version}    makes it golden")


def _manifest_digest(parcel: Path) -> str | None:
    """The digest of a parcel's manifest, None where it has none: then the import says so."""
    from pipeline.digests import file_digest
    from pipeline.gallery import MANIFEST

    manifest = parcel / MANIFEST
    return file_digest(manifest) if manifest.is_file() and not manifest.is_symlink() else None


def _admit(version: Version, digest: str | None, why: str) -> None:
    """Remember that a version may be without a signature, where somebody has let it in so."""
    from pipeline.evidence import signing, unsigned

    if digest is not None:
        unsigned.admit(unsigned.register_beside(signing.locate()), version, why)
        print(f"{version.name} {version.version} is here without a signature: nobody vouches for what it holds")


def archive(
    references: Annotated[list[str], typer.Argument(metavar="NAME@VERSION...")],
    repository: Repository = None,
) -> None:
    """Move old masters into a deduplicating archive (borg); each is read back and compared before it goes."""
    from pipeline.retention import put_away
    from pipeline.store import Store

    store, judge = Store.locate().ensure(), _judge([])
    place = (repository or store.root / "archive").absolute()
    for reference in references:
        version = _gallery().get(reference)
        put_away(store, version, place, judge)
        print(f"{version.name} {version.version} is in {place}")


def restore(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    repository: Repository = None,
    allow_unsigned: AllowUnsigned = False,
) -> None:
    """Bring a master back from the archive. No channel moves."""
    from pipeline.evidence.seal import settle
    from pipeline.gallery.archive import bring_back
    from pipeline.store import Store

    store = Store.locate().ensure()
    name, _, version = reference.partition("@")
    place = (repository or store.root / "archive").absolute()
    digests: list[str | None] = []

    def judge(folder: Path, manifest: Mapping[str, Any]) -> str:
        digests.append(_manifest_digest(folder) if allow_unsigned else None)
        return _judge([], admit=digests[-1])(folder, manifest)

    made = bring_back(_gallery(), name, version, place, store.tmp, judge=judge, complete=settle)
    _admit(made, digests[-1] if digests else None, "restored from the archive with --allow-unsigned")
    print(f"{made.name} {made.version}  {made.disk}")
