"""`kill -9` of the builder at five moments; the next build ends right and nothing of the dead one stays."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Lab, Say, wait_for
from tests.processes import other_processes

IMAGE = "killed"
SLOW = "images/killed.yaml"


@dataclass(frozen=True)
class Moment:
    """When to kill: `seen` is asked until it is so, then `after` more seconds pass."""

    id: str
    seen: Callable[[Lab], bool]
    after: float = 0.0
    image: str = IMAGE
    until: str | None = None


def _current(lab: Lab) -> Path:
    return max((lab.home / "runs").glob("R*"), key=lambda path: int(path.name[1:]), default=lab.home / "none")


def _says(name: str, text: str) -> Callable[[Lab], bool]:
    def seen(lab: Lab) -> bool:
        path = _current(lab) / name
        return path.exists() and text in path.read_text(errors="replace")

    return seen


def _layer_being_made(stage_after: str) -> Callable[[Lab], bool]:
    """A stage has begun when the run's record holds the end of the one before it."""

    def seen(lab: Lab) -> bool:
        path = _current(lab) / "run.json"
        return path.exists() and f'"stage": "{stage_after}"' in path.read_text(errors="replace")

    return seen


MOMENTS = (
    Moment("bootstrap", _says("bootstrap.log", "installing packages"), after=3.0, image="bare", until="acquire"),
    Moment("boot", _says("serial.log", "Linux version"), after=1.0),
    Moment("step", _says("steps/01-step.sh.log", "working"), after=1.0),
    Moment("generalize", _layer_being_made("provision"), after=3.0),
    Moment("capture", _layer_being_made("prove")),
)


def project(lab: Lab) -> None:
    lab.write("scripts/step.sh", "#!/bin/sh\necho working; sleep 5; date > /etc/made-by-step\n")
    lab.write(
        SLOW,
        "goldsmith: 1\nsummary: a small image to be killed\nos: linux\nsource: {master: debian-12@golden}\n"
        "machine: {cpus: 1}\n"
        "steps:\n  - script: scripts/step.sh\nprove: [gen1]\n",
    )
    lab.write(
        "images/bare.yaml",
        "goldsmith: 1\nsummary: a bootstrap to be killed\nos: linux\n"
        "source: {debian: {suite: bookworm}}\ndisk: 4 GiB\n",
    )


def run(moment: Moment, lab: Lab, *, proof: bool = True) -> dict[str, object]:
    """Kill at the moment, build again, look around. Raises AssertionError.

    Without `proof` the second build starts no clone, unless the moment lies behind the clones.
    """
    project(lab)
    before = _current(lab)
    # --from acquire: also what an earlier case made is made again
    arguments = ["build", moment.image, "--from", "acquire", *(["--until", moment.until] if moment.until else [])]
    builder = lab.start(*arguments)
    try:
        wait_for(f"the moment {moment.id}", lambda: _current(lab) != before and moment.seen(lab), 600)
        time.sleep(moment.after)
        assert builder.poll() is None, f"the build ended before it was killed: {builder.communicate()[0]}"
        builder.send_signal(signal.SIGKILL)
    finally:
        builder.kill()
        builder.communicate()
    left = lab.leftovers()
    began = time.monotonic()
    until = moment.until or (None if proof or moment.id == "capture" else "inspect")
    done = lab.run("build", moment.image, *(["--until", until] if until else []))
    assert done.returncode == 0, done.stderr
    assert lab.leftovers() == [], lab.leftovers()
    assert not stray_processes(lab), stray_processes(lab)
    return {"moment": moment.id, "left by the dead": len(left), "seconds to mend": round(time.monotonic() - began)}


def stray_processes(lab: Lab) -> list[str]:
    """Processes that still speak of this store, the tests' own apart."""
    found = [each.line[:200] for each in other_processes() if str(lab.home) in each.line]
    return [line for line in found if "pytest" not in line and "campaigns" not in line]


def campaign(lab: Lab, _master: Path, say: Say) -> list[dict[str, object]]:
    rows = []
    for moment in MOMENTS:
        try:
            rows.append({**run(moment, lab), "message": "", "ok": True})
        except AssertionError as error:
            rows.append({"moment": moment.id, "message": str(error)[:300], "ok": False})
        say(rows[-1])
    return rows
