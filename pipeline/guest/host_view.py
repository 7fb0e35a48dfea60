"""What an unprivileged user sees of the host while it runs Ansible, or a secret's command, for a project of root.

The user has no rights to root's files: it would not enter a project below /root, nor read a file of mode 0600 in it.
So the program starts in a mount namespace of its own, in which each folder that the user may not enter is covered by
an empty one; in it the files that the step reads are shown at their own paths, read-only. A file that only root may
read is shown as a private copy. The store is covered too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process, scratch
from pipeline.base.errors import HostError
from pipeline.base.surroundings import places
from pipeline.guest.project_owner import ROOT_RUNS, ProjectOwner

#: Files that are tried before a program starts: an argument list has its limit.
_CHECKED = 500
#: The list of users, and how many fields each has (passwd(5)).
_USERS, _FIELDS = Path("/etc/passwd"), 7
_WORKER = Path(__file__).with_name("view_worker.py")
#: The program's words, and how they are started.
Argv = Callable[[Iterable[str | Path]], list[str | Path]]


@dataclass(frozen=True)
class Needed:
    """What a program reads and writes on the host, beside what every user may read."""

    #: Folders and files, whole as far as the user may read them.
    reads: Sequence[Path] = ()
    #: Single files, which the user gets copies of where it may not read them.
    files: Sequence[Path] = ()
    #: Folders; the first is the home of a user who has none.
    writes: Sequence[Path] = ()


@contextlib.contextmanager
def started_as(owner: ProjectOwner | None, needed: Needed) -> Iterator[Argv]:
    """How a program is started as `owner`: as the caller if None, without access to the host's secrets otherwise.

    Raises HostError (project-owner-blocked) where the user may not read what it needs.
    """
    if owner is None:
        yield list
        return
    if not owner.service:
        yield owner.argv
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch.folder(name="view"))
        folder.chmod(0o711)
        mounts = folder / "mounts.json"
        mounts.write_text(json.dumps(_items(owner, needed, folder)), encoding="utf-8")
        # a container may not have the right to mount: there the modes of the files alone protect them
        argv: Argv = owner.argv
        if _may_mount():

            def argv(program: Iterable[str | Path]) -> list[str | Path]:
                return [sys.executable, "-P", _WORKER, mounts, *owner.argv(program)]

        _require_readable(owner, needed.files[:_CHECKED], argv)
        yield argv


def _may_mount() -> bool:
    return process.run(["unshare", "--mount", "true"], deadline=process.ANSWER, ok_codes=range(256)).code == 0


def _require_readable(owner: ProjectOwner, paths: Sequence[Path], argv: Argv) -> None:
    """Raise HostError (project-owner-blocked) with the first path that the user may not read; programs go first."""
    beside = Path(sys.executable).parent / "ansible-playbook"
    programs = [Path(sys.executable), Path(__file__), *([beside] if beside.exists() else [])]
    script = 'for path; do test -r "$path" || { printf %s "$path"; exit 9; }; done'
    asked = argv(["/bin/sh", "-c", script, "sh", *programs, *paths])
    done = process.run(asked, deadline=process.ANSWER, cwd=Path("/"), ok_codes=(0, 9))
    if done.code:
        raise HostError(
            f"a project of root runs Ansible and commands as {owner.name}, who may not read {done.stdout}",
            name="project-owner-blocked",
            hint=f"chmod -R go+rX {done.stdout}, or {ROOT_RUNS}",
        )


# ---- which mounts it takes -----------------------------------------------------------------------------------------


def _items(owner: ProjectOwner, needed: Needed, copies: Path) -> list[tuple[str, ...]]:
    """The mounts in their order: outer ones before those in them. Copies go into the folder `copies`."""
    tools = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).parent, Path(__file__).parents[1]]
    reads = [part for path in (*tools, *needed.reads) for part in _open_parts(owner, path)]
    trees = [path for path in (*reads, *needed.files, *needed.writes) if path.exists()]
    covers = {blocked for path in (*trees, *needed.reads) for blocked in _blocked_folders(owner, path)}
    store = places().home.resolve()
    if store.is_dir() and store != Path("/"):
        covers.add(store)
    items: list[tuple[int, int, tuple[str, ...]]] = [(len(each.parts), 0, ("cover", str(each))) for each in covers]
    for path in trees:
        source, word = path, "give" if path in needed.writes else "show"
        if word == "show" and not _may(owner, path, stat.S_IROTH):
            source = _copy(owner, path, copies / str(len(items)))
        for place in _places(path):
            items.append((len(place.parts), 1, (word, str(source), str(place))))
    if needed.writes and not Path(owner.home).is_dir():
        # Ansible's tasks on this host go to the home folder that the user database names
        (copies / _USERS.name).write_text(_with_home(owner, needed.writes[0]), encoding="utf-8")
        items.append((len(_USERS.parts), 1, ("show", str(copies / _USERS.name), str(_USERS))))
    return [item for _, _, item in sorted(items)]


def _with_home(owner: ProjectOwner, home: Path) -> str:
    """The host's list of users with another home folder of this one."""
    lines = []
    for line in _USERS.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == owner.name and len(fields) == _FIELDS:
            fields[-2] = str(home)
        lines.append(":".join(fields))
    return "\n".join(lines) + "\n"


def _places(path: Path) -> list[Path]:
    """The names by which a file is reached: its own, and the one without links."""
    written = [path.absolute()] if ".." not in path.parts else []
    return list(dict.fromkeys([*written, path.resolve()]))


def _open_parts(owner: ProjectOwner, path: Path) -> Iterator[Path]:
    """A file or folder that the user may read; of another folder what is in it and may be read."""
    if not path.exists():
        return
    if _may(owner, path, stat.S_IROTH):
        yield path
    elif path.is_dir():
        for entry in path.iterdir():
            yield from _open_parts(owner, entry)


def _blocked_folders(owner: ProjectOwner, path: Path) -> Iterator[Path]:
    """The folders on the way to a path, itself included, that the user may not enter."""
    real = path.resolve()
    for folder in (*real.parents, real):
        if folder != Path("/") and folder.is_dir() and not _may(owner, folder, stat.S_IXOTH):
            yield folder


def _may(owner: ProjectOwner, path: Path, right: int) -> bool:
    """Whether the user has a right (one of S_IROTH, S_IXOTH) by a file's mode; a folder to be read is entered too."""
    found = path.stat()
    wanted = right | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
    shift = 6 if found.st_uid == owner.uid else 3 if found.st_gid in owner.groups else 0
    return (found.st_mode >> shift) & wanted == wanted


def _copy(owner: ProjectOwner, path: Path, target: Path) -> Path:
    """A copy that the user may read; the folder it is in stays root's, so that no process changes it."""
    shutil.copyfile(path, target)
    target.chmod(0o500 if path.stat().st_mode & stat.S_IXUSR else 0o400)
    os.chown(target, owner.uid, owner.gid)
    return target
