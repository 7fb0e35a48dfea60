"""An emergency patch of an image and of six VMs that run from it: python -m tests.campaigns.emergency_patch

The archive publishes a new version of a package. One command, `goldsmith refresh NAME --patch --sets`, patches golden
and upgrades the set; a VM that is off is named, and current after its start and one more upgrade. All guests are
real: the golden debian-12 of the store that GOLDSMITH_HOME names is exported to a store of the campaign, which makes
its image from it. The page is docs/reports/campaign-emergency-patch.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.cli.environment import locate_store
from pipeline.gallery import Gallery
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.archive import PACKAGE, Archive, serve
from tests.campaigns.patch_nights import DEFINITION, packages
from tests.harness import Lab, new_home, remove

BASE, IMAGE, SET = "debian-12", "patched", "shop"
COUNT, UPDATE_DOMAINS = 6, 2
OFF = f"web-{COUNT - 1}"


class Service:
    """The image, and the set of VMs that run from it."""

    def __init__(self, lab: Lab, archive: Archive, key: Path) -> None:
        self.lab, self.archive, self.key = lab, archive, key

    def run(self, *words: str, code: int = 0) -> str:
        done = self.lab.run(*words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def refresh(self, *words: str, code: int = 0) -> str:
        for seen in (self.lab.home / "tmp").glob("index-*.json"):
            seen.unlink()  # the archive's state is believed for some minutes
        return self.run("refresh", IMAGE, *words, code=code)

    def packaged(self) -> str:
        """The version of the package on golden's disk."""
        return next(row["version"] for row in packages(self.lab, IMAGE) if row["package"] == PACKAGE)

    def versions(self) -> dict[str, str]:
        """The version of the image that each VM runs from."""
        return {vm["name"]: vm["version"] for vm in json.loads(self.run("set", "show", SET, "--json"))["vms"]}

    def inside(self, vm: str) -> str:
        """The version of the package in a guest."""
        command = f"dpkg-query -W -f '${{Version}}' {PACKAGE}"
        return self.run("vm", "ssh", vm, "-i", str(self.key), command).split()[-1]

    def begin(self) -> str:
        old = self.archive.release(0)
        self.refresh()
        assert self.packaged() == old
        size = ("--cpus", "1", "--memory", "1G", "--resource-disk", "none")
        words = ("--image", IMAGE, "--ssh-key", str(self.key.with_suffix(".pub")), "--set", SET)
        domains = ("--update-domains", str(UPDATE_DOMAINS))
        self.run("vm", "create", "web", *words, *domains, *size, "--count", str(COUNT))
        self.run("vm", "stop", OFF, "--force")
        return f"{COUNT} VMs of {self.lab.master(IMAGE)['version']} with {PACKAGE} {old}, one of them off"

    def patch(self) -> str:
        before = self.lab.master(IMAGE)["version"]
        new = self.archive.release(1)
        report = json.loads(self.refresh("--patch", "--sets", "--json", code=1))
        golden = self.lab.manifest(IMAGE)
        assert golden["patched_from"] == before and self.packaged() == new, golden
        (shop,) = report["sets"]
        assert list(shop["left"]) == [OFF], shop
        wanted = {f"web-{number}": golden["version"] for number in range(COUNT)}
        assert self.versions() == {**wanted, OFF: before}
        seen = {vm: self.inside(vm) for vm in wanted if vm != OFF}
        assert set(seen.values()) == {new}, seen
        return f"golden {golden['version']} and {len(seen)} VMs have {PACKAGE} {new}; named: {shop['left']}"

    def end(self) -> str:
        self.run("vm", "start", OFF)
        self.run("set", "upgrade", SET)
        assert set(self.versions().values()) == {self.lab.master(IMAGE)["version"]}
        return f"{OFF} has {PACKAGE} {self.inside(OFF)}; the set is current"


def run_campaign(page: Page, lab: Lab, work: Path) -> list[Row]:
    key, parcel, base = work / "key", work / "parcel", Gallery(locate_store().gallery).get(BASE)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    done = Lab(lab.folder, locate_store().root).run("gallery", "export", f"{BASE}@{base.version}", str(parcel))
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[Row] = []
    with serve(work / "archive") as archive:
        service = Service(lab, archive, key)
        service.run("gallery", "import", str(parcel))
        service.run("gallery", "promote", f"{BASE}@{base.version}")
        script = ["#!/bin/sh", "set -e", "export DEBIAN_FRONTEND=noninteractive"]
        script += [f"echo '{archive.line}' >/etc/apt/sources.list.d/night.list", "apt-get -q update"]
        lab.write("scripts/night.sh", "\n".join([*script, f"apt-get -q -y install {PACKAGE}"]) + "\n")
        text = DEFINITION.format(version=base.version, mode="rebuild", keep=3, package=PACKAGE)
        lab.write(f"images/{IMAGE}.yaml", text)
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("before", service.begin),
            ("refresh --patch --sets", service.patch),
            ("vm start, set upgrade", service.end),
        )
        try:
            for what, step in steps:
                began = time.monotonic()
                outcome = step()
                rows.append({"step": what, "s": round(time.monotonic() - began), "outcome": outcome, "ok": True})
                page.say(rows[-1])
        finally:
            lab.run("set", "delete", SET, "--yes")
    return rows


def main() -> int:
    began = time.monotonic()
    page, home, project, work = (
        Page("emergency_patch"),
        *(new_home(f"emergency-{what}") for what in ("store", "project", "work")),
    )
    try:
        rows = run_campaign(page, Lab(project, home), work)
    finally:
        for folder in (home, project, work):
            remove(folder)
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
