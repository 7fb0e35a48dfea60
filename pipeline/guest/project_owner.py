"""Who runs Ansible: the owner of the project; and for a project of root a user who owns nothing.

A playbook runs code on this host: `delegate_to: localhost`, lookups, and the plugins that lie beside it. That code
must not run as root, because root holds the signing key and the store.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GuestError, HostError
from pipeline.base.runs import remove_tree
from pipeline.base.store import ANSIBLE_USER
from pipeline.base.surroundings import variables

#: Bytes of a report that the owner's process has written.
_LARGEST_REPORT = 4 << 20
#: The variable that names who runs Ansible and commands for projects of root, and how root is named in a hint.
RUNS_AS = "GOLDSMITH_ANSIBLE_USER"
ROOT_RUNS = f"set {RUNS_AS}=root if root has to run it"
#: Who runs them on a host where `make setup` has not made ANSIBLE_USER.
_NOBODY = "nobody"


@dataclass(frozen=True)
class ProjectOwner:
    """The user, as this host's user database has it."""

    name: str
    uid: int
    gid: int
    home: str = "/"
    #: Whether it is not the project's owner, who is root, but a user in root's place.
    service: bool = False

    @property
    def groups(self) -> frozenset[int]:
        return frozenset(os.getgrouplist(self.name, self.gid))

    def argv(self, words: Iterable[str | Path]) -> list[str | Path]:
        """The argument list that runs `words` as this user, without a way back, and ends with us."""
        # the user's id is changed before the signal is set: a change clears it
        drop = ["--reuid", str(self.uid), "--regid", str(self.gid), "--init-groups", "--no-new-privs"]
        return ["setpriv", *drop, "--inh-caps=-all", "--bounding-set=-all", "--pdeathsig", "KILL", "--", *words]

    @property
    def environment(self) -> dict[str, str]:
        return {"USER": self.name, "LOGNAME": self.name}

    def give(self, folder: Path) -> None:
        """Give a folder and all in it to the user. Nobody else may have been able to write into it before."""
        for path in (*folder.rglob("*"), folder):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def require_access(self, *paths: Path) -> None:
        """Raise HostError (project-owner-blocked) with the first path that the user may not read."""
        script = 'for path; do test -r "$path" || { printf %s "$path"; exit 9; }; done'
        done = process.run(
            self.argv(["/bin/sh", "-c", script, "sh", *paths]),
            deadline=process.ANSWER,
            cwd=Path("/"),
            ok_codes=(0, 9),
        )
        if done.code:
            raise HostError(
                f"Ansible runs as {self.name}, the owner of the project, who may not read {done.stdout}",
                name="project-owner-blocked",
                hint=f"let {self.name} read it and enter the folders above it, or give the project to root (chown)",
            )


def project_owner(definition: Path, playbook: Path) -> ProjectOwner | None:
    """Who runs a playbook, if it is not the caller: where root is the caller, the owner of the definition, or of the
    playbook if the definition is root's. If both are root's, a user without rights. None for the caller.

    Raises HostError (project-owner-unknown, ansible-user-missing).
    """
    if os.geteuid() != 0:
        return None
    for path in (definition, playbook):
        uid = path.stat().st_uid
        if uid == 0:
            continue
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise HostError(
                f"the owner {uid} of {path} is not a user of this host, so Ansible cannot run as this user",
                name="project-owner-unknown",
                hint=f"chown -R USER {path.parent}, with a user of this host, or with root if you trust its content",
            ) from None
        return ProjectOwner(entry.pw_name, uid, entry.pw_gid, entry.pw_dir)
    return _in_place_of_root()


def _in_place_of_root() -> ProjectOwner | None:
    """The user whom GOLDSMITH_ANSIBLE_USER names, None for root; else `goldsmith-ansible`, or nobody without it."""
    chosen = variables().get(RUNS_AS)
    for name in (chosen,) if chosen else (ANSIBLE_USER, _NOBODY):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            return None
        return ProjectOwner(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, service=True)
    missing = chosen or ANSIBLE_USER
    raise HostError(
        f"the user {missing}, who runs Ansible for projects of root, does not exist",
        name="ansible-user-missing",
        hint=f"make setup creates {ANSIBLE_USER}; by hand: useradd --system --shell /usr/sbin/nologin {missing}",
    )


def copy_private(source: Path, folder: Path) -> Path:
    """A copy of a file in a private folder, mode 0600; later `ProjectOwner.give` gives it to the user."""
    target = folder / source.name
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out, source.open("rb") as file:
        shutil.copyfileobj(file, out)
    return target


def copy_vault_password(file: Path | None, folder: Path) -> Path | None:
    """The step's vault_password_file where the user can read it. A program that prints it stays in place."""
    if file is None or os.access(file, os.X_OK):
        return file
    return copy_private(file, folder)


def fresh_folder(folder: Path) -> Path:
    """An empty folder of mode 0700, in a folder in which only root may create entries."""
    remove_tree(folder)
    folder.mkdir(mode=0o700)
    return folder


def guest_inventory(inventory: Path, moved: Mapping[Path, Path], folder: Path) -> Path:
    """A copy of an inventory of `Access` in which the files `moved` have their new paths."""
    text = inventory.read_text(encoding="utf-8")
    for old, new in moved.items():
        text = text.replace(json.dumps(str(old))[1:-1], json.dumps(str(new))[1:-1])
    target = folder / "inventory.json"
    target.write_text(text, encoding="utf-8")
    target.chmod(0o600)
    return target


def take_tree(source: Path, target: Path) -> None:
    """Copy folders, plain files and links that the user's process has made into the folder `target`, which is there.

    Each folder is root's before it is read, so that a process that is left cannot put a link in the place of a file.
    """
    os.chown(source, 0, 0, follow_symlinks=False)
    source.chmod(0o700)
    for entry in sorted(os.scandir(source), key=lambda each: each.name):
        place = target / entry.name
        if entry.is_symlink():
            place.symlink_to(Path(entry.path).readlink())
        elif entry.is_dir(follow_symlinks=False):
            place.mkdir()
            take_tree(Path(entry.path), place)
        elif entry.is_file(follow_symlinks=False):
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file, place.open("xb") as copy:
                shutil.copyfileobj(file, copy)
                place.chmod(0o755 if os.fstat(descriptor).st_mode & 0o100 else 0o644)


def take_report(source: Path, target: Path) -> None:
    """Copy a report that the user's process has written; nothing is copied if there is none.

    Raises GuestError (step-failed) if it is not a plain file of bounded size: the user may have put a link there.
    """
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _no_report(str(error.strerror)) from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_REPORT:
            raise _no_report("it is not a plain file of at most 4 MiB")
        data = file.read(_LARGEST_REPORT)
    try:
        json.loads(data)
    except ValueError:
        raise _no_report("it is not JSON") from None
    target.write_bytes(data)


def _no_report(why: str) -> GuestError:
    return GuestError(
        f"Ansible's report of its plays cannot be read: {why}",
        name="step-failed",
        hint="remove what writes to plays.json from the project's plugins",
    )
