"""`goldsmith gallery`: what masters there are."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def register(app: typer.Typer) -> None:
    noun = typer.Typer(help="The golden masters.", no_args_is_help=True, rich_markup_mode=None)
    noun.command("list")(list_versions)
    noun.command("show")(show)
    app.add_typer(noun, name="gallery")


def list_versions(
    name: Annotated[Optional[str], typer.Argument(metavar="NAME", help="Only this image.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the masters, oldest first."""
    from pipeline.cli.show import print_json, size, table
    from pipeline.gallery import Gallery
    from pipeline.store import Store

    gallery = Gallery(Store.locate().gallery)
    versions = [v for image in ([name] if name else gallery.names()) for v in gallery.versions(image)]
    if as_json:
        print_json([version.summary() for version in versions])
        return
    rows = []
    for version in versions:
        told = version.summary()
        disk = told["disks"][0]
        generations = ",".join(str(g) for g in told["generations"])
        shown = (size(disk["size"]), size(disk["allocated"]))
        rows.append(
            (
                told["name"],
                told["version"],
                ",".join(told["channels"]),
                told["state"],
                generations,
                *shown,
                told["created"],
            )
        )
    table(rows, ("image", "version", "channels", "state", "gen", "size", "on disk", "created"))


def show(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|CHANNEL]")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest and the summary.")] = False,
) -> None:
    """Show one master: its disk, what went in, what was checked and proven."""
    from pipeline.cli.show import print_json, size
    from pipeline.gallery import Gallery
    from pipeline.store import Store

    version = Gallery(Store.locate().gallery).get(reference)
    manifest = version.manifest
    if as_json:
        print_json({**version.summary(), "manifest": manifest})
        return
    disk = manifest["disk"]
    print(f"{version.name} {version.version}  {' '.join(version.channels)}")
    print(f"  {manifest['summary']}")
    print(f"  disk     {version.disk}")
    print(f"           {size(disk['size'])}, {size(disk['allocated'])} on disk, sha256 {disk['sha256']}")
    counts: dict[str, int] = {}
    for check in manifest["checks"]:
        counts[check["status"]] = counts.get(check["status"], 0) + 1
    print(f"  checks   {', '.join(f'{number} {status}' for status, number in sorted(counts.items()))}")
    for cell, seen in manifest["prove"].items():
        told = "; ".join(f"{what}: {value}" for what, value in seen["checks"].items())
        print(f"  {cell:8} ssh after {seen['seconds']['ssh']} s; {told}")
    for timing in manifest["timings"]:
        print(f"  {timing['stage']:10} {timing['title'] or '':28} {timing['seconds'] or 0:7.1f} s")
    print(f"  run      {manifest['run']}, created {manifest['created']}")
