"""The verbs that delete masters and notes about them: prune, remove, dismiss."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from pipeline.base.errors import NotFound, UsageError
from pipeline.cli import completion, context
from pipeline.cli.gallery.options import AsJson, DryRun, SomeNames, open_gallery
from pipeline.cli.removals import Row, print_removals


def prune(
    names: SomeNames = None,
    dry: DryRun = False,
    keep: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--keep", min=1, metavar="N", help="The number of versions to keep (default: the definition's `keep:`)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete versions beyond `keep:`; a version in a channel or in use is never deleted.

    Example:
      goldsmith gallery prune debian-13 --keep 5 --dry-run
    """
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json
    from pipeline.definition import Keep, load_named
    from pipeline.maintenance.retention import prune_masters

    gallery = open_gallery()
    for name in names or ():
        gallery.refuse_unknown(name)
    found = []
    for name in names or gallery.names():
        if keep is not None:
            policy = Keep(versions=keep)
        else:
            try:
                policy = load_named(context.project(), name).keep
            except UsageError as error:
                if error.name == "definition":
                    raise
                # without a definition the number of versions to keep is not known
                print(f"{name}: there is no definition here, so all versions are kept", file=sys.stderr)
                continue
        found += prune_masters(locate_store(), name, policy, dry=dry)
    if as_json:
        print_json(
            [
                {
                    "name": each.version.name,
                    "version": each.version.version,
                    "why": each.why,
                    "held": each.held,
                    "bytes": each.size,
                    "removed": not dry and not each.held,
                }
                for each in found
            ]
        )
        return
    rows = [Row("version", f"{g.version.name} {g.version.version}", g.size, g.why, g.held) for g in found]
    print_removals(rows, dry=dry, as_json=False)


def remove(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="NAME@VERSION", help="The version, by its number.", autocompletion=completion.complete_reference
        ),
    ],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; the tombstone records it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also delete a version that is leased, in a channel, or a parent.")
    ] = False,
    dry: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete one version and leave a tombstone. A version that a running build uses is never deleted.

    Example:
      goldsmith gallery remove debian-13@2026.1121.0 --why 'a token was in it'
    """
    from pipeline.cli.environment import locate_store
    from pipeline.gallery.versions import parse
    from pipeline.maintenance.retention import remove_master

    name, at, number = reference.partition("@")
    gallery = open_gallery()
    gallery.refuse_unknown(name)
    if not at or parse(number) is None:
        versions = ", ".join(version.version for version in gallery.versions(name)) or "none"
        raise UsageError(
            f"{reference}: name the version by its number",
            name="version-unnamed",
            hint=f"goldsmith gallery remove {name}@VERSION; versions of {name}: {versions}",
        )
    if not why.strip():
        raise UsageError("--why is empty", name="usage", hint="--why 'a token was in /etc/app.conf'")
    found = remove_master(locate_store(), name, number, why.strip(), force=force, dry=dry)
    rows = [Row("version", f"{name} {number}", found.size, why.strip())]
    rows += [Row("channel", f"{name}@{channel}", 0, f"it pointed to {number}") for channel in found.channels]
    rows += [Row("layer", key, 0, "it holds the same disk, or depends on it") for key in found.layers]
    print_removals(rows, dry=dry, as_json=as_json)


def dismiss(names: SomeNames = None, dry: DryRun = False, as_json: AsJson = False) -> None:
    """Delete the records of refused candidates, of the named images or of all images. Versions are kept.

    Example:
      goldsmith gallery dismiss debian-13
    """
    gallery = open_gallery()
    for name in names or ():
        gallery.refuse_unknown(name)
        if gallery.refused(name) is None:
            hint = "goldsmith gallery list --all shows the refusals"
            raise NotFound(f"no candidate of {name} was refused", name="refusal-unknown", hint=hint)
    rows = []
    for name in names or gallery.names():
        if (refused := gallery.refused(name)) is not None:
            rows.append(Row("refusal", name, 0, f"{refused['gate']}: {refused['why']}"))
            if not dry:
                gallery.dismiss(name)
    print_removals(rows, dry=dry, as_json=as_json)
