"""`goldsmith gallery`: the masters, their channels, and their deletion."""

from __future__ import annotations

import typer

from pipeline.cli.gallery import channels, find, removal, site, transfers, versions
from pipeline.cli.usage import VerbGroup


def register(app: typer.Typer) -> None:
    noun = typer.Typer(help="Manage the golden masters.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup)
    noun.command("list")(versions.list_versions)
    noun.command("show")(versions.show)
    noun.command("promote")(channels.promote)
    noun.command("rollback")(channels.rollback)
    noun.command("prune")(removal.prune)
    noun.command("remove")(removal.remove)
    noun.command("dismiss")(removal.dismiss)
    noun.command("verify")(versions.verify)
    noun.command("diff")(versions.diff)
    noun.command("delta")(transfers.delta)
    noun.command("find")(find.find)
    noun.command("site")(site.write)
    noun.command("lease")(transfers.lease)
    noun.command("export")(transfers.export)
    noun.command("import")(transfers.import_version)
    noun.command("archive")(transfers.archive)
    noun.command("restore")(transfers.restore)
    channel = typer.Typer(
        help="Manage the channels of images.", no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup
    )
    channel.command("list")(channels.list_all)
    channel.command("remove")(channels.remove)
    noun.add_typer(channel, name="channel")
    app.add_typer(noun, name="gallery")
