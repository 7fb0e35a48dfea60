"""`goldsmith inspect` and `goldsmith checks`: what must be true of a master, proven on any disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.usage import json_option

if TYPE_CHECKING:
    from pipeline.checks import CheckResult


def register(app: typer.Typer) -> None:
    app.command("inspect")(inspect)
    app.command("checks")(checks)


def inspect(
    disk: Annotated[Path, typer.Argument(metavar="DISK", help="A VHD, VHDX, qcow2, VMDK or raw disk.")],
    as_json: Annotated[bool, json_option()] = False,
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="PROFILE",
            help="azure-linux, azure-windows, hyper-v or any (default: the profile of the detected system).",
            autocompletion=completion.complete_profile,
        ),
    ] = "",
    account: Annotated[
        list[str], typer.Option("--account", metavar="NAME", help="An account that may ship; repeatable.")
    ] = [],  # noqa: B006  typer reads it, nobody changes it
    generation: Annotated[
        list[int],
        typer.Option(
            "--generation",
            metavar="N",
            help="The generation to check for: 1 is BIOS, 2 is UEFI; repeatable (default: both).",
        ),
    ] = [],  # noqa: B006
    port: Annotated[
        list[str],
        typer.Option(
            "--port", metavar="N/PROTOCOL", help="Windows: a port that must be open, such as 443/tcp; repeatable."
        ),
    ] = [],  # noqa: B006
    fmt: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="The disk's format (default: by its content).")
    ] = "",
    as_html: Annotated[bool, typer.Option("--html", help="Print an HTML page.")] = False,
    what: Annotated[
        str,
        typer.Option(
            "--list",
            metavar="WHAT",
            help="List volumes, os, packages, units, files, tree or registry (default: run the checks).",
        ),
    ] = "",
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Unpack an xz, gzip, bzip2, zstd, lz4 or lzma file first.")
    ] = False,
    registry_key: Annotated[
        str,
        typer.Option(
            "--registry-key",
            metavar="KEY",
            help=r"The registry key to list, such as 'SYSTEM\Setup' (default: none).",
        ),
    ] = "",
    registry_key_old: Annotated[str, typer.Option("--key", hidden=True)] = "",
) -> None:
    """Check a disk at rest, without mount or root. The operating system is detected.

    Exit code 0: all checks passed; 1: a check failed or could not run; 2: the disk cannot be read.

    Examples:
      goldsmith inspect disk.vhd
      goldsmith inspect disk.qcow2 --list packages
    """
    from pipeline.base.errors import CheckFailed, UsageError
    from pipeline.checks import inspect as inspect_disk
    from pipeline.gallery.verdict import BLOCKING, count
    from pipeline.systems.questions import recorded_system

    if as_json and as_html:
        raise UsageError(
            "--json and --html cannot be combined", name="two-outputs", hint="run the command once for each"
        )
    opened = _unpacked(disk) if unpack else nullcontext(disk)
    key = registry_key or registry_key_old
    if what or key:
        with opened as plain:
            _list(plain, fmt or None, what or "registry", key, as_json)
        return
    if not set(generation) <= {1, 2}:
        raise UsageError(
            "--generation must be 1 or 2",
            name="unknown-generation",
            hint="--generation 1 (BIOS), --generation 2 (UEFI)",
        )
    with opened as plain:
        inspected = inspect_disk(
            plain,
            fmt or None,
            profile=profile or None,
            accounts=account,
            generations=generation or (1, 2),
            ports=_ports(port) if port else None,
        )
    results, system = inspected.results, inspected.system
    listed = [result.to_json() for result in results]
    verdict = count(listed)
    if as_json:
        from pipeline.cli.show import print_json

        print_json(
            {
                "disk": str(disk),
                "profile": system.profile,
                "system": recorded_system(listed),
                "detected": system.to_json(),
                "verdict": verdict.to_json(),
                "checks": listed,
            }
        )
    elif as_html:
        from pipeline.checks.html_report import report

        print(report(disk, system, results), end="")
    else:
        print(f"detected: {system}")
        _print(results)
        print(verdict)
    if not verdict.good:
        names = {result.status for result in results}
        marks = " or ".join(status for status in BLOCKING if status in names)
        raise CheckFailed(
            f"{disk.name}: {verdict}",
            name="checks-failed" if "fail" in names else "checks-unchecked",
            hint=f"correct each check marked {marks}, and inspect again",
        )


def _unpacked(disk: Path) -> AbstractContextManager[Path]:
    from pipeline.disk.unpack import unpacked

    return unpacked(disk)


def _ports(words: Sequence[str]) -> list[tuple[str, int]]:
    from pipeline.base.errors import UsageError

    found = []
    for word in words:
        number, _, protocol = word.partition("/")
        if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in ("tcp", "udp"):
            raise UsageError(f"{word} is not a port", name="unknown-port", hint="write 443/tcp or 53/udp")
        found.append((protocol, int(number)))
    return found


def _list(disk: Path, fmt: str | None, what: str, key: str, as_json: bool) -> None:
    from pipeline.cli.show import print_json, table
    from pipeline.systems.listing import COLUMNS
    from pipeline.systems.questions import list_disk

    rows = list_disk(disk, fmt, what=what, key=key)
    if not rows:
        # on stderr: an empty list is a right answer to a program
        print(f"{disk.name}: no {what}", file=sys.stderr)
    if as_json:
        names = [name.lower().replace(" ", "_") for name in COLUMNS[what]]
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    table(rows, COLUMNS[what])


def _print(results: Sequence[CheckResult]) -> None:
    from pipeline.base.printable import single_line
    from pipeline.cli.door import paint

    colours = {"pass": "32", "warn": "33", "fail": "31", "skip": "2", "unchecked": "31", "waived": "36"}
    column = max(map(len, colours))
    width = max(len(result.id) for result in results)
    for result in results:
        status = paint(f"{result.status:{column}}", colours[result.status])
        print(f"{status}  {result.id:{width}}  {single_line(result.evidence or result.title)}")
        if result.status in ("fail", "warn"):
            print(f"{'':{column}}  {'':{width}}  remedy: {result.remedy}")


def checks(
    as_json: Annotated[bool, json_option()] = False,
    profile: Annotated[
        str, typer.Option("--profile", metavar="PROFILE", help="List only the checks of this profile (default: all).")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/checks.md.")] = False,
) -> None:
    """List all checks: what each verifies, why, its remedy, and the source of the rule.

    Example:
      goldsmith checks --profile azure-linux
    """
    from pipeline.checks import all_checks
    from pipeline.checks.markdown_report import page
    from pipeline.cli.show import print_json, table

    found = all_checks(profile or None)
    if markdown:
        print(page(found), end="")
        return
    if as_json:
        print_json(
            [
                {
                    "id": check.id,
                    "title": check.title,
                    "why": check.why,
                    "remedy": check.remedy,
                    "source": check.source,
                    "severity": check.severity,
                    "profiles": list(check.profiles),
                }
                for check in found
            ]
        )
        return
    table([(check.id, check.severity, check.title) for check in found], ("CHECK", "SEVERITY", "WHAT MUST BE TRUE"))
