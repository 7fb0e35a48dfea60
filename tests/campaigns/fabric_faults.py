"""Slow, dropped and garbled answers of the fabric, and what an unmodified guest makes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pipeline.fabric import Instance, Request, Response, answer
from tests.campaigns.clones import Outcome, start
from tests.harness import Lab, Say

Answer = Callable[[Instance, Request], Response]
#: Seconds by which every clone must have ended, with a verdict or an error: goldsmith's own deadlines, emulated.
LONGEST = 900.0
IMDS = "169.254.169.254"


def spoiled(concerns: Callable[[Request], bool], times: int, spoil: Callable[[Response], Response]) -> Answer:
    """The fabric, but for the first `times` answers to what this concerns."""
    seen: Counter[str] = Counter()

    def say(instance: Instance, request: Request) -> Response:
        result = answer(instance, request)
        if concerns(request) and seen[instance.vm_id] < times:
            seen[instance.vm_id] += 1
            return spoil(result)
        return result

    return say


def goal_state(request: Request) -> bool:
    return request.query.get("comp", "").lower() == "goalstate"


def wireserver(request: Request) -> bool:
    return request.host != IMDS


def metadata(request: Request) -> bool:
    return request.host == IMDS


def status(number: int) -> Callable[[Response], Response]:
    return lambda _output: Response(number, b"", "text/plain")


def cut(result: Response) -> Response:
    return replace(result, body=result.body[: len(result.body) // 2])


ALWAYS = 1 << 30
#: What the weather is, and how a clone may end in it.
WEATHER: dict[str, tuple[Answer, set[str]]] = {
    "three times 500 from the WireServer": (spoiled(wireserver, 3, status(500)), {"green"}),
    "three times 410 for the goal state": (spoiled(goal_state, 3, status(410)), {"green"}),
    "half a goal state, twice": (spoiled(goal_state, 2, cut), {"green", "agent-not-ready"}),
    "half the metadata, twice": (spoiled(metadata, 2, cut), {"green"}),
    "30 s of silence before the goal state": (spoiled(goal_state, 1, lambda r: replace(r, delay=30.0)), {"green"}),
    "no metadata service": (spoiled(metadata, ALWAYS, lambda r: replace(r, drop=True)), {"green"}),
    "no WireServer": (spoiled(wireserver, ALWAYS, lambda r: replace(r, drop=True)), {"agent-not-ready"}),
}


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    def run_fault(what: str) -> dict[str, object]:
        outcome = start(lab.home, master, "weather", say=WEATHER[what][0])
        found = row(what, outcome)
        say(found)
        return found

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run_fault, WEATHER))


def row(what: str, outcome: Outcome) -> dict[str, object]:
    good = outcome.name in WEATHER[what][1] and outcome.seconds < LONGEST
    return {
        "weather": what,
        "the clone": outcome.name,
        "s": round(outcome.seconds),
        "what the guest did": did(outcome.folder),
        "said": outcome.words[:300],
        "ok": good,
    }


def did(folder: Path) -> str:
    """How often the guest asked for what, until it reported."""
    asked: Counter[str] = Counter()
    ready = ""
    for path in folder.glob("prove/*/fabric.jsonl"):
        for line in path.open():
            run_fault = json.loads(line)
            if run_fault.get("report", {}).get("state") == "Ready" and run_fault["status"] == 200:
                ready = f"Ready after {run_fault['at']:.0f} s"
                break
            kind = (
                "metadata"
                if run_fault["to"].startswith(IMDS)
                else run_fault["target"].rpartition("comp=")[2].partition("&")[0]
            )
            asked[f"{run_fault['method']} {kind} ({run_fault['status']})"] += 1
    return "; ".join([*(f"{what} x{count}" for what, count in asked.items()), ready or "no Ready"])
