"""Channels as they lie in an image's folder: symbolic links that are swapped atomically.

Another command may move or remove one at any moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.files import RecordDamaged, sync_folder

#: A channel's name: one that an option, a path and a message can hold.
CHANNEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,60}")
#: What the name of a channel's link begins with before it is renamed into place.
POINT = ".point-"


def target_of(link: Path) -> str:
    """What a link points at; empty where there is none, or something else."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def channels_in(folder: Path) -> dict[str, list[str]]:
    """The names of the channels in an image's folder, by what they point at."""
    channels: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and (target := target_of(Path(entry.path))):
                channels.setdefault(target, []).append(entry.name)
    return channels


def is_no_link(path: Path) -> bool:
    """Whether something is there that is not a link."""
    try:
        return not stat.S_ISLNK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def point(link: Path, target: str) -> None:
    """Make a channel point at a version, in one rename. Raises UsageError (channel-name), RecordDamaged."""
    if not CHANNEL_NAME.fullmatch(link.name):
        raise UsageError(
            f"{link.name!r} is not a valid channel name",
            name="channel-name",
            hint="use a letter, then letters, digits, dots, hyphens and underscores, at most 61",
        )
    if is_no_link(link):
        raise RecordDamaged(link, "it has a channel's name, but is not a link", "move it away")
    temporary = link.with_name(f"{POINT}{link.name}-{os.getpid()}")
    for last in (False, True):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        try:
            temporary.rename(link)
            break
        except FileNotFoundError:
            # a sweep took it for a dead one's
            if last:
                raise
    sync_folder(link.parent)
