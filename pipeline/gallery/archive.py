"""Old versions in a deduplicating archive: they take the space of what no other version has, until asked for again.

The archive is borg's, unencrypted, and can be read by borg alone. A version leaves the gallery only after it was
taken out of the archive again and found to be what was captured.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.base import process, scratch
from pipeline.base.byte_progress import OnWork, ignore_work
from pipeline.base.errors import CheckFailed, UsageError
from pipeline.base.files import Shape, parse_json, remove_tree, walk
from pipeline.base.printable import listed
from pipeline.base.surroundings import variables
from pipeline.cache.digests import OnBytes
from pipeline.gallery import Gallery, Version
from pipeline.gallery.export_import import MOST_FILES, import_version
from pipeline.gallery.integrity import Judge, judge_folder
from pipeline.gallery.retention import delete_version, leases

#: Seconds for one version to go in or to come out.
DEADLINE = 4 * 3600.0
#: What borg calls the file in a lock: the host's name, the number of its card, the process and the thread.
_LOCK_OWNER = re.compile(r"[^/]+@(?P<node>\d+)\.(?P<pid>\d+)-\d+")
_HINT = "borg check REPOSITORY verifies the archive; versions in the gallery are not affected"
#: Fixed chunks of 64 KiB, at which disks are told apart everywhere here; holes cost nothing.
_HOW = ["--sparse", "--chunker-params", "fixed,65536", "--compression", "zstd,3", "--noctime"]


def archive_version(
    gallery: Gallery,
    version: Version,
    repository: Path,
    unpack_in: Path,
    *,
    judge: Judge,
    used: Callable[[Version], str],
    progress: OnWork = ignore_work,
) -> None:
    """Move a version into the archive at `repository`, which is made where there is none.

    `unpack_in` is where it is unpacked to be compared; `progress` follows the bytes of its files.
    Raises UsageError (version-in-use) for what a channel, a lease or a build needs, CheckFailed (archive-damaged),
    CommandFailed.
    """
    if not (repository / "config").exists():
        _make(repository)
    _sweep_locks(repository)
    with gallery.hold(version.name) as folder:
        lease = next((entry for entry in leases(gallery, version.name) if entry.version == version.version), None)
        current = gallery.get(f"{version.name}@{version.version}")
        if by := ", ".join(current.channels) or (f"leased: {lease.why}" if lease else used(current)):
            raise UsageError(
                f"{version.name} {version.version} is in use: {by}",
                name="version-in-use",
                hint="goldsmith gallery show lists its users; move the channel, or end the lease",
            )
        place = f"{repository}::{_label(version.name, version.version)}"
        # one that a dead process left half made has no place in the list; a whole one is the same version
        if not _holds(repository, version.name, version.version):
            size = sum(status.st_size for _, status in walk(version.path))
            on_bytes = partial(progress, f"archiving {version.name} {version.version}")
            _borg(["create", *_HOW, place, "."], version.path, _follow(on_bytes, size))
            on_bytes(size, size)
        with _unpacked(repository, version.name, version.version, unpack_in, progress) as copy:
            if wrong := judge_folder(copy, version.name, version.version, judge, progress):
                raise CheckFailed(
                    f"the restored copy of {place} is damaged: {wrong}",
                    name="archive-damaged",
                    hint="the version is still in the gallery; check the archive with borg check",
                )
        delete_version(folder, version, f"archived in {repository}")


def _sweep_locks(repository: Path) -> None:
    """Remove locks that processes of this host which have died were about to take: borg itself leaves them for ever.

    Such a folder holds a file HOST@NODE.PID-THREAD (borg.locking); its process renames it when the lock is free.
    """
    for folder in repository.glob("lock.exclusive.*.tmp"):
        owners = [_LOCK_OWNER.fullmatch(path.name) for path in folder.iterdir()]
        # one without an owner is about to get it
        if owners and all(
            owner and int(owner["node"]) == uuid.getnode() and _is_dead(int(owner["pid"])) for owner in owners
        ):
            remove_tree(folder)


def _is_dead(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _make(repository: Path) -> None:
    """A new archive, whole or not at all: half of one would be in the way of the next."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    with scratch.folder_beside(repository) as draft:
        _borg(["init", "--encryption", "none", str(draft)])
        try:
            draft.rename(repository)
        except OSError as error:
            raise UsageError(
                f"{repository} cannot become an archive: {error.strerror}",
                name="not-archived",
                hint="name an empty or a new folder",
            ) from None


def restore_version(
    gallery: Gallery,
    name: str,
    version: str,
    repository: Path,
    unpack_in: Path,
    *,
    judge: Judge,
    complete: Callable[[Path, Path], None],
    progress: OnWork = ignore_work,
) -> Version:
    """Take a version out of the archive, into the gallery; it stays in the archive too. No channel moves.

    Raises UsageError (not-archived), and as `import_version`.
    """
    _sweep_locks(repository)
    if not _holds(repository, name, version):
        known = listed(_list(repository), newest=True) or "nothing"
        raise UsageError(f"{repository} has no {name} {version}", name="not-archived", hint=f"it contains {known}")
    with _unpacked(repository, name, version, unpack_in, progress) as copy:
        return import_version(gallery, copy, judge=judge, complete=complete, returns=True, progress=progress)


