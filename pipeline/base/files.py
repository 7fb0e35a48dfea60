"""Files that goldsmith keeps for itself: written whole or not at all, and read as if somebody had tampered with them.

A JSON record may have been cut short, edited by hand, swapped for a folder or made by an attacker. `read_json` bounds
its size, depth and number of values, checks its shape, and names what is wrong; nothing else of goldsmith reads one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import json
import logging
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.base.errors import GoldsmithError
from pipeline.base.file_errors import describe_os_error, is_limit

#: Bytes of a record, unless its kind says otherwise: the largest run's record seen has 60 KiB.
LIMIT = 16 << 20
#: Levels of nesting. A layer's record nests one level for each disk of its chain, which has some dozens at most.
DEPTH = 300
#: Values in a record. With the bound of the size it bounds the memory that reading takes.
VALUES = 1_500_000
#: The name of a file that `write_json` has not renamed into place yet.
_UNFINISHED = re.compile(r"\..+\.\d+\.\d+", re.ASCII)

log = logging.getLogger("goldsmith.records")


class RecordDamaged(GoldsmithError):
    """A record of goldsmith's own cannot be used. `path` is the record, the message says why."""

    exit_code = 2

    def __init__(self, path: Path, why: str, hint: str) -> None:
        super().__init__(f"{path}: {why}", name="record-damaged", hint=hint, evidence=path)
        self.path = path
        self.why = why


class Shape(BaseModel):
    """What a record must look like to be used. Fields that it does not name are let through."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, defer_build=True)

    #: What to do about a record of this kind that is damaged. A class variable, no field of the record.
    @classmethod
    def advice(cls) -> str:
        return "restore the file from a backup, or move it away"


class AnyObject(Shape):
    """Any JSON object."""


def read_json(path: Path, shape: type[Shape], *, limit: int = LIMIT) -> dict[str, Any] | None:
    """The record at `path` as it stands there, None where there is no such file. Raises RecordDamaged."""
    try:
        text = _read_text(path, limit)
        return None if text is None else parse_json(text, shape)
    except _Unusable as error:
        raise RecordDamaged(path, str(error), shape.advice()) from None


def read_usable(path: Path, shape: type[Shape], *, limit: int = LIMIT) -> dict[str, Any] | None:
    """As `read_json`, but a damaged record is skipped by name: a warning is logged, and None returned."""
    try:
        return read_json(path, shape, limit=limit)
    except RecordDamaged as error:
        skip(error)
        return None


def skip(error: RecordDamaged) -> None:
    """Say that a damaged record is passed over. The command line prints each such warning once, on stderr."""
    log.warning("%s", error.message, extra={"record": error})


class _Unusable(ValueError):
    """Why the text of a record cannot be used."""


def parse_json(text: str, shape: type[Shape]) -> dict[str, Any]:
    """A JSON object of this shape. Raises ValueError with a sentence that says what is wrong."""
    if text.count(",") + text.count("[") + text.count("{") > VALUES:
        raise _Unusable(f"it has more than {VALUES} values")
    try:
        data = json.loads(
            text, parse_constant=_refuse_constant, parse_int=_refuse_large_integer, parse_float=_refuse_infinite
        )
    except RecursionError:
        raise _Unusable("it is nested too deeply") from None
    except _Unusable:
        raise
    except json.JSONDecodeError as error:
        raise _Unusable(f"it is not JSON: {error.msg} at line {error.lineno}") from None
    except ValueError:
        raise _Unusable("it contains a number with too many digits") from None
    if not isinstance(data, dict):
        raise _Unusable(f"it contains {_KINDS.get(type(data), 'another value')}, not an object")
    _check_depth(data)
    # half a character comes from an escape, or from a text that was decoded with surrogates for bytes
    if not text.isascii() or "\\ud" in text or "\\uD" in text:
        _check_characters(data)
    try:
        shape.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise _Unusable(f"{where or 'it'}: {first['msg']}") from None
    return data


_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def _refuse_constant(word: str) -> None:
    raise _Unusable(f"it contains {word}, which is not JSON")


def _refuse_large_integer(digits: str) -> int:
    value = int(digits)
    if abs(value) >= 1 << 63:
        raise _Unusable("it contains a number that is too large")
    return value


def _refuse_infinite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Unusable("it contains a number that is too large")
    return value


def _check_depth(data: dict[str, Any]) -> None:
    """The code behind walks a tree by calls. Raises _Unusable for one of more than DEPTH levels."""
    level: list[dict[str, Any] | list[Any]] = [data]
    for _ in range(DEPTH):
        level = [
            value
            for each in level
            for value in (each.values() if type(each) is dict else each)
            # json.loads makes no subclasses, and this runs for each value of each manifest of a gallery
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return
    raise _Unusable("it is nested too deeply")


def _check_characters(data: object) -> None:
    """Raises _Unusable for half a character, which cannot be written again as UTF-8."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Unusable("it contains half of a character (a lone surrogate)") from None


