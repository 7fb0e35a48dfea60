"""Nights of five images, two of them a chain, by the real command line: what is left alone, built, or fails.

Nothing is played: every version is built, proven by a clone and promoted as at night. `GOLDSMITH_NIGHTS` names the
last night to run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.nightly.rebuild_check import CHECK_RECORD
from tests.harness import Lab, Say

#: Seconds for a whole night of five images under TCG.
DEADLINE = 3600.0
#: Seconds that a night in which nothing changed may take in all.
QUIET = 5.0
IMAGES = ("root", "child", "left", "right", "apart")
LAST = int(os.environ.get("GOLDSMITH_NIGHTS", "6"))


def script(lab: Lab, name: str, text: str) -> None:
    lab.write(f"scripts/{name}.sh", f"#!/bin/sh\nset -e\n{text}\n")


def project(lab: Lab, version: str) -> None:
    for name in IMAGES:
        source = "root@golden" if name == "child" else f"debian-12@{version}"
        lines = ["goldsmith: 1", f"summary: {name} of five", "os: linux", f"source: {{master: {source}}}", "steps:"]
        lines += [f"  - script: scripts/{name}.sh", "prove: [gen1-nocloud]", "keep: {versions: 3}"]
        if name == "root":
            lines += ["expect:", "  - command: test -s /opt/root"]
        lab.write(f"images/{name}.yaml", "\n".join(lines) + "\n")
        script(lab, name, f"echo one >/opt/{name}")


def night(lab: Lab) -> tuple[dict[str, Any], int, float]:
    """One night: its summary, its exit code, its seconds on the wall."""
    began = time.monotonic()
    done = lab.run("refresh", "--all", "--json", deadline=DEADLINE)
    seconds = time.monotonic() - began
    return json.loads((lab.home / "refresh.json").read_text()), done.returncode, seconds


def outcomes(summary: Mapping[str, Any]) -> dict[str, str]:
    return {image["name"]: image["outcome"] for image in summary["images"]}


def expected(**changed: str) -> dict[str, str]:
    return {name: changed.get(name, "unchanged") for name in IMAGES}


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    project(lab, master.parent.name)
    rows: list[dict[str, object]] = []

    def item(what: str, code: int, wanted: dict[str, str], more: Callable[[dict[str, Any], float], str]) -> None:
        if len(rows) >= LAST:
            return
        summary, found, seconds = night(lab)
        wrong = more(summary, seconds)
        if outcomes(summary) != wanted:
            wrong += f" outcomes {outcomes(summary)}"
        if found != code:
            wrong += f" exit code {found}"
        if lab.leftovers():
            wrong += f" left {lab.leftovers()}"
        rows.append(
            {"night": what, "exit code": found, "s": round(seconds, 1), "wrong": wrong.strip(), "ok": not wrong}
        )
        say(rows[-1])

    def fine(_summary: dict[str, Any], _seconds: float) -> str:
        return ""

    item("the first", 0, dict.fromkeys(IMAGES, "promoted"), fine)
    item("nothing changed", 0, expected(), lambda _, s: "" if s <= QUIET else f"{s:.1f} s for nothing")
    script(lab, "root", "echo two >/opt/root")
    item("the root's script changed", 0, expected(root="promoted", child="promoted"), fine)
    before = lab.last_version("root")
    script(lab, "root", ": >/opt/root")
    item(
        "the root's clone is not as expected",
        1,
        expected(root="failed", child="skipped"),
        lambda *_: untouched(lab, before),
    )
    script(lab, "root", "echo three >/opt/root")
    item("mended", 0, expected(root="promoted", child="promoted"), lambda *_: refused(lab))
    backdate(lab, "apart")
    item("a week later, for one", 0, expected(), lambda *_: "" if fresh(lab, "apart") else "not built cold")
    return rows


def untouched(lab: Lab, before: str) -> str:
    if lab.last_version("root") != before:
        return f"golden went from {before} to {lab.last_version('root')}"
    return "" if "test -s /opt/root" in refused(lab) else f"refused for {refused(lab) or 'nothing'}"


def refused(lab: Lab) -> str:
    path = lab.home / "gallery" / "root" / "refused.json"
    return str(json.loads(path.read_text())["why"]) if path.exists() else ""


def backdate(lab: Lab, name: str) -> None:
    folder = lab.home / "gallery" / name
    if folder.is_dir():
        when = (datetime.now(UTC) - timedelta(days=8)).strftime("%Y-%m-%dT%H:%M:%SZ")
        (folder / CHECK_RECORD).write_text(json.dumps({"when": when, "run": "R0"}))


def fresh(lab: Lab, name: str) -> bool:
    when = str(json.loads((lab.home / "gallery" / name / CHECK_RECORD).read_text())["when"])
    return datetime.now(UTC) - datetime.fromisoformat(when) < timedelta(days=1)
