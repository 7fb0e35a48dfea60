"""Errors of the file system in words: which file, whose it is, what to do.

Python's own text says "[Errno 13] Permission denied: 'x'". Anyone who reads it needs the folder that refused, its
owner and mode, and who asked. The path that is named is the first one, from the root on, that explains the error.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

from pipeline.base.errors import GoldsmithError, HostError, UsageError

#: Bytes of one name, and of a whole path, that Linux takes (NAME_MAX, PATH_MAX in linux/limits.h).
LONGEST_NAME, LONGEST_PATH = 255, 4096


def describe_os_error(error: OSError) -> GoldsmithError:
    """The named error for `error`: HostError where the host refuses, UsageError where the path is wrong.

    The hint is never empty. An error without a path (a write to an open file) keeps the system's words.
    """
    paths = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    describe = _BY_NUMBER.get(error.errno or 0, _describe_other)
    return describe(_words(error), paths)


def is_limit(error: OSError) -> bool:
    """Whether a limit of this host was reached: such an error says nothing about the file, which may be whole."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _words(error: OSError) -> str:
    return error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)


def _at(path: Path | None, words: str) -> str:
    return f"{path}: {words}" if path is not None else words


# ---- who may do what ---------------------------------------------------------------------------------------------


def _describe_permission(words: str, paths: list[Path]) -> GoldsmithError:
    path = paths[0] if paths else None
    guilty = next((found for each in paths if (found := refusing_path(each))), None)
    if guilty is None:
        hint = f"you are {user_name(os.geteuid())}: run it with sudo, or as a user who may"
        return HostError(_at(path, words), name="permission-denied", hint=hint)
    status = guilty.stat()
    whose = f"{user_name(status.st_uid)}:{_group(status.st_gid)}, mode {stat.S_IMODE(status.st_mode):04o}"
    hint = f"you are {user_name(os.geteuid())}; {guilty} belongs to {whose}: run it with sudo{_or_join(status)}"
    return HostError(_at(path, words), name="permission-denied", hint=hint)


def refusing_path(path: Path) -> Path | None:
    """The first folder or file, from the root on, that does not let this user do all that may be wanted of `path`."""
    path = path.absolute()
    for folder in reversed(path.parents):
        if not folder.is_dir():
            return None
        if not os.access(folder, os.X_OK):
            return folder
    return next((each for each, right in _rights_wanted(path) if not os.access(each, right)), None)


def _rights_wanted(path: Path) -> list[tuple[Path, int]]:
    """What may be asked of a path, the likeliest first. A name is made and removed by the right to its folder."""
    in_folder = (path.parent, os.W_OK)
    try:
        mode = path.lstat().st_mode
    except OSError:
        return [in_folder]
    if stat.S_ISDIR(mode):
        return [(path, os.R_OK | os.W_OK | os.X_OK), in_folder]
    return [in_folder] if stat.S_ISLNK(mode) else [(path, os.R_OK), in_folder, (path, os.W_OK)]


def _or_join(status: os.stat_result) -> str:
    """How else the right can be had, where the file's group has it."""
    bits = (status.st_mode >> 3) & 7
    wanted = 7 if stat.S_ISDIR(status.st_mode) else 6
    group = _group(status.st_gid)
    if bits & wanted != wanted or status.st_gid in (0, *os.getgroups()):
        return ""
    return f", or join the group {group}"


