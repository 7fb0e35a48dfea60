"""May the user that libvirt runs QEMU as reach a guest's files? The whole chain of folders is looked at, from / down.

libvirt says only "Permission denied", after it has begun; which of ten folders it was, it does not say.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GoldsmithError, HostError

#: Bits of a mode, as those of others.
SEARCH, READ = 0o1, 0o4
#: Who that user is where libvirt cannot be asked: anybody, in no group.
ANYBODY, UNKNOWN_USER = (-1, -1), "another user"


@dataclass(frozen=True)
class Obstacle:
    """A folder that cannot be searched, or a file that cannot be read."""

    path: Path
    needs: int

    @property
    def words(self) -> str:
        return f"search {self.path}" if self.needs == SEARCH else f"read {self.path}"


def closed_folders(folders: Iterable[Path], owner: tuple[int, int]) -> list[Path]:
    """The folders from / down to each of `folders` that QEMU's user (uid, gid) may not search."""
    return [obstacle.path for obstacle in _obstacles(folders, (), owner)]


def need_access(files: Iterable[Path], read: Iterable[Path], owner: tuple[int, int]) -> None:
    """Raises HostError (qemu-access-denied) that names the folders on the way to `files` that `owner` may not search,
    and the files of `read` that it may not read, with the commands that open them."""
    files, read = list(files), list(read)
    found = _obstacles((file.parent for file in (*files, *read)), read, owner)
    if not found:
        return
    name = user_name(owner[0])
    raise HostError(
        f"libvirt's QEMU runs as {name} and cannot {' or '.join(obstacle.words for obstacle in found)}",
        name="qemu-access-denied",
        hint=remedy(found, name),
    )


def remedy(found: list[Obstacle], user: str) -> str:
    """The commands that open what is closed, for everybody or for QEMU's user alone."""
    chmod, setfacl = [], []
    for bit, letter in ((SEARCH, "x"), (READ, "r")):
        if paths := shlex.join(str(obstacle.path) for obstacle in found if obstacle.needs == bit):
            chmod.append(f"chmod o+{letter} {paths}")
            setfacl.append(f"setfacl -m u:{user}:{letter} {paths}")
    alone = "" if user == UNKNOWN_USER else f"; for {user} alone: {' && '.join(setfacl)}"
    return f"{' && '.join(chmod)}{alone}; or use another store (GOLDSMITH_HOME)"


def _obstacles(folders: Iterable[Path], read: Iterable[Path], owner: tuple[int, int]) -> list[Obstacle]:
    if owner[0] == 0:
        return []
    groups = _groups(owner)
    wanted: dict[tuple[Path, int], None] = {}
    for folder in folders:
        # a link is searched for where it lies, and where it leads
        for way in (folder.absolute(), folder.resolve()):
            wanted |= dict.fromkeys((each, SEARCH) for each in (*reversed(way.parents), way))
    wanted |= dict.fromkeys((path, READ) for path in read)
    denied = [Obstacle(path, bit) for path, bit in wanted if not _allows(path, bit, owner[0], groups)]
    return [obstacle for obstacle in denied if not _acl_allows(obstacle, owner)]


def _allows(path: Path, bit: int, uid: int, groups: frozenset[int]) -> bool:
    """Whether the mode lets this user in. What is not there, or not ours to look at, stops nobody here."""
    try:
        status = path.stat()
    except OSError:
        return True
    if bit == SEARCH and not stat.S_ISDIR(status.st_mode):
        return True
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return bool(status.st_mode >> shift & bit)


def _acl_allows(obstacle: Obstacle, owner: tuple[int, int]) -> bool:
    """Whether an access control list says otherwise than the mode; only root can try it as the other user."""
    try:
        os.getxattr(obstacle.path, "system.posix_acl_access")
    except OSError:
        return False
    if os.geteuid() != 0 or owner == ANYBODY:
        return True
    test = ["test", "-x" if obstacle.needs == SEARCH else "-r", obstacle.path]
    try:
        uid, gid = owner
        argv = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--", *test]
        return process.run(argv, deadline=process.ANSWER, ok_codes=(0, 1)).code == 0
    except GoldsmithError:
        return False


def _groups(owner: tuple[int, int]) -> frozenset[int]:
    uid, gid = owner
    try:
        return frozenset(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except (KeyError, OverflowError):
        return frozenset({gid})


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
