"""The verbs that move masters: delta, lease, export, import, archive, restore."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.cli.environment import locate_store, signing_key
from pipeline.cli.gallery.options import (
    AllowUnsigned,
    ConnectionFrom,
    KeyFrom,
    Keys,
    Reference,
    Repository,
    SasFrom,
    evidence_judge,
    open_gallery,
)
from pipeline.cli.usage import unreadable_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pipeline.base.byte_progress import OnWork
    from pipeline.gallery import Version


def delta(
    old: Annotated[str, typer.Argument(metavar="NAME@OLD", help="The older version or channel.")],
    new: Annotated[str, typer.Argument(metavar="NAME@NEW", help="The newer version or channel.")],
    target: Annotated[Path, typer.Argument(metavar="FILE.vhd", help="The differencing VHD to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing FILE.vhd.")] = False,
) -> None:
    """Write a differencing VHD that turns OLD's disk into NEW's, bit for bit (`goldsmith vhd apply` applies it).

    Example:
      goldsmith gallery delta debian-13@2026.1121.0 debian-13@golden night.vhd
    """
    import time

    from pipeline.cli.show import size
    from pipeline.evidence.version_diff import delta as write

    gallery = open_gallery()
    before, after = gallery.get(old), gallery.get(new)
    made = write(before, after, target, timestamp=int(time.time()), force=force)
    print(f"{made.path}  {size(made.allocated)} on disk, for {after.name} {after.version} on {before.version}")
    print(f"\n  goldsmith vhd apply {made.path} NEW.vhd --parent {before.disk} --to fixed\n")


def lease(
    reference: Reference,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The purpose of the lease.")] = "by hand",
    hours: Annotated[
        float, typer.Option("--hours", min=0.01, metavar="HOURS", help="The lease ends after this number of hours.")
    ] = 24.0,
    release: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--release", metavar="ID", help="End this lease (default: take a new lease)."),
    ] = None,
) -> None:
    """Protect a version from deletion while an upload, a clone or another host uses it.

    Example:
      goldsmith gallery lease debian-13 --why upload --hours 2
    """
    from pipeline.gallery.retention import release_lease, take_lease

    gallery = open_gallery()
    version = gallery.get(reference)
    if release is not None:
        release_lease(gallery, version.name, release)
        print(f"lease {release} has ended")
        return
    taken = take_lease(gallery, version, why, seconds=hours * 3600)
    print(taken.id)


def export(
    reference: Reference, target: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")]
) -> None:
    """Copy a master to a new folder, with its manifest and SHA256SUMS.

    Example:
      goldsmith gallery export debian-13 /mnt/usb/debian-13
    """
    from pipeline.gallery.export_import import export as send
    from pipeline.gallery.retention import leased

    gallery = open_gallery()
    version = gallery.get(reference)
    with _progress() as progress, leased(gallery, version, f"export to {target}"):
        made = send(version, target.absolute(), judge=evidence_judge([]), progress=progress)
    print(made)


@contextlib.contextmanager
def _progress() -> Iterator[OnWork]:
    """Shows the bytes of what is done on a terminal; elsewhere nothing."""
    from pipeline.cli.publish import ProgressLine
    from pipeline.publish.transfer import Follower

    line = ProgressLine(quiet=not sys.stderr.isatty())
    try:
        yield Follower(line)
    finally:
        line.close()


def import_version(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|TARGET", help="The folder that `export` made, or a target of `goldsmith publish`."
        ),
    ],
    published: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[NAME[@VERSION]]", help="The published version (default: the newest)."),
    ] = None,
    key: Keys = [],  # noqa: B006  typer wants a list, and nobody changes it
    allow_unsigned: AllowUnsigned = False,
    key_from: KeyFrom = None,
    sas_from: SasFrom = None,
    connection_from: ConnectionFrom = None,
) -> None:
    """Import an exported or published master after verifying its manifest and its evidence. No channel moves.

    Example:
      goldsmith gallery import /mnt/usb/debian-13 --key builder.pub
    """
    from pipeline.cli.publish import received_version

    locate_store().ensure()
    with received_version(source, published, key_from, sas_from, connection_from) as exported:
        _import(exported, key, allow_unsigned)


def _import(exported: Path, key: list[Path], allow_unsigned: bool) -> None:
    from pipeline.evidence.checksum import write_local_evidence
    from pipeline.gallery.export_import import import_version as receive

    _refuse_unreadable(exported)
    admit = _manifest_digest(exported) if allow_unsigned else None
    with _progress() as progress:
        made = receive(
            open_gallery(),
            exported,
            judge=evidence_judge(key, arriving=True, admit=admit),
            complete=write_local_evidence,
            progress=progress,
        )
    _admit(made, admit, f"imported from {exported} with --allow-unsigned")
    print(f"{made.name} {made.version}  {made.disk}")
    print(f"  goldsmith gallery promote {made.name}@{made.version}    promotes it to golden")


def _refuse_unreadable(exported: Path) -> None:
    """Raise UsageError (permission-denied) for an export that this user may not read: it may be whole."""
    from pipeline.gallery import MANIFEST

    try:
        os.close(os.open(exported / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError as error:
        raise unreadable_input(error) from None
    except OSError:
        return  # the import reports any other error


def _manifest_digest(exported: Path) -> str | None:
    """The digest of an export's manifest; None if it has none: then the import reports that."""
    from pipeline.cache.digests import file_digest
    from pipeline.gallery import MANIFEST

    manifest = exported / MANIFEST
    return file_digest(manifest) if manifest.is_file() and not manifest.is_symlink() else None


def _admit(version: Version, digest: str | None, why: str) -> None:
    """Record that a version may be without a signature, if the user has accepted it so."""
    from pipeline.evidence import unsigned

    if digest is not None:
        unsigned.admit(unsigned.register_beside(signing_key()), version, why)
        print(f"{version.name} {version.version} has no trusted signature: its content is not authenticated")


def archive(
    references: Annotated[list[str], typer.Argument(metavar="NAME@VERSION...", help="The versions to move.")],
    repository: Repository = None,
) -> None:
    """Move old masters into a borg archive. Each is read back and verified before it is deleted from the gallery.

    Example:
      goldsmith gallery archive debian-13@2026.1121.0
    """
    from pipeline.maintenance.retention import archive_version

    store, judge = locate_store().ensure(), evidence_judge([])
    place = (repository or store.root / "archive").absolute()
    for reference in references:
        version = open_gallery().get(reference)
        with _progress() as progress:
            archive_version(store, version, place, judge, progress)
        print(f"{version.name} {version.version} is in {place}")


def restore(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version to restore.")],
    repository: Repository = None,
    allow_unsigned: AllowUnsigned = False,
) -> None:
    """Restore a master from the archive. No channel moves.

    Example:
      goldsmith gallery restore debian-13@2026.1121.0
    """
    from pipeline.evidence.checksum import write_local_evidence
    from pipeline.gallery.archive import restore_version

    store = locate_store().ensure()
    name, _, version = reference.partition("@")
    place = (repository or store.root / "archive").absolute()
    digests: list[str | None] = []

    def judge(folder: Path, manifest: Mapping[str, Any]) -> str:
        digests.append(_manifest_digest(folder) if allow_unsigned else None)
        return evidence_judge([], admit=digests[-1])(folder, manifest)

    with _progress() as progress:
        made = restore_version(
            open_gallery(),
            name,
            version,
            place,
            store.tmp,
            judge=judge,
            complete=write_local_evidence,
            progress=progress,
        )
    _admit(made, digests[-1] if digests else None, "restored from the archive with --allow-unsigned")
    print(f"{made.name} {made.version}  {made.disk}")
