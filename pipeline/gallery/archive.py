"""Old versions in a deduplicating archive: they take the space of what no other version has, until asked for again.

The archive is borg's, unencrypted, and can be read by borg alone. A version leaves the gallery only after it was
taken out of the archive again and found to be what was captured.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import command
from pipeline.errors import CheckFailed, UsageError
from pipeline.gallery import Gallery, Version
from pipeline.gallery.integrity import Judge, judge_folder
from pipeline.gallery.keeping import bury, leases
from pipeline.gallery.parcels import take_in
from pipeline.record import remove_tree

#: Seconds for one version to go in or to come out.
DEADLINE = 4 * 3600.0
#: Fixed chunks of 64 KiB, at which disks are told apart everywhere here; holes cost nothing.
_HOW = ["--sparse", "--chunker-params", "fixed,65536", "--compression", "zstd,3", "--noctime"]


def put_away(
    gallery: Gallery,
    version: Version,
    repository: Path,
    scratch: Path,
    *,
    judge: Judge,
    used: Callable[[Version], str],
) -> None:
    """Move a version into the archive at `repository`, which is made where there is none.

    `scratch` is where it is unpacked to be compared. Raises UsageError (version-in-use) for what a channel, a lease
    or a build needs, CheckFailed (archive-damaged), CommandFailed.
    """
    if not (repository / "config").exists():
        repository.parent.mkdir(parents=True, exist_ok=True)
        _borg(["init", "--encryption", "none", str(repository)])
    with gallery.hold(version.name) as folder:
        lease = next((one for one in leases(gallery, version.name) if one.version == version.version), None)
        current = gallery.get(f"{version.name}@{version.version}")
        if by := ", ".join(current.channels) or (f"leased: {lease.why}" if lease else used(current)):
            raise UsageError(f"{version.name} {version.version} is in use: {by}", name="version-in-use")
        place = f"{repository}::{_label(version.name, version.version)}"
        # one that a dead process left half made has no place in the list; a whole one is the same version
        if not _holds(repository, version.name, version.version):
            _borg(["create", *_HOW, place, "."], cwd=version.path)
        with _unpacked(repository, version.name, version.version, scratch) as copy:
            if wrong := judge_folder(copy, version.name, version.version, judge):
                raise CheckFailed(f"what {place} gives back: {wrong}", name="archive-damaged")
        bury(folder, version, f"archived in {repository}")


def bring_back(
    gallery: Gallery,
    name: str,
    version: str,
    repository: Path,
    scratch: Path,
    *,
    judge: Judge,
    complete: Callable[[Path, Path], None],
) -> Version:
    """Take a version out of the archive, into the gallery; it stays in the archive too. No channel moves.

    Raises UsageError (not-archived), and as `take_in`.
    """
    if not _holds(repository, name, version):
        known = ", ".join(_list(repository)) or "nothing"
        raise UsageError(f"no {name} {version} in {repository}", name="not-archived", hint=f"it holds {known}")
    with _unpacked(repository, name, version, scratch) as copy:
        return take_in(gallery, copy, judge=judge, complete=complete, returns=True)


@contextlib.contextmanager
def _unpacked(repository: Path, name: str, version: str, scratch: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="unpacked-"))
    try:
        _borg(["extract", "--sparse", f"{repository}::{_label(name, version)}"], cwd=folder)
        yield folder
    finally:
        remove_tree(folder)


def _label(name: str, version: str) -> str:
    return f"{name}-{version}"


def _holds(repository: Path, name: str, version: str) -> bool:
    return _label(name, version) in _list(repository)


def _list(repository: Path) -> list[str]:
    if not (repository / "config").exists():
        raise UsageError(
            f"{repository} is no archive", name="not-archived", hint="goldsmith gallery archive makes one"
        )
    return _borg(["list", "--format", "{archive}{NL}", str(repository)]).split()


def _borg(words: list[str], cwd: Path | None = None) -> str:
    # the archive moves with its store, and nobody is there to be asked
    env = dict.fromkeys(("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "BORG_RELOCATED_REPO_ACCESS_IS_OK"), "yes")
    return command.run(["borg", *words], deadline=DEADLINE, cwd=cwd, env=env, hint="make setup installs borg").stdout
