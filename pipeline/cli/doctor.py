"""`goldsmith doctor`: whether this host meets all requirements, and the remedy for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.environment import locate_store
from pipeline.cli.usage import json_option

if TYPE_CHECKING:
    from pipeline.hypervisor.finding import Finding


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor(
        json: Annotated[bool, json_option("Print a list of objects: name, verdict, text, fix, facts.")] = False,
        refresh: Annotated[bool, typer.Option("--refresh", help="Measure the accelerator again.")] = False,
        fleet: Annotated[
            bool, typer.Option("--fleet", help="Check the workers of slurm.yaml, each by a short job of Slurm.")
        ] = False,
    ) -> None:
        """Check this host: one line for each requirement, with the remedy. Exit code 3: a requirement is not met.

        Examples:
          goldsmith doctor
          goldsmith doctor --fleet
        """
        from dataclasses import asdict

        from pipeline.base.errors import HostError
        from pipeline.cli.show import print_json

        if fleet:
            _examine_fleet(json)
            return
        findings = examine_host(refresh=refresh)
        if json:
            print_json([asdict(finding) for finding in findings])
        else:
            for finding in findings:
                print(f"{finding.verdict:5} {finding.name:13} {finding.text}")
                if finding.fix:
                    print(f"{'':5} {'':13} -> {finding.fix}")
        bad = [finding.name for finding in findings if finding.verdict == "fail"]
        if bad:
            raise HostError(
                f"this host is not suitable: {', '.join(bad)}",
                name="host-unfit",
                hint="follow the remedy (->) of each line above",
            )


def examine_host(*, refresh: bool = False) -> list[Finding]:
    """What this host meets, and what it lacks."""
    from pipeline.hypervisor import host

    return [*host.examine(locate_store, refresh=refresh), _sandbox(), *_use()]


def _examine_fleet(as_json: bool) -> None:
    """Print what each worker lacks. Raises HostError (host-unfit) if one lacks a requirement."""
    from dataclasses import asdict

    from pipeline.base.errors import HostError
    from pipeline.cli import context
    from pipeline.cli.show import print_json
    from pipeline.engine.executors.slurm_hosts import examine_workers
    from pipeline.engine.executors.slurm_queue import Slurm
    from pipeline.engine.executors.slurm_settings import read_settings

    found = examine_workers(read_settings(context.project()), Slurm())
    if as_json:
        print_json([{"host": node, **asdict(finding)} for node, findings in found.items() for finding in findings])
    else:
        for node, findings in found.items():
            lacking = [finding for finding in findings if finding.verdict != "ok"]
            print(f"== {node}" if lacking else f"== {node}: all {len(findings)} requirements are met")
            for finding in lacking:
                print(f"{finding.verdict:5} {finding.name:13} {finding.text}")
                if finding.fix:
                    print(f"{'':5} {'':13} -> {finding.fix}")
    bad = [node for node, findings in found.items() if any(each.verdict == "fail" for each in findings)]
    if bad:
        raise HostError(
            f"these workers are not suitable: {', '.join(bad)}",
            name="host-unfit",
            hint="follow the remedy (->) of each line above",
        )


def _sandbox() -> Finding:
    """The confinement of the readers of untrusted disks."""
    from pipeline.base.errors import GoldsmithError
    from pipeline.disk.probe import probe_confinement
    from pipeline.hypervisor.finding import Finding
    from pipeline.hypervisor.host_packages import install_command

    try:
        return judge_confinement(probe_confinement())
    except GoldsmithError as error:
        fix = install_command(["libseccomp2"])
        if "libseccomp.so" not in error.message:
            fix = "a kernel with seccomp filters (CONFIG_SECCOMP_FILTER); in a container, a profile that allows them"
        return Finding("sandbox", "fail", error.message, fix)


def judge_confinement(applied: Mapping[str, Any]) -> Finding:
    """`applied` is a worker's own report: namespaces, landlock (its version, 0: none), seccomp, missing."""
    from pipeline.hypervisor.finding import Finding

    namespaces, landlock = sorted(applied.get("namespaces", ())), applied.get("landlock", 0)
    missing = {str(name): str(why) for name, why in dict(applied.get("missing", {})).items()}
    held = ["seccomp"] if applied.get("seccomp") else []
    held += [f"landlock {landlock}"] if landlock else []
    held += [f"namespaces {' '.join(namespaces)}"] if namespaces else []
    text = ", ".join(held) or "no confinement is available"
    if missing:
        text += f"; missing: {', '.join(f'{name} ({why})' for name, why in sorted(missing.items()))}"
    facts = {
        "seccomp": bool(applied.get("seccomp")), "landlock": landlock, "namespaces": namespaces, "missing": missing,
    }  # fmt: skip
    mend = "a kernel with landlock (lsm=...,landlock at its start), or the right to make namespaces: in a container "
    mend += "CAP_SYS_ADMIN, for a user kernel.unprivileged_userns_clone=1"
    if not facts["seccomp"] or not (landlock or "root" in namespaces):
        # confined_exec starts no tool that could read every file of the host
        return Finding("sandbox", "fail", f"{text}; qemu-img and other tools cannot be confined", mend, facts)
    return Finding("sandbox", "warn" if missing else "ok", text, mend if missing else None, facts)


def _use() -> list[Finding]:
    """The store's use of its disk."""
    from pipeline.cli.show import size
    from pipeline.hypervisor.finding import Finding
    from pipeline.maintenance.gc import disk_use

    store = locate_store()
    if not store.layers.is_dir():
        return []
    use = disk_use(store)
    text = ", ".join(f"{what} {size(held)}" for what, held in use.items())
    return [Finding("store-use", "ok", text, facts={what.replace(" ", "_"): held for what, held in use.items()})]
