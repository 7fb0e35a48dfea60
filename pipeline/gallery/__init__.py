"""The gallery: golden masters by name and version. The directory tree is the truth.

`NAME/VERSION/` exists only complete: it is filled beside its place and renamed. Channels are symbolic links that are
swapped atomically.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.base import locks
from pipeline.base.errors import GoldsmithError, HostError, NotFound, UsageError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import RecordDamaged, Shape, list_folder, read_usable, skip
from pipeline.base.names import folders
from pipeline.base.printable import listed
from pipeline.base.runs import remove_tree, sync_folder, sync_tree, write_json
from pipeline.base.store import IMAGE_NAME
from pipeline.gallery.links import CHANNEL_NAME as CHANNEL_NAME
from pipeline.gallery.links import POINT as POINT
from pipeline.gallery.links import channels_in as channels_in
from pipeline.gallery.links import is_no_link, point, target_of
from pipeline.gallery.manifest import MANIFEST as MANIFEST
from pipeline.gallery.manifest import ManifestShape, manifest_of
from pipeline.gallery.master import DISK as DISK
from pipeline.gallery.master import OS_DISK as OS_DISK
from pipeline.gallery.master import Version as Version
from pipeline.gallery.master import data_file as data_file
from pipeline.gallery.master import digests_file as digests_file
from pipeline.gallery.master import disk_file as disk_file
from pipeline.gallery.master import disks_of as disks_of
from pipeline.gallery.master import mode_of as mode_of
from pipeline.gallery.versions import next_version, parse

GOLDEN = "golden"
#: What is proven and yet not for building upon.
CANDIDATE = "candidate"
#: What the name of a version in the making begins with, and of one that is going.
NEW = ".new-"
GONE = ".gone-"
#: Where versions that have gone left word.
TOMBSTONES = ".tombstones"
#: Files whose names are numbers that another gallery has given to versions of the image.
RESERVED = ".reserved"
LOCK = ".lock"
#: Why the newest candidate was refused.
REFUSED = "refused.json"
#: Seconds to wait for the holder of an image's folder: a capture that has to copy takes longest.
TIMEOUT = 900.0


class RefusedShape(Shape):
    """Why the newest candidate did not become a version."""

    gate: str
    why: str
    run: str = "?"
    when: str = "?"

    @classmethod
    def advice(cls) -> str:
        return "delete the file; the next build of the image writes it again"


class Gallery:
    """The folder of masters."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        return folders(self.root, IMAGE_NAME)

    def versions(self, name: str) -> list[Version]:
        """All versions of an image that can be read, oldest first; the others are skipped by name."""
        folder = self.root / name
        found = sorted((v, p) for p in list_folder(folder) if (v := parse(p.name)) and not p.is_symlink())
        channels = channels_in(folder) if found else {}
        return [version for _, path in found if (version := self._usable(name, path, channels))]

    def damaged(self, name: str) -> list[RecordDamaged]:
        """The versions of an image that cannot be read, each with the reason."""
        found = []
        for path in list_folder(self.root / name):
            if parse(path.name) and not path.is_symlink():
                try:
                    self.read_manifest(name, path)
                except RecordDamaged as error:
                    found.append(error)
        return found

    def unknown(self, name: str) -> NotFound:
        """The error for an image that is not in the gallery, with the name that may be meant."""
        near = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.6)
        meant = f"did you mean {near[0]}? " if near else ""
        return NotFound(
            f"the gallery has no image {name}",
            name="gallery-unknown",
            hint=f"{meant}goldsmith gallery list shows all images; goldsmith build {name} makes a version",
        )

    def refuse_unknown(self, name: str) -> None:
        """Raise NotFound for an image that has no folder here; one that was only refused has one."""
        if name not in self.names():
            raise self.unknown(name)

    def _usable(self, name: str, path: Path, channels: Mapping[str, list[str]] | None = None) -> Version | None:
        """The version in a folder, None where there is none, or where it cannot be read: then it is named."""
        try:
            return self._load(name, path, channels)
        except RecordDamaged as error:
            skip(error)
            return None

    def _load(self, name: str, path: Path, channels: Mapping[str, list[str]] | None = None) -> Version | None:
        """The version in a folder, None where there is no such folder. Raises RecordDamaged.

        `channels` are those of the image's folder, for a caller who asks for many versions.
        """
        manifest = self.read_manifest(name, path)
        if manifest is None:
            return None
        if channels is None:
            channels = channels_in(path.parent)
        return Version(name, path.name, path, manifest, tuple(sorted(channels.get(path.name, ()))))

    def read_manifest(self, name: str, path: Path) -> dict[str, Any] | None:
        """The manifest of a version of this image, None where there is no such folder. Raises RecordDamaged."""
        try:
            manifest = manifest_of(path)
        except RecordDamaged:
            if not os.path.lexists(path):
                return None  # a version loses its name, in one rename, before its files go
            raise
        whose = (manifest["name"], manifest["version"])
        if whose != (name, path.name):
            raise RecordDamaged(path / MANIFEST, f"it belongs to {whose[0]} {whose[1]}", ManifestShape.advice())
        return manifest

    def find(self, name: str, which: str = GOLDEN) -> Version | None:
        """A version by its number or by a channel, or None; one that cannot be read is skipped by name."""
        return self._resolve(name, which, partial(self._usable, name))

    def _resolve(self, name: str, which: str, read: Callable[[Path], Version | None]) -> Version | None:
        """What `read` returns of the folder that is meant. It reads again where a channel has moved meanwhile.

        Otherwise a channel would seem to be missing whose old version is deleted right after it has moved on.
        """
        before = None
        while (path := self._path(name, which)) is not None and path != before:
            if (found := read(path)) is not None:
                return found
            before = path
        return None

    def _path(self, name: str, which: str) -> Path | None:
        """The folder that a version's number or a channel means, None where it means none."""
        folder = self.root / name
        if not IMAGE_NAME.fullmatch(name) or not (parse(which) or CHANNEL_NAME.fullmatch(which)):
            raise UsageError(
                f"{name}@{which} is not a valid reference", name="gallery-name", hint="NAME@VERSION or NAME@CHANNEL"
            )
        path = folder / which
        if target := target_of(path):
            path = folder / target
            return path if path.parent == folder and parse(path.name) else None
        if not parse(which) and is_no_link(path):
            raise RecordDamaged(
                path,
                "it has a channel's name, but is not a link to a version",
                f"move it away, then run goldsmith gallery promote {name}",
            )
        return path if parse(which) else None

    def get(self, reference: str) -> Version:
        """A version by NAME[@VERSION|CHANNEL]. Raises NotFound when there is none, RecordDamaged for a bad one."""
        name, _, which = reference.partition("@")
        found = self._resolve(name, which or GOLDEN, partial(self._load, name))
        if found is None:
            self.refuse_unknown(name)
            known = listed((v.version for v in self.versions(name)), newest=True) or "none"
            raise NotFound(
                f"the gallery has no {name}@{which or GOLDEN}",
                name="gallery-unknown",
                hint=f"versions of {name}: {known}; goldsmith build {name} makes one",
            )
        return found

    @contextlib.contextmanager
    def hold(self, name: str, *, make: bool = False, dry: bool = False) -> Iterator[Path]:
        """The image's folder, held against every other process, on other hosts too where the file system can.

        `make` makes the folder where there is none. With `dry` nothing is held: who only looks may have no right to
        write the lock. Raises GoldsmithError (gallery-locked) after TIMEOUT, UsageError
        where there is no such image, HostError where the lock cannot be had at all.
        """
        folder = self.root / name
        if dry:
            self.refuse_unknown(name)
            yield folder
            return
        while True:
            if make:
                folder.mkdir(parents=True, exist_ok=True)
            if not folder.is_dir():
                raise self.unknown(name)
            lock = FileLock(folder / LOCK, thread_local=False)
            try:
                locks.acquire(
                    lock,
                    f"a capture, import or promotion of {name}",
                    deadline=TIMEOUT,
                    name="gallery-locked",
                    runs=self.root.parent / "runs",
                )
            except OSError as error:
                if not folder.is_dir():
                    continue  # `clean` took the folder, which was empty
                named = describe_os_error(error)
                raise HostError(
                    f"{folder / LOCK} cannot be locked: {error.strerror}", name="gallery-locked", hint=named.hint
                ) from None
            if (folder / LOCK).exists():
                break
            lock.release()
        try:
            yield folder
        finally:
            lock.release()

    def drop_empty(self, name: str) -> bool:
        """Remove an image's folder in which there has never been a version. The caller holds it."""
        folder = self.root / name
        if {path.name for path in folder.iterdir()} - {LOCK}:
            return False
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        return True

    @contextlib.contextmanager
    def hold_now(self, name: str) -> Iterator[Path | None]:
        """As `hold`, but without waiting: None where somebody else holds the folder."""
        folder = self.root / name
        lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (Timeout, OSError):
            yield None
            return
        try:
            yield folder
        finally:
            lock.release()

    def promote(self, version: Version, channel: str = GOLDEN) -> None:
        """Point a channel at a version, atomically."""
        point(version.path.parent / channel, version.version)

    def refuse(self, name: str, facts: Mapping[str, object]) -> None:
        """Note why the newest candidate did not become a version: gate, run, disk. The next one forgets it."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        write_json(self.root / name / REFUSED, dict(facts))

    def refused(self, name: str) -> Mapping[str, Any] | None:
        """Why the newest candidate did not become a version; None where it did."""
        return read_usable(self.root / name / REFUSED, RefusedShape)

    def dismiss(self, name: str) -> None:
        """Forget why the newest candidate was refused; the folder of an image without a version goes, too."""
        with self.hold(name) as folder:
            remove_tree(folder / REFUSED)
            self.drop_empty(name)

    def reserve(self, name: str, numbers: Iterable[str]) -> None:
        """Give none of these numbers to a version of this gallery: the gallery that gets its versions has them."""
        with self.hold(name, make=True) as folder:
            (folder / RESERVED).mkdir(exist_ok=True)
            known = {path.name for path in list_folder(folder / RESERVED)}
            wanted = {number for number in numbers if parse(number)}
            for number in sorted(wanted - known):
                (folder / RESERVED / number).touch()
            for number in sorted(known - wanted):
                (folder / RESERVED / number).unlink()

    def given_numbers(self, name: str) -> list[str]:
        """The numbers of all versions of an image, also of those that are deleted."""
        folder = self.root / name
        paths = (*list_folder(folder), *list_folder(folder / TOMBSTONES))
        return sorted({number for path in paths if parse(number := path.name.removesuffix(".json"))})

    def capture(
        self,
        name: str,
        disks: Mapping[str, Path],
        extras: Iterable[tuple[str, Path]],
        manifest: Callable[[str], dict[str, Any]],
        complete: Callable[[Path, Path], None] = lambda _folder, _final: None,
    ) -> Version:
        """Make a version: its disks (hard links where it can be), extra files, its manifest; then one rename.

        `manifest` gets the version's number; `complete` gets the filled folder and what it will be called, and adds
        what follows from the rest. The image's folder is held meanwhile.
        """
        with self.hold(name, make=True) as folder:
            made = self.find(name, self._fill(folder, disks, extras, manifest, complete))
            remove_tree(folder / REFUSED)
        if made is None:
            raise GoldsmithError(
                f"{folder} does not contain the data that was written to it",
                name="capture-failed",
                hint="check the gallery with goldsmith gallery verify, and the kernel's messages about the disk "
                "with dmesg",
            )
        return made

    def _fill(
        self,
        folder: Path,
        disks: Mapping[str, Path],
        extras: Iterable[tuple[str, Path]],
        manifest: Callable[[str], dict[str, Any]],
        complete: Callable[[Path, Path], None],
    ) -> str:
        self.sweep(folder.name)
        # a number is given once: what has gone left its tombstone
        places = (*list_folder(folder), *list_folder(folder / TOMBSTONES), *list_folder(folder / RESERVED))
        taken = [path.name.removesuffix(".json") for path in places]
        version = next_version(taken, datetime.now(UTC).date())
        scratch = folder / f"{NEW}{version}"
        scratch.mkdir()
        try:
            for target, source in disks.items():
                place(source, scratch / target)
            for target, source in extras:
                copy = scratch / target
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                copy.chmod(mode_of(target))
            write_json(scratch / MANIFEST, manifest(version))
            (scratch / MANIFEST).chmod(0o444)
            complete(scratch, folder / version)
            manifest_of(scratch)  # what cannot be read again must not become a version
            sync_tree(scratch)
            scratch.rename(folder / version)
        except BaseException:
            remove_tree(scratch)
            raise
        sync_folder(folder)
        return version

    def sweep(self, name: str) -> None:
        """Remove what a dead capture of this image left. The caller holds the folder."""
        folder = self.root / name
        for path in list_folder(folder, f"{NEW}*"):
            if path.is_symlink():
                path.unlink()
            else:
                remove_tree(path)


def place(source: Path, target: Path) -> None:
    """Bring a read-only file to another folder: a hard link, else a sparse copy."""
    try:
        os.link(source, target)
    except OSError:
        from pipeline.base import process

        process.run(["cp", "--sparse=always", "--reflink=auto", source, target], deadline=3600)
        target.chmod(0o444)
