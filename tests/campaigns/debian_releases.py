"""Good images of two Debian releases: built and proven as a user would, and none of them taken for a bad one.

Another release is a definition and no code. `GOLDSMITH_SUITES` chooses by a part of the name.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests.harness import ROOT, Lab, Say

#: Each image, and what its definition is made of: one of the repository's, and the words that are exchanged in it.
IMAGES = {
    "debian-12": ("debian-12", ()),
    "debian-12-waagent": ("debian-12-waagent", ()),
    "debian-12-web": ("debian-12-web", ()),
    "debian-13": ("debian-13", ()),
    "debian-13-waagent": ("debian-12-waagent", (("debian-12@", "debian-13@"),)),
}


def campaign(lab: Lab, _master: Path, say: Say) -> list[dict[str, object]]:
    for folder in ("playbooks", "first-boot"):
        shutil.copytree(ROOT / folder, lab.folder / folder)
    for name, (base, words) in IMAGES.items():
        text = (ROOT / f"images/{base}.yaml").read_text()
        for old, new in words:
            text = text.replace(old, new)
        lab.write(f"images/{name}.yaml", text)
    rows: list[dict[str, object]] = []
    for name in IMAGES:
        if os.environ.get("GOLDSMITH_SUITES", "") in name:
            rows.append(built(lab, name))
            say(rows[-1])
    return rows


def built(lab: Lab, name: str) -> dict[str, object]:
    done = lab.run("build", name)
    row: dict[str, object] = {"image": name, "exit": done.returncode, "ok": done.returncode == 0}
    if done.returncode == 0:
        manifest = lab.manifest(name)
        row["suite"] = manifest["suite"]
        row["checks passed"] = sum(check["status"] == "pass" for check in manifest["checks"])
        row["proven, s to ssh"] = json.dumps(
            {cell: seen["seconds"]["ssh"] for cell, seen in manifest["prove"].items()}
        )
    return row