@contextlib.contextmanager
def _unpacked(repository: Path, name: str, version: str, parent: Path, progress: OnWork) -> Iterator[Path]:
    place = f"{repository}::{_label(name, version)}"
    _judge_members(place, _borg(["list", "--json-lines", place]))
    on_bytes = partial(progress, f"unpacking {name} {version}")
    with scratch.folder(parent, "unpacked") as folder:
        _borg(["extract", "--sparse", place], folder, _follow(on_bytes, 0))
        yield folder


def _judge_members(place: str, lines: str) -> None:
    """An archive holds files and folders, each once and inside of it. Raises CheckFailed (archive-damaged)."""
    seen: set[str] = set()
    fault = ""
    for line in lines.splitlines():
        try:
            member = parse_json(line, _Member)
        except ValueError as error:
            fault = f"its list cannot be read: {error}"
            break
        path = PurePosixPath(member["path"])
        if path.is_absolute() or ".." in path.parts:
            fault = f"{path} is outside the archive"
        elif member["type"] not in ("-", "d"):
            fault = f"{path} is neither a file nor a folder"
        elif str(path) in seen:
            fault = f"{path} is duplicated"
        seen.add(str(path))
        if fault or len(seen) > MOST_FILES:
            break
    if fault or len(seen) > MOST_FILES:
        fault = fault or f"it has more than {MOST_FILES} files"
        raise CheckFailed(f"{place}: {fault}", name="archive-damaged", hint="check the archive with borg check")


class _Member(Shape):
    """A line of `borg list --json-lines`."""

    type: str
    path: str


class _LogLine(Shape):
    """A line of `borg --log-json`. `original_size`: bytes of files that were read; `current`: that were written."""

    type: str
    message: str | None = None
    original_size: int | None = None
    current: int | None = None
    total: int | None = None


def _parse_log(line: str) -> dict[str, Any]:
    try:
        return parse_json(line, _LogLine)
    except ValueError:
        return {"type": "other", "message": line}


def _follow(on_bytes: OnBytes, size: int) -> Callable[[str], None]:
    """Gets the lines of `borg --progress --log-json`. `size`: all bytes, where borg itself does not say."""

    def take(line: str) -> None:
        found = _parse_log(line)
        if found["type"] == "archive_progress" and found.get("original_size") is not None:
            on_bytes(min(found["original_size"], size), size)
        elif found["type"] == "progress_percent" and found.get("total"):
            on_bytes(found["current"] or 0, found["total"])

    return take


def _label(name: str, version: str) -> str:
    return f"{name}-{version}"


def _holds(repository: Path, name: str, version: str) -> bool:
    return _label(name, version) in _list(repository)


def _list(repository: Path) -> list[str]:
    if not (repository / "config").exists():
        raise UsageError(
            f"{repository} is not a borg archive", name="not-archived", hint="goldsmith gallery archive creates one"
        )
    return _borg(["list", "--format", "{archive}{NL}", str(repository)]).split()


def _borg(words: list[str], cwd: Path | None = None, on_line: Callable[[str], None] | None = None) -> str:
    """What a command of borg prints. Raises CommandFailed (command-failed).

    `on_line` gets what it logs about its progress, in JSON.

    Borg remembers, for each user, what it last saw of an archive. If a power cut has damaged that memory, or an older
    archive was restored from a backup, borg refuses an archive that is whole: it is started once more without its
    memory. What comes out of an archive is verified anyway, against its manifest and its signatures.
    """
    # the archive moves with its store, and nobody is there to be asked; how to open it is in the caller's environment
    env = {name: value for name, value in variables().items() if name.startswith("BORG_")}
    env |= dict.fromkeys(("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "BORG_RELOCATED_REPO_ACCESS_IS_OK"), "yes")

    def run(more: Mapping[str, str]) -> str:
        argv = ["borg", *(["--progress", "--log-json"] if on_line else []), *words]
        # one that is killed leaves its temporary files
        with scratch.folder(name="borg") as temporary:
            own = {**env, **more, "TMPDIR": str(temporary)}
            return process.run(argv, deadline=DEADLINE, cwd=cwd, env=own, hint=_HINT, on_line=on_line).stdout

    try:
        return run({})
    except process.CommandFailed as error:
        with scratch.folder(name="borg") as folder, contextlib.suppress(process.CommandFailed):
            # not the keys of an encrypted archive, which lie beside both
            return run({"BORG_CACHE_DIR": str(folder / "cache"), "BORG_SECURITY_DIR": str(folder / "security")})
        raise _with_cause(error) from None


def _with_cause(error: process.CommandFailed) -> process.CommandFailed:
    """The error with the line that states the cause: behind a traceback borg describes the host."""
    logged = [_parse_log(line) for line in error.stderr.splitlines()]
    text = "\n".join(each["message"] or "" for each in logged if each["type"] in ("log_message", "other"))
    error = process.CommandFailed(error.argv, error.code, error.stdout, text, error.hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    trace = next((index for index, line in enumerate(lines) if line.startswith("Traceback ")), None)
    if trace is not None:
        # the line behind a traceback is the exception's
        cause = next(
            (line for line in lines[trace:] if re.match(r"[\w.]+(Error|Exception|Lock\w*)\b", line)), lines[-1]
        )
        error.message = f"{error.message.partition(': ')[0]}: {cause}"
    return error
