"""`goldsmith gallery site`: the gallery as static pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from pipeline.cli.gallery.options import AsJson


def write(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of the site: new, empty, or a site from before.")
    ],
    metrics: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--metrics",
            metavar="FILE",
            help="Also write the metrics to FILE, for node_exporter's textfile collector (default: only to "
            "DIR/goldsmith.prom).",
        ),
    ] = None,
    link: Annotated[
        bool,
        typer.Option(
            "--link/--copy",
            help="Make the versions' pages hard links to the gallery's files, which takes no time and no space, or "
            "copies of them. A linked page is the gallery's own file: leave its owner and mode as they are. "
            "Pages are copied to another file system in any case.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write the gallery as static pages: images, versions, ages, sizes, times as plots, VMs, the versions' own pages.

    Example:
      goldsmith gallery site /srv/www/gallery --metrics /var/lib/node_exporter/goldsmith.prom
    """
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json
    from pipeline.evidence.site import write_site
    from pipeline.evidence.site_data import collect

    made = write_site(collect(locate_store()), folder.absolute(), metrics.absolute() if metrics else None, link=link)
    if as_json:
        print_json(made.to_json())
        return
    print(
        f"{made.folder / 'index.html'}: {made.images} images, {made.versions} versions, {made.pages} new pages of "
        f"versions, {made.removed} old files removed"
    )
