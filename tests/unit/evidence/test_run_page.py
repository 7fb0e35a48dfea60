"""The page of a run: what a person looks at first; what guests wrote is text on it, and it loads nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from pipeline.evidence.page_parts import PARTS, REQUESTS, measure_disk
from pipeline.evidence.run_page import LINES, RunPage
from pipeline.gallery import Version

PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(20)
HOSTILE = "<script>alert(1)</script><img src=x>\x1b[31m\u202e"
RECORD: dict[str, Any] = {
    "id": "R7",
    "image": "web",
    "command": "goldsmith build web",
    "started": "2026-11-26T10:00:00Z",
    "ended": "2026-11-26T10:04:00Z",
    "outcome": "done",
    "stages": [
        {"stage": "acquire", "state": "kept", "seconds": 0.0, "detail": ""},
        {"stage": "provision", "title": "web.yml", "state": "new", "seconds": 40.0, "detail": ""},
        {"stage": "prove", "title": "gen1", "state": "new", "seconds": 80.0, "detail": "gen1 in 70 s"},
    ],
    "plan": [
        {"stage": "provision", "title": "web.yml", "action": "run", "why": "playbook web.yml changed", "key": ""}
    ],
}
CHECKS = [
    {"id": "swap", "title": "No swap", "status": "pass", "severity": "fail", "evidence": "", "remedy": "remove it"},
    {"id": "ssh", "title": "SSH", "status": "warn", "severity": "warn", "evidence": HOSTILE, "remedy": "close it"},
]
CELL = {
    "cell": "gen1",
    "checks": {"host name": HOSTILE},
    "failures": [],
    "seconds": {"ssh": 70.0},
    "screenshot": "gen1.png",
}


def version(folder: Path, number: str, packages: dict[str, str]) -> Version:
    path = folder / "web" / number
    (path / "screenshots").mkdir(parents=True)
    (path / "screenshots/gen1.png").write_bytes(PIXEL)
    components = [{"name": name, "version": release} for name, release in packages.items()]
    (path / "sbom.cdx.json").write_text(json.dumps({"components": components}))
    manifest = {"disk": {"file": "disk.vhd", "sha256": "ab" * 32}, "tools": {"qemu": "7.2"}, "signed_by": None}
    return Version("web", number, path, manifest, ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "R7"
    (made / "prove/gen1").mkdir(parents=True)
    return made


def text_of(page: Path) -> str:
    """What a person reads, with one space for each run of them."""
    return " ".join(" ".join(html.fromstring(page.read_text()).xpath("//body//text()")).split())


def test_a_good_run(folder: Path, tmp_path: Path) -> None:
    requests = [
        {"at": n / 2, "method": "GET", "target": "/machine?comp=goalstate", "status": 200}
        for n in range(REQUESTS + 5)
    ]
    log = "".join(json.dumps(each) + "\n" for each in requests) + '{"at": 3, "meth'
    (folder / "prove/gen1/fabric.jsonl").write_text(log)
    old = version(tmp_path, "2026.1.0", {"bash": "5.1", "curl": "8", "dash": "1"})
    new = version(tmp_path, "2026.2.0", {"bash": "5.2", "curl": "8", "zsh": "9"})
    disk = measure_disk(PARTS * 100, [["1", "ext4", "root", "", "clean"]], [(0, 150), (PARTS * 100 - 1, PARTS * 100)])
    assert [index for index, used in enumerate(disk.used) if used] == [0, 1, PARTS - 1]
    page = RunPage(folder, RECORD, CHECKS, {"gen1": CELL}, new, old, disk).write()
    text = text_of(page)
    for words in (
        "2026.2.0 was made",
        "ran because: playbook web.yml changed",
        "warn : 1",
        "Remedy: close it",
        "gen1: passed",
        f"{REQUESTS + 5} requests to the fabric",
        "5 more are in prove/gen1/fabric.jsonl",
        "bash 5.1 5.2",
        "zsh none 9",
        "dash 1 none",
        "nobody: this host has no key",
        f"3 of {PARTS} parts",
    ):
        assert words in text or words in page.read_text(), words
    assert "curl 8 8" not in text and "What failed" not in text


def test_a_failed_run_shows_its_cause_first(folder: Path) -> None:
    (folder / "screen.png").write_bytes(PIXEL)
    (folder / "serial.log").write_text("\n".join(f"\x1b[0;32mline {n}\x1b[0m" for n in range(100)))
    (folder / "checks.json").write_text(json.dumps([{**CHECKS[0], "status": "fail"}]))
    error = {
        "name": "step-failed",
        "message": f"web.yml failed\n  {HOSTILE}",
        "hint": "correct line 3",
        "evidence": None,
    }
    page = RunPage(folder, {**RECORD, "outcome": "failed", "error": error}).write()
    text = text_of(page)
    headings = html.fromstring(page.read_text()).xpath("//h2/text()")
    assert headings[0] == "What failed" and "failed: step-failed" in text and "What to do: correct line 3" in text
    assert "line 99" in text and f"line {99 - LINES}" not in text and "[0m" not in text
    assert "fail : 1" in text and "Remedy: remove it" in text
    assert "data:image/png;base64," in page.read_text()


def test_an_interrupted_run_has_a_page(folder: Path) -> None:
    record = {
        "id": "R8",
        "image": "web",
        "command": "c",
        "started": "x",
        "ended": None,
        "outcome": "interrupted",
        "stages": [],
    }
    assert "interrupted" in text_of(RunPage(folder, record).write())


def test_it_loads_nothing_and_what_guests_wrote_is_text(folder: Path, tmp_path: Path) -> None:
    (folder / "prove/gen1/fabric.jsonl").write_text(
        json.dumps({"at": 1, "method": "GET", "target": "/" + HOSTILE, "status": 404}) + "\n"
    )
    record = {**RECORD, "image": HOSTILE, "command": HOSTILE}
    made = version(tmp_path, "2026.1.0", {HOSTILE: HOSTILE})
    source = RunPage(folder, record, CHECKS, {"gen1": CELL}, made, None).write().read_text()
    tree = html.fromstring(source)
    assert not tree.xpath("//script|//link|//iframe|//object") and not re.search(r"https?://|url\(", source)
    assert all(image.startswith("data:image/png;base64,") for image in tree.xpath("//img/@src"))
    assert not tree.xpath("//@onload|//@onerror") and all(link.startswith("#") for link in tree.xpath("//@href"))
    assert "\x1b" not in source and "\u202e" not in source


def test_many_packages_stay_a_small_page(folder: Path, tmp_path: Path) -> None:
    old = version(tmp_path, "2026.1.0", {f"package-{n}": "1.0-1" for n in range(1000)})
    new = version(tmp_path, "2026.2.0", {f"package-{n}": "1.0-2" for n in range(1000)})
    page = RunPage(folder, RECORD, CHECKS * 50, {"gen1": {**CELL, "screenshot": None}}, new, old).write()
    assert page.stat().st_size < 1 << 21
