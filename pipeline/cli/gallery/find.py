"""`goldsmith gallery find`: which golden versions and VMs have a package."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipeline.cli.gallery.options import AsJson


def find(
    package: Annotated[
        list[str],
        typer.Option(
            "--package",
            metavar="NAME[<VERSION]",
            help="A package; with < <= = != >= or > and a version, only such versions; repeatable, any counts.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Search the golden versions, and the versions that VMs run from, for packages.
    The bills of materials of the masters are read; what was installed in a VM later is not known.

    Examples:
      goldsmith gallery find --package 'openssl<3.0.15'
      goldsmith gallery find --package 'libssl3<3.0.15-1~deb12u1' --package nginx --json
    """
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json, table
    from pipeline.evidence.package_index import Query, find_packages

    answer = find_packages(locate_store(), [Query.of(each) for each in package])
    if as_json:
        print_json(answer.to_json())
        return
    rows = [
        (
            each.image,
            each.version,
            "golden" if each.golden else "",
            each.package,
            each.installed + ("" if each.matches else " (its order is not known)"),
            each.architecture,
            ", ".join(each.vms),
        )
        for each in answer.found
    ]
    table(
        rows,
        ("image", "version", "channel", "package", "installed", "architecture", "VMs"),
        empty=f"none of {answer.searched} golden versions and versions of VMs has {' or '.join(package)}",
    )
    if answer.without_bill:
        print(f"not known of {', '.join(answer.without_bill)}: no bill of materials", file=sys.stderr)
