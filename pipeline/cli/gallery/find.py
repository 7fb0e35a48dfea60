"""`goldsmith gallery find`: which golden versions and VMs have a package, or a CVE."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.gallery.options import AsJson


def find(
    package: Annotated[
        list[str] | None,
        typer.Option(
            "--package",
            metavar="NAME[<VERSION]",
            help="A package; with < <= = != >= or > and a version, only such versions; repeatable, any counts.",
        ),
    ] = None,
    cve: Annotated[
        list[str] | None,
        typer.Option(
            "--cve",
            metavar="CVE-YEAR-NUMBER",
            help="A CVE, judged by the data of Debian's security tracker; repeatable, any counts.",
        ),
    ] = None,
    tracker: Annotated[
        Path | None,
        typer.Option(
            "--tracker",
            metavar="FILE",
            help="A copy of the tracker's data (default: security-tracker.json in the store).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search the golden versions, and the versions that VMs run from, for packages or CVEs.
    The bills of materials of the masters are read; what was installed in a VM later is not known.

    Examples:
      goldsmith gallery find --package 'openssl<3.0.15'
      goldsmith gallery find --package 'libssl3<3.0.15-1~deb12u1' --package nginx --json
      goldsmith gallery find --cve CVE-2024-5535 --tracker tracker.json
    """
    from pipeline.base.errors import UsageError

    if bool(package) == bool(cve):
        raise UsageError(
            "the search has both packages and CVEs" if package else "the search has neither a package nor a CVE",
            name="find-what",
            hint="name what to search for: --package 'openssl<3.0.15', or --cve CVE-2024-5535",
        )
    if package:
        _find_packages(package, as_json)
    elif cve:
        _find_cves(cve, tracker, as_json)


def _find_packages(wanted: list[str], as_json: bool) -> None:
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json, table
    from pipeline.evidence.package_index import Query, find_packages

    answer = find_packages(locate_store(), [Query.of(each) for each in wanted])
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
        empty=f"none of {answer.searched} golden versions and versions of VMs has {' or '.join(wanted)}",
    )
    if answer.without_bill:
        print(f"not known of {', '.join(answer.without_bill)}: no bill of materials", file=sys.stderr)


def _find_cves(wanted: list[str], tracker: Path | None, as_json: bool) -> None:
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json, table
    from pipeline.evidence.security_tracker import find_cves

    answer = find_cves(locate_store(), wanted, tracker)
    if as_json:
        print_json(answer.to_json())
        return
    rows = [
        (
            each.image,
            each.version,
            "golden" if each.golden else "",
            each.cve,
            each.source,
            each.installed,
            each.judgement + (f": {each.fixed}" if each.fixed else ""),
            ", ".join(each.vms),
        )
        for each in answer.found
    ]
    judged = answer.searched - len(answer.not_judged)
    table(
        rows,
        ("image", "version", "channel", "CVE", "source package", "installed", "verdict", "VMs"),
        empty=f"none of {judged} golden versions and versions of VMs has {' or '.join(wanted)}",
    )
    if answer.not_judged:
        print(f"not judged: {', '.join(answer.not_judged)}", file=sys.stderr)
