"""Starts a program in a mount namespace of its own: `python -P view_worker.py FILE PROGRAM ARGUMENT...`.

FILE is a JSON list of mounts: ["cover", FOLDER], an empty folder in its place; ["show", SOURCE, PLACE], a file or
folder, read-only; ["give", SOURCE, PLACE], the same, as it is. Nothing of this reaches the host's own mounts.
Numbers are from linux/sched.h and linux/mount.h. Started as a program of its own, by root; it imports nothing of
goldsmith.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

#: The exit code where the mounts could not be made: nothing was run.
UNFIT = 125
_CLONE_NEWNS = 0x00020000
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    items, program = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2:]
    here = Path.cwd()
    try:
        _make_view(items)
    except OSError as error:
        print(f"goldsmith: the project's files cannot be shown to another user: {error}", file=sys.stderr)
        os._exit(UNFIT)
    # the folder by its name: what it was before may be covered now
    try:
        os.chdir(here)
    except OSError:
        os.chdir("/")
    os.execvp(program[0], program)  # noqa: S606  no shell


def _make_view(items: Sequence[Sequence[str]]) -> None:
    """Raises OSError where the kernel refuses a mount."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mount namespace")
    _mount("none", "/", None, _REC | _PRIVATE)
    # opened before anything is covered
    sources = {item[1]: os.open(item[1], os.O_PATH | os.O_CLOEXEC) for item in items if item[0] != "cover"}
    for item in items:
        if item[0] == "cover":
            if not Path(item[1]).is_dir():
                # an outer cover hides it
                Path(item[1]).mkdir(mode=0o755, parents=True)
            else:
                _mount("tmpfs", item[1], "tmpfs", _NOSUID | _NODEV, "size=16m,mode=755")
        else:
            _show(sources[item[1]], Path(item[2]), writable=item[0] == "give")


def _show(source: int, place: Path, *, writable: bool) -> None:
    found = os.fstat(source)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        there = place.stat()
        if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
            return
    if not place.exists():
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if stat.S_ISDIR(found.st_mode):
            place.mkdir(0o755)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    _mount(f"/proc/self/fd/{source}", str(place), None, _BIND | _REC)
    if not writable:
        _mount("none", str(place), None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _mount(source: str, place: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, place, kind, data)]
    if _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), place)


if __name__ == "__main__":
    main()
