"""Ask the sandbox of a disk and print what it cost: `python ask_all.py DISK QUESTION...`. JSON on stdout.

A process of its own, so that the peak of its children's memory is theirs alone.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.base.errors import GoldsmithError
from pipeline.checks import inspect_disk
from pipeline.disk import mapping, punch_holes, sandbox
from pipeline.systems.linux import set_up_session
from pipeline.systems.questions import list_disk

QUESTIONS: dict[str, Callable[[Path], object]] = {
    "inspect": inspect_disk,
    "windows": lambda path: inspect_disk(path, profile="azure-windows"),
    "tree": lambda path: list_disk(path, what="tree"),
    "packages": lambda path: list_disk(path, what="packages"),
    "volumes": lambda path: list_disk(path, what="volumes"),
    "extents": lambda path: len(mapping.chain_extents(path).extents),
    "boot": lambda path: [len(blob) for blob in sandbox.ask(set_up_session.BOOT_FILES, path).blobs],
    "secrets": lambda path: [each.evidence for each in inspect_disk(path) if each.id == "secrets-searched"],
    "free": lambda path: len(punch_holes.free_extents(path)),
}


def own_peak() -> int:
    """The most memory of this program in KiB; `ru_maxrss` counts what the process was before, a whole pytest."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def processor_seconds() -> float:
    """What this program and its ended children have used: a busy host makes nothing of it longer."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def main() -> None:
    asked = {}
    for question in sys.argv[2:]:
        started = processor_seconds()
        try:
            answer = QUESTIONS[question](Path(sys.argv[1]))
            name = f"answered: {str(answer)[:60]}" if isinstance(answer, int | list) else "answered"
        except GoldsmithError as error:
            name = error.name if error.hint else f"{error.name} without a hint"
        asked[question] = [name, processor_seconds() - started]
    peaks = [own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
    print(json.dumps({"asked": asked, "peaks": peaks}))


if __name__ == "__main__":
    main()
