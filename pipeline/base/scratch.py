"""The only maker of temporary files and folders, so that `goldsmith clean` finds what a killed process left.

A file that is being written has no name where the file system allows it (O_TMPFILE): the kernel removes it with its
process. Everything else is entered in a journal before it is made. Its owner locks the entry, so that the kernel
tells the living from the dead. It holds a token that the name of what was made begins with: a forged entry makes
`sweep` remove nothing but a file of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.base.errors import GoldsmithError, HostError, UsageError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import RecordDamaged, Shape, read_json, remove_tree, skip, sync_folder
from pipeline.base.surroundings import places, refuse_guarded

#: What every temporary name begins with.
PREFIX = ".goldsmith-"
_TOKEN = re.compile(r"[0-9a-f]{16}")


class _Entry(Shape):
    """Where something temporary lies."""

    path: Annotated[str, Field(max_length=4096, pattern=r"^/[^\x00]*$")]

    @classmethod
    def advice(cls) -> str:
        return "delete the entry; its file cannot be found"


def _journal() -> Path:
    """The journal's folder: the store's, or the user's own where there is no store that they may write to."""
    home = places().home
    journal = home / "scratch"
    if os.access(journal if journal.is_dir() else home, os.W_OK | os.X_OK):
        return journal
    return places().own_state / "scratch"


def journals() -> list[Path]:
    """Every journal that this user may have written to."""
    here = places()
    return list(dict.fromkeys([here.home / "scratch", _journal(), here.own_state / "scratch"]))


@contextlib.contextmanager
def _entered(folder: Path, name: str) -> Iterator[Path]:
    """A path in `folder` that does not exist, entered in the journal until the block ends."""
    token = secrets.token_hex(8)
    path = folder.absolute() / f"{PREFIX}{token}{name}"
    journal = _journal()
    try:
        if not journal.is_dir():
            journal.mkdir(parents=True, exist_ok=True)
            # anyone who may write to a store, its group for instance, may write to its journal
            journal.chmod(stat.S_IMODE(journal.parent.stat().st_mode))
        entry, fd = _write_entry(journal / f"{token}.json", path)
    except OSError as error:
        raise HostError(
            f"cannot write to {journal}: {error.strerror}",
            name="cannot-write",
            hint="make the folder writable; goldsmith records its temporary files there",
        ) from None
    try:
        yield path
    finally:
        # what could not be removed keeps its entry, whose lock ends here: a sweep removes it later
        if not os.path.lexists(path):
            entry.unlink(missing_ok=True)
        os.close(fd)


