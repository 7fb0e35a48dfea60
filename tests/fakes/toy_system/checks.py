"""What must be true of a toy's disk."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.model import Subject, check


@check(
    "toy-root",
    "A toy is found",
    why="Without a root no file can be checked.",
    remedy="Inspect the disk of a toy.",
    source="the toy's manual",
    profiles=("toy",),
    needs_root=False,
    waivable=False,
)
def toy_root(subject: Subject) -> Iterator[str]:
    subject.note(subject.system.release["PRETTY_NAME"])
    yield from ()


@check(
    "toy-wound-down",
    "The toy's spring is wound down",
    why="A clone would start to run before anybody holds it.",
    remedy="Remove TOY/WOUND.",
    source="the toy's manual",
    profiles=("toy",),
)
def toy_wound_down(subject: Subject) -> Iterator[str]:
    if subject.root.exists("/TOY/WOUND"):
        yield "/TOY/WOUND is there"
    subject.note(f"{len(subject.packages)} packages")
