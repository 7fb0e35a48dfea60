"""Versions in a folder, for a file server or a medium: each as `goldsmith gallery export` writes it, and an index.

Disks are reflinks where the file system has them, else sparse copies; never hard links, because a change of the file
in the folder would change the master.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.base.errors import HostError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import regular_files, remove_tree, sync_folder
from pipeline.base.runs import now
from pipeline.gallery import Version, disks_of
from pipeline.gallery.export_import import SUMS, export
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish import index as indexes
from pipeline.publish.errors import Conflict, PublishError
from pipeline.publish.index import Index, parse_index
from pipeline.publish.source import SourceDisk
from pipeline.publish.transfer import Follower, OnProgress, ignore_progress
from pipeline.publish.uploader import DiskPlan, Plan, Sent, folder_of

_LOCK = ".lock"


class FolderUploader:
    """Publishes to one folder."""

    def __init__(self, root: Path, on_progress: OnProgress = ignore_progress) -> None:
        self.root = root
        self._on_progress = on_progress
        self.sent: list[Sent] = []

    def close(self) -> None:
        """No lock is held between two calls."""

    def check(self, version: Version, disks: list[SourceDisk]) -> Plan:
        index = read_index(self.root, version.name)
        entry, tree = index.find(version.version), tree_of_disk(version.manifest["disk"])
        if entry is not None and entry["tree"] != tree:
            raise PublishError(
                f"{self.root} has another {version.name} {version.version}",
                name="publish-version-exists",
                hint="two hosts have made versions of the same name; rename one of the images",
            )
        why = "a folder gets whole disks"
        planned = () if entry else tuple(DiskPlan(d.file, d.size, _allocated(d.path), 0, None, why) for d in disks)
        return Plan(version.name, version.version, folder_of(version), entry is not None, planned, index)

    def upload(self, version: Version, disks: list[SourceDisk], plan: Plan) -> Mapping[str, Any]:
        target = self.root / plan.folder
        with self._held(plan.name):
            # a publisher that died before the registration leaves a folder that the index does not name
            current = read_index(self.root, plan.name)
            if target.exists() and not any(each["folder"] == plan.folder for each in current.versions):
                remove_tree(target)
            export(version, target, progress=Follower(self._on_progress))
        names = disks_of(version.manifest)
        lines = (target / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        files = [name for name in regular_files(target)[0] if name not in names]
        self.sent = [Sent(disk.file, "", None, "", _allocated(disk.path), 0, 0, disk.size) for disk in disks]
        return {
            "version": version.version,
            "tree": tree_of_disk(version.manifest["disk"]),
            "folder": plan.folder,
            "published": now(),
            "disks": [
                {
                    "file": disk.file,
                    "size": disk.size,
                    "tree_sha256": disk.tree,
                    "etag": None,
                    "base": None,
                    "why": "",
                    "digests": None,
                }
                for disk in disks
            ],
            "files": [
                {
                    "file": name,
                    "stored": name,
                    "size": (target / name).stat().st_size,
                    "sha256": sums.get(name) or hashlib.sha256((target / name).read_bytes()).hexdigest(),
                }
                for name in files
            ],
        }

    def register(self, plan: Plan, entry: Mapping[str, Any]) -> None:
        switch_index(self.root, plan.index.with_version(entry), f"{plan.name} {plan.version}")

    @contextmanager
    def _held(self, image: str) -> Iterator[None]:
        with hold(self.root, image):
            yield


@contextmanager
def hold(root: Path, image: str) -> Iterator[None]:
    """Lock an image's folder of a target against other publishers while a version is copied."""
    try:
        (root / image).mkdir(parents=True, exist_ok=True)
        fd = os.open(root / image / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise HostError(
            f"cannot write to {root}: {error.strerror}", name="cannot-write", hint=describe_os_error(error).hint
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                f"another publisher writes to {root / image}", name="publish-busy", hint="wait until it ends"
            ) from None
        yield
    finally:
        os.close(fd)


def read_index(root: Path, image: str) -> Index:
    """The index of an image in a folder; its ETag is the digest of its bytes. Raises PublishError."""
    path = root / image / indexes.FILE
    text = _text_of(path)
    if text is None:
        return Index(image)
    return parse_index(image, text, hashlib.sha256(text).hexdigest(), str(path))


def _text_of(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}", name="cannot-read", hint=describe_os_error(error).hint
        ) from None
    with os.fdopen(fd, "rb") as file:
        return file.read(indexes.LIMIT)


def switch_index(root: Path, index: Index, what: str) -> None:
    """Write an index if it is unchanged since it was read. Raises Conflict (publish-conflict)."""
    with hold(root, index.image):
        there = read_index(root, index.image)
        if there.etag != index.etag:
            newest = there.newest
            raise Conflict(
                f"another publisher has changed the index of {index.image} since it was read: its newest version "
                f"is {newest['version'] if newest else 'none'}; {what} was not published",
                name="publish-conflict",
                hint="goldsmith publish show shows the target; push again",
            )
        path = root / index.image / indexes.FILE
        draft = path.with_name(f".{indexes.FILE}.{os.getpid()}")
        with draft.open("wb") as file:
            file.write(index.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(path.parent)


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512
