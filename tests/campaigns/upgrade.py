"""The target `gen2-upgrade` on the golden master, with the one package archive that the campaign serves itself.

The clone's disk has an old version of the archive's package. A good new version must be installed, and the clone must
come back; each bad one must be found, by name. GOLDSMITH_PART names the packages to run, by parts of their names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.disk import open_disk
from pipeline.disk.root import Root
from pipeline.systems.linux.full_upgrade import CHECK, RESTART
from tests.campaigns.archive import PACKAGE, Archive, serve
from tests.campaigns.boots import write
from tests.campaigns.clones import Outcome, changed, start
from tests.harness import Lab, Say, wanted

TARGET = "gen2-upgrade"
#: The version that the clone's disk has.
OLD = "0.9"
#: One package is newer than the disk's; the archive has no other.
COUNT = "1 package upgraded, 0 installed, 0 removed"
_UNIT = "[Service]\\nExecStart=/bin/false\\n[Install]\\nWantedBy=multi-user.target\\n"


@dataclass(frozen=True)
class Case:
    """A new version of the package: what it does when it is configured, and how the proof must end.

    `name`: of the error, or of the outcome. `words` must be in the error's message or in a failure.
    """

    script: str
    name: str
    words: str
    answers: bool = True


CASES = {
    "a good package": Case("", "green", "as asked"),
    "a package that cannot be configured": Case(
        "echo the shop is closed; exit 7", "upgrade-failed", f"dpkg: error processing package {PACKAGE} (--configure)"
    ),
    "an archive that does not answer": Case(
        "", "upgrade-failed", "the package lists could not be updated", answers=False
    ),
    "a package that makes new host keys and a new machine-id": Case(
        "rm -f /etc/ssh/ssh_host_*; ssh-keygen -A; systemd-id128 new >/etc/machine-id",
        "not-as-asked",
        f"{RESTART}: another machine-id, another SSH host keys",
    ),
    "a package with a service that fails at the next boot": Case(
        f"printf '{_UNIT}' >/etc/systemd/system/night.service; systemctl enable night.service",
        "not-as-asked",
        "after the upgrade: services: degraded night.service",
    ),
}


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with serve(lab.folder / "archive") as archive:
        disk = old_disk(archive, master, lab.folder / "old.vhd")
        for number, name in enumerate(wanted(CASES), 1):
            archive.release(number, CASES[name].script)
            rows.append(_row(name, _start(archive, lab, disk, CASES[name])))
            say(rows[-1])
        disk.unlink()
    return rows


def old_disk(archive: Archive, master: Path, to: Path) -> Path:
    """The master with an old version of the package, and no archive but the campaign's."""
    with tempfile.TemporaryDirectory() as folder, open_disk(master, "vpc") as opened:
        return changed(master, to, _commands(archive, opened.root, Path(folder)))


def _commands(archive: Archive, root: Root, folder: Path) -> Sequence[str]:
    sources = "/etc/apt/sources.list.d"
    named = [f"{sources}/{name}" for name in root.listdir(sources)] if root.exists(sources) else []
    old = [path for path in (*named, "/etc/apt/sources.list") if root.exists(path)]
    entry = (
        f"\nPackage: {PACKAGE}\nStatus: install ok installed\nMaintainer: nobody <nobody@example.org>\n"
        f"Architecture: amd64\nVersion: {OLD}\nDescription: what changes at night\n"
    )
    files = write(
        ("/var/lib/dpkg/status", root.text("/var/lib/dpkg/status").rstrip("\n") + "\n" + entry),
        (f"/var/lib/dpkg/info/{PACKAGE}.list", "/.\n"),
        (f"{sources}/night.list", f"{archive.line}\n"),
    )
    return [*(f"rm {path}" for path in old), *files(root, folder)]


def _start(archive: Archive, lab: Lab, disk: Path, case: Case) -> Outcome:
    release = archive.root / "dists"
    if not case.answers:
        release.rename(archive.root / "away")
    try:
        return start(lab.home, disk, "upgrade", cell=TARGET, beside=1)
    finally:
        if not case.answers:
            (archive.root / "away").rename(release)


def _row(name: str, outcome: Outcome) -> dict[str, object]:
    case = CASES[name]
    seen = outcome.verdict.checks.get(CHECK, "") if outcome.verdict else ""
    counted = outcome.verdict is None or seen == COUNT
    return {
        "the new version": name,
        "outcome": outcome.name,
        "words": outcome.words[:300],
        "packages": seen,
        "s": round(outcome.seconds),
        "ok": outcome.name == case.name and case.words in outcome.words and counted,
    }
