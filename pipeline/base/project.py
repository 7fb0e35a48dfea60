"""Where a project is, and which of its files are definitions; readers of definitions are not loaded for that."""

from __future__ import annotations

from pathlib import Path

from pipeline.base.errors import UsageError

IMAGES = "images"


def find_project(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (by default the current one) that holds images/.

    A folder whose images/ has definitions in it goes before one that merely has such a folder.
    Raises UsageError when there is none.
    """
    begin = (start or Path.cwd()).resolve()
    candidates = [folder for folder in (begin, *begin.parents) if (folder / IMAGES).is_dir()]
    for folder in candidates:
        if any((folder / IMAGES).glob("*.yaml")):
            return folder
    if candidates:
        return candidates[0]
    raise UsageError(
        f"there is no project: neither {begin} nor a folder above it contains {IMAGES}/",
        name="no-project",
        hint="name a project with goldsmith --project DIR, or create one with mkdir images",
    )


def definition_files(project: Path) -> list[Path]:
    """The files that should be definitions; a .yml is among them, so that `load` can say what is wrong with it."""
    folder = project / IMAGES
    return sorted(
        path for path in folder.glob("*") if path.suffix in (".yaml", ".yml") and not path.name.startswith(".")
    )
