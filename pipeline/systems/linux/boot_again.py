"""A guest whose kernel hangs is booted once more: under emulation one seldom does, and the host is the cause."""

from __future__ import annotations

from pathlib import Path

from pipeline.base.errors import GoldsmithError
from pipeline.guest.build import Build

#: The failure of a boot that is tried once more.
HUNG = "guest-kernel-hung"


def keep_console(console: Path, kept: Path) -> str | None:
    """Move a console's log away from where the next guest writes its own. The new name, None where there is none."""
    if not console.exists():
        return None
    console.replace(kept)
    return kept.name


def record_hung(build: Build, error: GoldsmithError, who: str, kept: str | None) -> None:
    """Record that a guest is booted once more because its kernel hung; `kept` names the files that it left."""
    build.run.append(
        "boots_again", {"name": error.name, "message": f"{who}{error.message}", "stage": build.stage, "kept": kept}
    )
    build.run.emit("note", "", f"{who}{error.message}: booting once more from the same layer")
