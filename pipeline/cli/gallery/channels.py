"""The verbs that move channels: promote, rollback, channel list, channel remove."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from pipeline.base.errors import CheckFailed, UsageError
from pipeline.cli import completion
from pipeline.cli.environment import locate_store
from pipeline.cli.gallery.options import AsJson, DryRun, Image, Reference, evidence_judge, open_gallery
from pipeline.cli.removals import Row, print_removals


def promote(
    reference: Reference,
    channel: Annotated[
        str,
        typer.Argument(
            metavar="CHANNEL",
            help="golden, candidate, or a name of your own.",
            autocompletion=completion.complete_channel,
        ),
    ] = "golden",
    create: Annotated[bool, typer.Option("--create", help="Allow a new channel.")] = False,
) -> None:
    """Point a channel to a version. The channel `golden` accepts only versions that passed all gates.

    Examples:
      goldsmith gallery promote debian-13@2026.1121.0
      goldsmith gallery promote debian-13 stable --create
    """
    from pipeline.gallery import GOLDEN
    from pipeline.gallery.channels import refuse_new_channel
    from pipeline.gallery.master import reading
    from pipeline.gallery.retention import promote as point

    gallery = open_gallery()
    version = gallery.get(reference)
    if not create:
        refuse_new_channel(gallery, channel)
    # its disks are not read again: `verify` does that
    with reading(version):
        if channel == GOLDEN and (wrong := evidence_judge([])(version.path, version.manifest)):
            raise CheckFailed(
                f"{version.name} {version.version} cannot be golden: {wrong}",
                name="evidence-damaged",
                hint="`gallery verify` shows details; `gallery import --allow-unsigned` accepts an unsigned master",
            )
    point(gallery, version, channel)
    print(f"{version.name}@{channel} is {version.version}")


def rollback(
    name: Image,
    channel: Annotated[
        str,
        typer.Option("--channel", help="The channel to move back.", autocompletion=completion.complete_channel),
    ] = "golden",
    why: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="The reason; it is recorded.")
    ] = "rolled back by hand",
) -> None:
    """Move a channel back to the previous good version, and name what still stands on the withdrawn one.
    The withdrawn version is never promoted automatically again.

    Example:
      goldsmith gallery rollback debian-13 --why 'loses its disks'
    """
    from pipeline.cli.gallery.versions import usage_lines
    from pipeline.gallery.retention import roll_back
    from pipeline.maintenance.usage import find_usage

    before, now = roll_back(open_gallery(), name, channel, why)
    print(f"{name}@{channel} is {now.version} again; {before.version} was withdrawn: {why}")
    usage = find_usage(locate_store(), before)
    for line in usage_lines(usage):
        print(f"{before.version}: {line}")
    for each in usage.sets:
        print(f"goldsmith set upgrade {each} --to {channel} brings the set {each} to {now.version}")


def list_all(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="NAME", help="Only this image (default: all).", autocompletion=completion.complete_image
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the channels of each image and their versions.

    Example:
      goldsmith gallery channel list
    """
    from pipeline.cli.show import print_json, table
    from pipeline.gallery.channels import list_channels

    gallery = open_gallery()
    if name is not None:
        gallery.refuse_unknown(name)
    found = [each for image in ([name] if name else gallery.names()) for each in list_channels(gallery, image)]
    if as_json:
        rows = [{"image": c.image, "channel": c.name, "version": c.version, "broken": c.is_broken} for c in found]
        print_json(rows)
        return
    shown = [(c.image, c.name, c.version, "its version is missing" if c.is_broken else "") for c in found]
    table(shown, ("image", "channel", "version", ""), empty="no channels")


def remove(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The image, or NAME@CHANNEL.", autocompletion=completion.complete_reference
        ),
    ],
    channel: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="CHANNEL",
            help="The channel, if NAME has no @CHANNEL.",
            autocompletion=completion.complete_channel,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Allow removing golden.")] = False,
    dry: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove a channel of an image. Its version is kept.

    Example:
      goldsmith gallery channel remove debian-13 stable
    """
    from pipeline.gallery.channels import remove_channel

    image, at, named = name.partition("@")
    if bool(at) == (channel is not None):
        raise UsageError(
            "name one image and one channel", name="usage", hint="goldsmith gallery channel remove NAME CHANNEL"
        )
    gallery = open_gallery()
    gallery.refuse_unknown(image)
    gone = remove_channel(gallery, image, channel or named, force=force, dry=dry)
    row = Row("channel", f"{gone.image}@{gone.name}", 0, f"it pointed to {gone.version}, which is kept")
    print_removals([row], dry=dry, as_json=as_json)