def _write_entry(entry: Path, path: Path) -> tuple[Path, int]:
    """A locked entry of the journal, and the descriptor that holds its lock."""
    text = json.dumps({"path": str(path)}) + "\n"
    while True:
        fd = os.open(entry, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            os.write(fd, text.encode())
            # a power cut would leave the entry without its text, and what it names for good
            os.fsync(fd)
            return entry, fd
        os.close(fd)  # a sweep took it between the two


@contextlib.contextmanager
def folder(parent: Path | None = None, name: str = "") -> Iterator[Path]:
    """A new folder in `parent` (by default the system's place for temporary files), removed when the block ends.

    `parent` need not be the store's. Raises HostError (cannot-write).
    """
    place = parent if parent is not None else places().temporary
    with _entered(place, f"-{name}" if name else "") as path:
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise _cannot_write(place, error) from None
        try:
            yield path
        finally:
            remove_tree(path)


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, to be renamed to it by the caller; what is not renamed is removed."""
    with _entered(target.absolute().parent, f"-{target.name[:100]}") as path:
        path.mkdir()
        try:
            yield path
        finally:
            remove_tree(path)


@contextlib.contextmanager
def file_beside(target: Path, *, force: bool = False, named: bool = False, own: bool = False) -> Iterator[Path]:
    """A path to write to that becomes `target`, fsynced, when the block ends well; else nothing is left of it.

    The path has no name in the target's folder where the file system allows that, unless it has to be `named`: for
    who asks in which folder it lies. The file exists and is empty. `own`: the caller holds what is there, and the
    guard of targets is not asked. Raises UsageError (target-exists) where `target` exists and `force` is not set,
    HostError (cannot-write), and what the guard raises.
    """
    target = target.absolute()
    refuse_target(target, force=force, own=own)
    fd = None if named else _open_nameless(target.parent)
    with _named_file(target) if fd is None else _nameless_file(fd) as path:
        try:
            yield path
        except GoldsmithError as error:
            # a person knows the file by its own name
            error.message = error.message.replace(str(path), str(target))
            raise
        _sync_file(path)
        with _entered_link(target, force) as place:
            path.rename(place) if fd is None else _link(path, place)
    sync_folder(target.parent)


def refuse_target(target: Path, *, force: bool, own: bool = False) -> None:
    """Raise UsageError (target-exists) or HostError (cannot-write) where a file cannot come to be at `target`, and
    what the guard of targets raises for an existing file. `own` as for `file_beside`.
    """
    if target.is_dir():
        raise UsageError(f"{target} is a folder", name="target-exists", hint="name a file in that folder")
    if target.exists() and not target.is_file():
        # a rename would put a file in a device's place
        raise UsageError(f"{target} is not a file", name="target-not-a-file", hint="name a new file")
    if not own:
        refuse_guarded(target)
    if not force and os.path.lexists(target):
        raise _exists(target)
    if not target.absolute().parent.is_dir():
        raise HostError(
            f"the folder {target.parent} does not exist", name="cannot-write", hint="create the folder first"
        )


def write_file(target: Path, data: bytes) -> None:
    """Write a file that a user has named, or replace it, whole or not at all. A link stays, and a device or a pipe is
    written to. Raises as `file_beside` does.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_bytes(data)
        return
    with file_beside(target.resolve(), force=True) as draft:
        draft.write_bytes(data)


def publish(path: Path, target: Path, *, force: bool = False) -> None:
    """Give a finished file its final name. Raises UsageError (target-exists)."""
    _sync_file(path)
    with _entered_link(target.absolute(), force) as place:
        path.rename(place)
    sync_folder(target.absolute().parent)


def _open_nameless(folder: Path) -> int | None:
    """A file of no name in a folder; None where the file system has none. Raises HostError (cannot-write)."""
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            return None
        raise _cannot_write(folder, error) from None


def _link(path: Path, place: Path) -> None:
    """Give a file of no name, by its link in /proc, a name."""
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Python follows the link in /proc only where it is given a folder's descriptor
        os.link(path, place.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _nameless_file(fd: int) -> Iterator[Path]:
    try:
        # by this process' number: the programs that we start may open it too
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    finally:
        os.close(fd)


@contextlib.contextmanager
def _named_file(target: Path) -> Iterator[Path]:
    with _entered(target.parent, f"-{target.name[:100]}") as path:
        try:
            path.open("xb").close()
        except OSError as error:
            raise _cannot_write(target.parent, error) from None
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _cannot_write(folder: Path, error: OSError) -> HostError:
    error.filename = error.filename or str(folder / "x")
    hint = describe_os_error(error).hint
    return HostError(f"cannot write to {folder}: {error.strerror}", name="cannot-write", hint=hint)


@contextlib.contextmanager
def _entered_link(target: Path, force: bool) -> Iterator[Path]:
    """Where to link a finished file: `target` itself, or a name beside it that then replaces it."""
    if not force:
        try:
            if os.path.lexists(target):
                raise _exists(target)
            yield target
        except FileExistsError:
            raise _exists(target) from None
        return
    with _entered(target.parent, f"-{target.name[:100]}") as path:
        try:
            yield path
            path.replace(target)
        finally:
            path.unlink(missing_ok=True)


def _exists(target: Path) -> UsageError:
    return UsageError(f"{target} exists", name="target-exists", hint="--force replaces it")


# ---- afterwards --------------------------------------------------------------------------------------------------


def sweep(*, dry: bool = False) -> list[str]:
    """Remove what dead processes left, wherever it lies; the paths removed. What cannot be removed is named.

    A living process holds the lock of its entry: its files stay. With `dry` nothing is removed.
    """
    gone = []
    for journal in journals():
        for entry in sorted(journal.glob("*.json")) if journal.is_dir() else ():
            if _TOKEN.fullmatch(entry.stem):
                gone += _sweep_entry(entry, dry)
    return gone


def _sweep_entry(entry: Path, dry: bool) -> list[str]:
    try:
        fd = os.open(entry, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except IsADirectoryError:
        if not dry:
            shutil.rmtree(entry)
        return [str(entry)]
    except OSError:
        return []
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left = _left_by(entry)
        if not dry:
            for path in left:
                remove_tree(path)
            entry.unlink(missing_ok=True)
    except BlockingIOError:
        return []  # its owner lives
    except OSError as error:
        skip(RecordDamaged(entry, f"its file cannot be removed: {error.strerror}", _Entry.advice()))
        return []
    finally:
        os.close(fd)
    return [str(path) for path in left]


def _left_by(entry: Path) -> list[Path]:
    """What a dead owner's entry names, as far as it is there and has the entry's own token in its name."""
    if entry.stat().st_size == 0:
        return []  # its owner died before it made anything
    try:
        record = read_json(entry, _Entry, limit=1 << 16)
    except RecordDamaged as error:
        skip(error)
        return []
    path = Path(record["path"]) if record else None
    if path is None or not path.name.startswith(f"{PREFIX}{entry.stem}"):
        return []
    return [path] if os.path.lexists(path) else []
