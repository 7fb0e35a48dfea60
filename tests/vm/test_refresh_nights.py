"""The night, by the real command line: what did not change costs a look, what fails leaves the others alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness import ROOT, Lab

BROKEN = """\
goldsmith: 1
summary: an image whose step fails tonight
os: linux
source: {master: debian-12@golden}
machine: {cpus: 1}
steps:
  - script: scripts/broken.sh
"""


def test_an_unchanged_image_costs_a_look(lab: Lab, master: Path) -> None:
    output = json.loads(Lab(ROOT, lab.home).run("refresh", "debian-12", "--json").stdout)
    (image,) = output["images"]
    assert image["outcome"] == "unchanged" and output["ok"]
    assert image["golden"] == image["before"] == master.parent.name
    assert lab.leftovers() == []


def test_a_failure_leaves_golden_and_its_heirs_alone(lab: Lab, master: Path) -> None:
    lab.write("scripts/broken.sh", "#!/bin/sh\necho the mirror lies; exit 7\n")
    lab.write("images/broken.yaml", BROKEN)
    lab.write("images/heir.yaml", "goldsmith: 1\nsource: {master: broken@golden}\n")
    done = lab.run("refresh", "broken", "heir")
    assert done.returncode == 4, done.stdout + done.stderr
    record = json.loads((lab.home / "refresh.json").read_text())
    assert [(item["name"], item["outcome"]) for item in record["images"]] == [
        ("broken", "failed"),
        ("heir", "skipped"),
    ]
    assert "the mirror lies" in (Path(record["images"][0]["evidence"]) / "steps/01-broken.sh.log").read_text()
    listed = json.loads(lab.run("gallery", "list", "debian-12", "--json").stdout)
    assert next(item["version"] for item in listed if "golden" in item["channels"]) == master.parent.name
    checked = lab.run("gallery", "verify", f"debian-12@{master.parent.name}")
    assert checked.returncode == 0, checked.stdout
    assert lab.leftovers() == []
