"""goldsmith doctor: is this host fit, and what would make it so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.hypervisor.host import Finding


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor(
        json: Annotated[
            bool, typer.Option("--json", help="A list of objects: name, verdict, text, fix, facts.")
        ] = False,
        refresh: Annotated[bool, typer.Option("--refresh", help="Measure the accelerator again.")] = False,
    ) -> None:
        """Say what this host has and lacks, line by line, with the fix. Exit code 3 when something must be mended."""
        from dataclasses import asdict

        from pipeline.cli.show import print_json
        from pipeline.errors import HostError
        from pipeline.hypervisor import host

        findings = [*host.examine(refresh=refresh), *_use()]
        if json:
            print_json([asdict(finding) for finding in findings])
        else:
            for finding in findings:
                print(f"{finding.verdict:5} {finding.name:13} {finding.text}")
                if finding.fix:
                    print(f"{'':5} {'':13} -> {finding.fix}")
        bad = [finding.name for finding in findings if finding.verdict == "fail"]
        if bad:
            raise HostError(f"this host is not fit: {', '.join(bad)}", name="host-unfit")


def _use() -> list[Finding]:
    """What the store holds on disk."""
    from pipeline.care import disk_use
    from pipeline.cli.show import size
    from pipeline.hypervisor.host import Finding
    from pipeline.store import Store

    store = Store.locate()
    if not store.layers.is_dir():
        return []
    use = disk_use(store)
    text = ", ".join(f"{what} {size(held)}" for what, held in use.items())
    return [Finding("store-use", "ok", text, facts={what.replace(" ", "_"): held for what, held in use.items()})]
