"""Files that a definition names as its source: what they hold, and whether QEMU may read them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import CheckFailed, UsageError
from pipeline.guest.build import Build


def require_readable(build: Build, path: Path) -> None:
    """Raises UsageError (medium-unreadable): media stay where they are, and whose they are."""
    user, group = build.connection.qemu_owner
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--"]
    if process.run([*become, "test", "-r", path], deadline=30, ok_codes=(0, 1)).code != 0:
        raise UsageError(
            f"libvirt's QEMU cannot read {path}",
            name="medium-unreadable",
            hint=f"chmod o+r {path}, and o+x for the folders above it; or move it to {build.store.root}",
        )


def verify_checksum(build: Build, path: Path, wanted: str, key: str) -> None:
    """Raises CheckFailed (checksum-mismatch); `key` is where the definition has the checksum."""
    build.progress(f"checksum of {path.name}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise CheckFailed(
            f"{path}: its sha256 is {found}, but the definition requires {wanted}",
            name="checksum-mismatch",
            hint=f"download it again, or correct {key}",
        )
