"""The names of what a store holds, by its folders alone: light enough for a shell that completes them."""

from __future__ import annotations

import re
from pathlib import Path

#: The id of a run.
RUN_ID = re.compile(r"R[0-9]{1,18}")
#: A version of the gallery: three numbers. ASCII digits only, and too short to exhaust a program that computes with
#: them: an Azure version is 32 bits.
VERSION = re.compile(r"(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})")
#: A valid name of an instance, which is also its host name (RFC 1123).
INSTANCE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def folders(root: Path, name: re.Pattern[str]) -> list[str]:
    """The names of those folders in `root` that match, sorted; empty if `root` does not exist."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if name.fullmatch(path.name) and path.is_dir())
