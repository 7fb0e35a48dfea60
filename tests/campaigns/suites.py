"""Another Debian release is a definition and no code: written as a user would, built and proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.campaigns.lab import ROOT, Lab

SUITES = {"debian-13": "trixie"}


def campaign(lab: Lab, _master: Path, say: Callable[[str], None]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    base = (ROOT / "images/debian-12.yaml").read_text()
    for name, suite in SUITES.items():
        lab.write(f"images/{name}.yaml", base.replace("bookworm", suite))
        for playbook in (ROOT / "playbooks").rglob("*"):
            if playbook.is_file():
                target = lab.write(str(playbook.relative_to(ROOT)), playbook.read_text())
                target.chmod(playbook.stat().st_mode & 0o777)
        done = lab.run("build", name)
        row: dict[str, object] = {"image": name, "suite": suite, "exit": done.returncode, "ok": done.returncode == 0}
        if done.returncode == 0:
            manifest = lab.manifest(name)
            row["checks passed"] = sum(check["status"] == "pass" for check in manifest["checks"])
            row["proven"] = json.dumps({cell: seen["seconds"]["ssh"] for cell, seen in manifest["prove"].items()})
        rows.append(row)
        say(str(row))
    return rows
