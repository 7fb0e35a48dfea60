"""The page of a version: what a person looks at first, small for a large master, and covered by its evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lxml import html

from pipeline.evidence.page_parts import FRAMES, PACKAGES, PAGE, film, measure_disk, show_bytes, show_seconds
from pipeline.evidence.version_page import VersionPage
from pipeline.gallery import Version
from tests.unit.evidence.test_run_page import CELL, CHECKS, HOSTILE, PIXEL, RECORD, text_of

MANIFEST: dict[str, Any] = {
    "name": "web",
    "version": "2026.2.0",
    "summary": "a web server",
    "created": "2026-11-26T10:04:00Z",
    "generations": [1, 2],
    "run": "R7",
    "disk": {"file": "disk.vhd", "sha256": "ab" * 32, "virtual_size": 8 << 30, "allocated": 900 << 20},
    "checks": CHECKS,
    "prove": {"gen1": {**CELL, "seconds": {"ready": 55.2, "ssh": None}}},
    "timings": [{"stage": "prove", "title": "gen1", "seconds": 80.0}],
    "inputs": [{"stage": "acquire", "title": "debian-12", "inputs": {"sha256": "cd" * 32, "layers": ["a"]}}],
    "definition": "goldsmith: 1\nsummary: a web server\n",
    "tools": {"qemu": "7.2"},
    "signed_by": None,
}


def folder_of(folder: Path, packages: dict[str, str]) -> Path:
    (folder / "screenshots").mkdir(parents=True)
    (folder / "screenshots/gen1.png").write_bytes(PIXEL)
    components = [{"name": name, "version": release} for name, release in packages.items()]
    (folder / "sbom.cdx.json").write_text(json.dumps({"components": components}))
    return folder


def former(folder: Path, packages: dict[str, str]) -> Version:
    manifest = {**MANIFEST, "version": "2026.1.0", "checks": [{**CHECKS[0], "status": "warn"}, CHECKS[1]]}
    return Version("web", "2026.1.0", folder_of(folder, packages), manifest, ())


def test_a_good_version(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "new", {"bash": "5.2", "curl": "8"})
    for second in (0, 4, 12):
        (folder / f"screenshots/gen1-boot-{second:05}.png").write_bytes(PIXEL)
    log = tmp_path / "R7/prove/gen1/fabric.jsonl"
    log.parent.mkdir(parents=True)
    asked = [("169.254.169.254:80", 200), ("168.63.129.16:80", 500), ("168.63.129.16:80", 200)]
    log.write_text(
        "".join(
            json.dumps({"at": at, "to": to, "method": "GET", "target": "/x", "status": status}) + "\n"
            for at, (to, status) in enumerate(asked)
        )
    )
    disk = measure_disk(8 << 30, [["1", "ext4", "root", "", "clean"]], [(0, 1 << 20)])
    old = former(tmp_path / "old", {"bash": "5.1", "curl": "8"})
    page = VersionPage(folder, MANIFEST, old, disk, RECORD, tmp_path / "R7").write()
    assert page == folder / PAGE and page.stat().st_mode & 0o777 == 0o444
    text = text_of(page)
    for words in (
        "passed all checks and clone tests",
        "1 passed, 1 warnings",
        "1 of 1 passed",
        "55 s",
        "Disk of 8.0 GiB 900 MiB",
        "ran because: playbook web.yml changed",
        "metadata service: 1",
        "wire server: 2",
        "1 package differs from 2026.1.0",
        "bash 5.1 5.2",
        "Checks that changed since 2026.1.0",
        "swap warn pass",
        "acquire debian-12 sha256",
        "summary: a web server",
    ):
        assert words in text, words
    tree = html.fromstring(page.read_text())
    assert [each.text for each in tree.xpath("//div[@class='film']//figcaption")] == ["0 s", "4 s", "12 s"]
    assert len(tree.xpath("//i[@class='bad']")) == 1


def test_a_failed_clone_and_a_failed_check_are_the_verdict(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "new", {})
    clone = {**MANIFEST, "prove": {"gen1": {**CELL, "failures": ["no swap"]}}}
    assert "failed on gen1" in VersionPage(folder, clone).render()
    check = {**MANIFEST, "checks": [{**CHECKS[0], "status": "fail"}]}
    tree = html.fromstring(VersionPage(folder, check).render())
    assert "failed its checks" in tree.text_content() and tree.xpath("//h2/@id")[0] == "checks"


def test_the_first_manifests_have_a_page(tmp_path: Path) -> None:
    manifest = {
        "name": "web",
        "version": "2026.1.0",
        "created": "2026-01-01T00:00:00Z",
        "generations": [1],
        "checks": [{"id": "swap", "status": "pass"}],
        "disk": {"sha256": None, "virtual_size": 1 << 30, "chunks_sha256": []},
    }
    tmp_path.joinpath("v").mkdir()
    assert "passed all checks; no clone was tested" in VersionPage(tmp_path / "v", manifest).render()


def test_what_guests_wrote_is_text(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "new", {HOSTILE: HOSTILE})
    hostile = {**MANIFEST, "summary": HOSTILE, "definition": HOSTILE, "tools": {HOSTILE: HOSTILE}}
    disk = measure_disk(1 << 30, [[HOSTILE] * 5], [])
    source = VersionPage(folder, hostile, former(tmp_path / "old", {}), disk).render()
    tree = html.fromstring(source)
    assert not tree.xpath("//script|//link|//iframe") and not tree.xpath("//img[not(starts-with(@src, 'data:'))]")
    assert all(link.startswith("#") for link in tree.xpath("//@href"))
    assert "\x1b" not in source and "\u202e" not in source and "<img src=x>" not in source


def test_a_large_master_has_a_small_page(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "new", {f"package-{n}": "1.0-2" for n in range(PACKAGES + 100)})
    (folder / "screenshots/gen1.png").unlink()
    old = former(tmp_path / "old", {f"package-{n}": "1.0-1" for n in range(1000)})
    text = VersionPage(folder, {**MANIFEST, "checks": CHECKS * 100}, old).render()
    assert len(text) < 2 << 20 and "100 more are in sbom.cdx.json" in text


def test_a_strip_shows_the_first_and_the_last_picture(tmp_path: Path) -> None:
    for second in range(0, 100, 3):
        (tmp_path / f"{second:05}.png").write_bytes(PIXEL)
    seconds = [second for second, _ in film(sorted(tmp_path.iterdir()))]
    assert len(seconds) == FRAMES and (seconds[0], seconds[-1]) == (0, 99) and seconds == sorted(set(seconds))


def test_figures_for_people() -> None:
    assert [show_bytes(number) for number in (5, 900 << 20, 8 << 30, 3 << 40)] == [
        "5 B",
        "900 MiB",
        "8.0 GiB",
        "3.0 TiB",
    ]
    assert [show_seconds(number) for number in (0.4, 42, 257, 7500)] == ["0.4 s", "42 s", "4 min 17 s", "2 h 05 min"]
