"""A gallery with a history, for pages: versions that differ as those of nights do, a refusal, VMs, a refresh.

Its versions come from the record of a real build (tests/fixtures/pages); its disks are sparse files without content.
Nothing in it is drawn: the same call makes the same gallery.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.base.store import Store
from pipeline.evidence.page_parts import Disk, measure_disk
from pipeline.evidence.site_data import SiteData
from pipeline.evidence.version_page import VersionPage
from pipeline.gallery import Version

FIXTURES = Path(__file__).parent / "fixtures" / "pages"
NAMES = ("debian-12", "debian-12-web", "debian-12-waagent", "debian-13", "build-agent", "mail-relay")
#: The moment of the demonstration: the newest versions were made in the night before.
NOW = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)


@cache
def _fixture() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FIXTURES / "version.json").read_text())
    return content


def packages(age: int) -> list[tuple[str, str]]:
    """The packages of a version; each older one has some in an older version, and one fewer."""
    rows = [(str(name), str(version)) for name, version, _ in _fixture()["packages"]]
    older = {3 * number % len(rows) for number in range(age * 4)}
    changed = [
        (name, f"{version}~{age}") if n in older else (name, version) for n, (name, version) in enumerate(rows)
    ]
    return changed[: len(changed) - age % 5]


def manifest(name: str, number: int, count: int) -> dict[str, Any]:
    """The manifest of the version `number` of `count`, the last of which is of NOW's night."""
    made = NOW - timedelta(days=count - 1 - number, hours=5, minutes=7 * (len(name) % 6))
    found: dict[str, Any] = copy.deepcopy(_fixture()["manifest"])
    wave = math.sin(number * 1.7 + len(name)) * 0.08 + number * 0.004
    found |= {
        "name": name,
        "version": f"{made.year}.{made.month:02}{made.day:02}.0",
        "created": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    for cell in found["prove"].values():
        cell["seconds"] = {what: round(value * (1 + wave), 1) for what, value in cell["seconds"].items()}
    for timing in found["timings"]:
        timing["seconds"] = round(timing["seconds"] * (1 - wave), 2)
    return found


def add_version(store: Store, name: str, number: int, count: int, *, page: bool = True) -> Version:
    """Put a version into the gallery as capture does, but without a disk's content and without a signature."""
    record = manifest(name, number, count)
    folder = store.gallery / name / record["version"]
    (folder / "screenshots").mkdir(parents=True)
    with (folder / "disk.vhd").open("wb") as disk:
        disk.truncate(record["disk"]["size"])
    for target in record["prove"]:
        shutil.copyfile(FIXTURES / f"{target}.png", folder / "screenshots" / f"{target}.png")
        for frame in sorted(FIXTURES.glob("boot-*.png")):
            shutil.copyfile(frame, folder / "screenshots" / f"{target}-{frame.name}")
    components = [{"name": each, "version": release} for each, release in packages(count - 1 - number)]
    (folder / "sbom.cdx.json").write_text(json.dumps({"components": components}))
    (folder / "manifest.json").write_text(json.dumps(record))
    version = Version(name, record["version"], folder, record, ())
    if page:
        page_of(version, None).write()
    golden = folder.parent / "golden"
    golden.unlink(missing_ok=True)
    golden.symlink_to(record["version"])
    return version


def page_of(version: Version, former: Version | None, disk: Disk | None = None) -> VersionPage:
    """The page of a version, with the requests of its clones."""
    run = version.path / "run"
    return VersionPage(version.path, version.manifest, former, disk, run=run if run.exists() else None)


def a_disk() -> Disk:
    """A disk of 8 GiB with some 900 MiB of data, as a Debian master has it."""
    part = (8 << 30) // 160
    used = [0, *range(2, 21), 24, 27, 42, 47, 59, 69, 82, 122, 124, 159]
    volumes = [
        ["1", "ext4", "root", "c2a9f38e-0a0f-4a43-8f4b-6f6a6f0a7d11", "clean"],
        ["14", "BIOS boot", "", "", ""],
        ["15", "FAT16", "EFI", "5B1C-93D4", "clean"],
    ]
    disk = measure_disk(8 << 30, volumes, [(number * part, (number + 1) * part) for number in used])
    return replace(disk, allocated=941457408)


def make_gallery(root: Path, names: Sequence[str] = NAMES, versions: int = 8, *, page: bool = True) -> Store:
    """A store with `versions` of each image, a refused candidate, three VMs and the record of a refresh."""
    store = Store(root).ensure()
    for name in names:
        for number in range(versions):
            add_version(store, name, number, versions, page=page)
    refused = {
        "gate": "inspect",
        "why": "1 of 87 checks failed: ssh-host-keys: the disk has host keys",
        "run": "R41",
        "when": "2026-11-26T02:31:07Z",
    }
    (store.gallery / names[-1] / "refused.json").write_text(json.dumps(refused))
    for number, (vm, state) in enumerate((("web-1", {}), ("web-2", {}), ("trial", {"allocated": False}))):
        add_vm(store, vm, names[number % len(names)], state)
    results = [
        {
            "name": name,
            "outcome": "failed" if name == names[-1] else "promoted",
            "golden": None,
            "before": None,
            "seconds": 210.0,
            "why": "",
        }
        for name in names
    ]
    summary = {"began": "2026-11-26T02:30:00Z", "ended": "2026-11-26T03:41:12Z", "seconds": 4272.0, "images": results}
    (store.root / "refresh.json").write_text(json.dumps(summary))
    return store


def add_vm(store: Store, name: str, image: str, state: dict[str, Any]) -> None:
    """The record of a VM on the golden version of an image; it has no disk and no domain."""
    version = str((store.gallery / image / "golden").readlink())
    record = {
        **{"id": f"00000000-0000-4000-8000-{len(name):012}", "name": name, "created": "2026-11-25T09:12:00Z"},
        **{"host": "build", "image": image, "version": version, "digest": "x", "system": "debian", "generation": 2},
        **{"secure": False, "size": None, "cpus": 1, "memory": 1 << 30, "user": "ann", "public_key": ""},
        **{"disk_size": 8 << 30, "disk": None, "allocated": True, "generalized": False, "provisioned": None},
        **{"network": None, "outside": False, "failure": None, "operation": None},
        **state,
    }
    folder = store.instances / name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record))


def with_sizes(data: SiteData) -> SiteData:
    """The same site with the bytes on disk that the manifests state: its own disks have no content."""
    sizes = [6 << 20, 941457408]

    def sized(number: int, version: Any) -> Any:
        allocated = sizes[1] + number * (9 << 20)
        return replace(version, allocated=allocated, shared=allocated if number > 5 else 0)

    images = [
        replace(image, versions=[sized(number, version) for number, version in enumerate(image.versions)])
        for image in data.images
    ]
    return replace(data, images=images)