def user_name(uid: int) -> str:
    """The name of a user, 'user 1234' for one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# ---- the file system itself --------------------------------------------------------------------------------------


def _describe_full(words: str, paths: list[Path]) -> GoldsmithError:
    path = paths[0] if paths else None
    free = _free_bytes(path) if path else None
    where = f"{free >> 20} MiB are free there; " if free is not None else ""
    hint = f"{where}free space: goldsmith clean --max-size 20G, goldsmith gallery prune --dry-run"
    return HostError(_at(path, words), name="disk-full", hint=hint)


def _free_bytes(path: Path) -> int | None:
    for each in (path, *path.absolute().parents):
        try:
            status = os.statvfs(each)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize
    return None


def _describe_read_only(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "mount it writable, or name another place (the store: GOLDSMITH_HOME)"
    return HostError(_at(paths[0] if paths else None, words), name="read-only", hint=hint)


def _describe_too_long(_words: str, paths: list[Path]) -> GoldsmithError:
    name = max(paths[0].parts, key=len) if paths else ""
    shown = f"{name[:40]}... ({len(os.fsencode(name))} bytes)" if name else "a name"
    hint = f"use a shorter name: a name has at most {LONGEST_NAME} bytes, a path {LONGEST_PATH}"
    return UsageError(f"{shown}: the name is too long", name="name-too-long", hint=hint)


def _describe_missing(words: str, paths: list[Path]) -> GoldsmithError:
    path = paths[0] if paths else None
    hint = "check the path something may have removed it meanwhile"
    if path is not None:
        first = next((each for each in (*reversed(path.absolute().parents),) if not each.exists()), None)
        if first is not None:
            hint = f"create the folder {first}, or correct the path"
    return UsageError(_at(path, words), name="file-missing", hint=hint)


def _describe_no_folder(words: str, paths: list[Path]) -> GoldsmithError:
    path = paths[0] if paths else None
    guilty = None
    if path is not None:
        guilty = next((each for each in (*reversed(path.absolute().parents), path) if each.is_file()), None)
    hint = f"{guilty} is a file, but a folder is needed" if guilty else "use a path below a folder"
    return UsageError(_at(path, words), name="not-a-folder", hint=hint)


def _describe_existing(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "choose another name, or move the existing file away"
    return UsageError(_at(paths[0] if paths else None, words), name="file-exists", hint=hint)


def _describe_folder(words: str, paths: list[Path]) -> GoldsmithError:
    return UsageError(_at(paths[0] if paths else None, words), name="is-a-folder", hint="name a file instead")


def _describe_links(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "correct its symbolic links, which are circular (ls -l shows them)"
    return UsageError(_at(paths[0] if paths else None, words), name="link-loop", hint=hint)


def _describe_limit(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "raise the limit of open files, such as ulimit -n 4096"
    return HostError(_at(paths[0] if paths else None, words), name="too-many-files", hint=hint)


def _describe_damage(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "check the disk with dmesg and the masters with goldsmith gallery verify; the disk may be failing"
    return HostError(_at(paths[0] if paths else None, words), name="input-output", hint=hint)


def _describe_memory(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "free memory (fewer builds at once: --jobs 1), or add swap"
    return HostError(_at(paths[0] if paths else None, words), name="out-of-memory", hint=hint)


def _describe_other(words: str, paths: list[Path]) -> GoldsmithError:
    hint = "run goldsmith doctor to check the host and the store; dmesg shows the kernel's messages"
    return HostError(_at(paths[0] if paths else None, words), name="host-file-error", hint=hint)


_BY_NUMBER: dict[int, Callable[[str, list[Path]], GoldsmithError]] = {
    errno.EACCES: _describe_permission,
    errno.EPERM: _describe_permission,
    errno.ENOSPC: _describe_full,
    errno.EDQUOT: _describe_full,
    errno.EFBIG: _describe_full,
    errno.EROFS: _describe_read_only,
    errno.ENAMETOOLONG: _describe_too_long,
    errno.ENOENT: _describe_missing,
    errno.ENOTDIR: _describe_no_folder,
    errno.EEXIST: _describe_existing,
    errno.ENOTEMPTY: _describe_existing,
    errno.EISDIR: _describe_folder,
    errno.ELOOP: _describe_links,
    errno.EMFILE: _describe_limit,
    errno.ENFILE: _describe_limit,
    errno.EIO: _describe_damage,
    errno.ESTALE: _describe_damage,
    errno.ENOMEM: _describe_memory,
}