def _read_text(path: Path, limit: int) -> str | None:
    """The text of a regular file of at most `limit` bytes; None where there is none.

    Raises HostError (too-many-files, out-of-memory) where it could not be asked.
    """
    try:
        # a FIFO must not hold us, a symbolic link must not lead us elsewhere
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _Unusable("it is a symbolic link, not a file") from None
        if is_limit(error):
            raise describe_os_error(error) from None
        raise _Unusable(f"it cannot be read: {error.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise _Unusable(f"it is {kind_of(status.st_mode)}, not a file")
    with os.fdopen(fd, "rb") as file:
        if status.st_size > limit:
            raise _Unusable(f"it has {status.st_size} bytes, more than {limit}")
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise _Unusable(f"it cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise _Unusable(f"it has more than {limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Unusable(f"it is not text in UTF-8: byte {error.start}") from None


def read_text(path: Path, limit: int) -> str:
    """The text of a file of ours that is no JSON record. Raises RecordDamaged, also where it is missing."""
    try:
        text = _read_text(path, limit)
    except _Unusable as error:
        raise RecordDamaged(path, str(error), Shape.advice()) from None
    if text is None:
        raise RecordDamaged(path, "it is missing", Shape.advice())
    return text


def regular_files(folder: Path) -> tuple[list[str], dict[str, str]]:
    """All files in a folder, by path from there, in order; and what else is there but folders, with what it is.

    Nothing is followed and nothing is opened.
    """
    files, odd = [], {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(folder).as_posix()
        if stat.S_ISREG(mode):
            files.append(name)
        elif not stat.S_ISDIR(mode):
            odd[name] = kind_of(mode)
    return files, odd


def kind_of(mode: int) -> str:
    """What a path is, in words, by its `st_mode`."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe"}
    kinds |= {stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")


# ---- writing -----------------------------------------------------------------------------------------------------


def read_foreign_json(path: Path, limit: int) -> Any:
    """The JSON of a file that a user has brought, at most `limit` bytes. Raises OSError, ValueError."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, data: object) -> None:
    """Write `data` durably under `path`: a temporary file, fsync, rename, fsync of the folder.

    The temporary file is locked until it has been renamed, so that `sweep_unfinished` tells a writer from a dead one.
    """
    try:
        _write_once(path, data)
    except FileNotFoundError:
        _write_once(path, data)  # a sweep came between the making of the temporary file and its lock
    sync_folder(path.parent)


def _write_once(path: Path, data: object) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with temporary.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            json.dump(data, file, indent=1, sort_keys=False, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def disk_bytes(path: Path) -> int:
    """Bytes that a file, or all files in a folder, take on the disk; a file with two names in it counts once."""
    seen: dict[tuple[int, int], int] = {}
    with contextlib.suppress(OSError):  # gone meanwhile
        status = path.lstat()
        seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    for _, status in walk(path):
        seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def list_folder(folder: Path, pattern: str = "*") -> list[Path]:
    """The entries of a folder whose names match the pattern, sorted. Empty if the folder does not exist."""
    try:
        return sorted(path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All that is below a folder, sorted, each with its own status (lstat); no link is followed.

    Another process may delete at the same time: what has gone when it is looked at is left out, and so is what this
    user may not look at.
    """
    for path in _entries(folder):
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from walk(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return list_folder(folder)
    except PermissionError:
        return []


def is_older(path: Path, moment: float) -> bool:
    """Whether a path was last written before a moment (seconds since the epoch); one that has gone was not."""
    try:
        return path.lstat().st_mtime < moment
    except FileNotFoundError:
        return False


def walk_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The files below a folder, as `walk` finds them."""
    return [(path, status) for path, status in walk(folder) if stat.S_ISREG(status.st_mode)]


def sweep_unfinished(folder: Path, *, dry: bool = False) -> list[Path]:
    """Remove what `write_json` left in `folder` when its process died; the paths removed (`dry`: only named)."""
    gone = []
    for path in _unfinished(folder):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not dry:
                    path.unlink(missing_ok=True)
                gone.append(path)
        except OSError:
            continue  # somebody is writing it, or has just renamed it
    return gone


def _unfinished(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def remove_tree(folder: Path) -> None:
    """Remove a file or folder of ours; what is not there is fine, anything else is an error.

    Another build may sweep the same scratch at the same time: what it took first is not there either.
    """
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, onerror=_unless_gone)
    else:
        folder.unlink(missing_ok=True)


def _unless_gone(_function: object, _path: object, caught: tuple[object, BaseException, object]) -> None:
    if not isinstance(caught[1], FileNotFoundError):
        raise caught[1]
