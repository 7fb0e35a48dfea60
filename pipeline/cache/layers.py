"""Content-keyed layers: what a stage made, kept under the digest of all that went into it.

A layer's files are written at the key's own path, because the next overlay's header names that path and it must
never move. It becomes a layer when its record is renamed into place, after fsync; without a record it is scratch,
which the next run sweeps once nobody holds its lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import AfterValidator, Field

from pipeline.base import locks
from pipeline.base.disk_format import DiskFormat, find_format, known_format
from pipeline.base.files import RecordDamaged, Shape, read_json, read_usable, skip
from pipeline.base.runs import now, remove_tree, sync_folder, write_json
from pipeline.cache.digests import chunk_digests

RECORD = "record.json"
LOCK = ".lock"
#: Touched when a layer's files were found to be what was committed.
CHECKED = ".checked"
DISK = "disk.qcow2"
#: The stage in the record of a layer that is a guest's memory with its disk, and the lock of the process that runs
#: that guest.
SNAPSHOT, SNAPSHOT_LOCK = "warm", "use.lock"

#: Seconds for which a layer that was hashed is believed; every night hashes again. Until then its files' sizes and
#: times have to be those of the commit.
BELIEVED = 20 * 3600.0
#: Seconds to wait for another build that is making the very same layer: an installation of Windows takes hours.
TIMEOUT = 4 * 3600.0


def digest(data: object) -> str:
    """sha256 of the canonical JSON of `data`."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def layer_key(stage: str, version: int, inputs: Mapping[str, object], source: str | None) -> str:
    """The key of what `stage` makes: 32 hex digits over its name, version, inputs and its source's key."""
    return digest({"stage": stage, "version": version, "inputs": inputs, "source": source})[:32]


@dataclass(frozen=True)
class Image:
    """A disk file, its format, and what it stands on, each level with its format stated.

    `size`: of a file with a footer, such as a fixed VHD, the bytes of the disk, which are the file without it.
    `data`: of an OS disk, the data disks that go with it, by LUN.
    """

    path: Path
    format: DiskFormat
    backing: Image | None = None
    size: int | None = None
    data: tuple[tuple[int, Image], ...] = ()

    @property
    def chain(self) -> tuple[Image, ...]:
        """This image and all below it, top first; data disks are not among them."""
        return (self, *(self.backing.chain if self.backing else ()))

    @property
    def below(self) -> tuple[Image, ...]:
        """All that this image and its data disks stand on."""
        return tuple(level for top in (self, *(image for _, image in self.data)) for level in top.chain[1:])

    @property
    def files(self) -> tuple[Image, ...]:
        """All that must be there for it to be used: itself, its data disks, and what they stand on."""
        return (self, *(image for _, image in self.data), *self.below)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "format": self.format.key,
            "backing": self.backing.to_json() if self.backing else None,
            "size": self.size,
            **({"data": [[lun, image.to_json()] for lun, image in self.data]} if self.data else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Image:
        below = data.get("backing")
        return cls(
            Path(data["path"]),
            known_format(str(data["format"])),
            cls.from_json(below) if below else None,
            data.get("size"),
            tuple((int(lun), cls.from_json(image)) for lun, image in data.get("data", ())),
        )


def _format_key(text: str) -> str:
    if find_format(text) is None:
        raise ValueError("not a disk format that this goldsmith knows")
    return text


class ImageShape(Shape):
    """`Image.to_json`."""

    path: str
    format: Annotated[str, AfterValidator(_format_key)]
    backing: ImageShape | None = None
    size: int | None = None
    data: list[Annotated[tuple[int, ImageShape], Field(strict=False)]] = Field(default_factory=list)


class _Facts(Shape):
    """What a stage found out, as far as other stages, and the engine, use it."""

    suite: str | None = None
    version: str | None = None
    trees: dict[str, str] | None = None
    rearms_left: int | None = None
    checks: list[dict[str, Any]] = Field(default_factory=list)
    cells: dict[str, Any] = Field(default_factory=dict)


class LayerShape(Shape):
    """The record of a layer."""

    key: str
    stage: str
    created: str
    inputs: dict[str, Any]
    source: str | None
    image: ImageShape | None
    seals: dict[str, Annotated[tuple[int, int, str], Field(strict=False)]] = Field(default_factory=dict)
    title: str | None = None
    name: str | None = None
    version: int | None = None
    seconds: float | None = None
    facts: _Facts = _Facts()

    @classmethod
    def advice(cls) -> str:
        return "the layer is not used, and the next build makes it again"


@dataclass(frozen=True)
class Layer:
    """A committed layer; its files are read-only."""

    key: str
    path: Path
    record: Mapping[str, Any]

    @property
    def image(self) -> Image:
        return Image.from_json(self.record["image"])

    @property
    def facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.record.get("facts", {})
        return facts

    def changed(self) -> str:
        """What is not as it was committed, or nothing. Reads all data at most once in BELIEVED seconds.

        Layers that were committed before they were sealed are taken as they are.
        """
        seals: Mapping[str, list[Any]] = self.record.get("seals", {})
        try:
            fresh = time.time() - (self.path / CHECKED).stat().st_mtime < BELIEVED
        except FileNotFoundError:
            fresh = False
        for name, (size, mtime, tree) in seals.items():
            path = self.path / name
            try:
                status = path.stat()
                if (status.st_size, status.st_mtime_ns) != (size, mtime):
                    return f"{path} has been modified"
                if not fresh and chunk_digests(path).tree != tree:
                    return f"{path} is damaged"
            except OSError as error:
                return f"{path} cannot be read: {error.strerror}"
        if seals and not fresh:
            with contextlib.suppress(OSError):
                (self.path / CHECKED).touch()
        return ""

    def mark_used(self) -> None:
        """Note that the layer was used now; what was not for longest is pruned first."""
        with contextlib.suppress(OSError):
            os.utime(self.path / RECORD)


class PendingLayer:
    """A layer in the making: its folder, and its lock held until it is committed or discarded."""

    def __init__(self, key: str, path: Path, lock: FileLock) -> None:
        self.key = key
        self.path = path
        self._lock = lock

    def commit(
        self, *, stage: str, inputs: Mapping[str, object], source: str | None, image: Image | None, **rest: object
    ) -> Layer:
        """Make the files read-only and durable, then rename the record into place."""
        seals = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_file() and path.name != LOCK:
                seals[path.relative_to(self.path).as_posix()] = make_durable(path)
        seals |= {str(path): _checksum(path) for path in self._masters(image)}
        (self.path / CHECKED).touch()
        record = {
            "key": self.key,
            "stage": stage,
            "created": now(),
            "inputs": dict(inputs),
            "source": source,
            "image": image.to_json() if image else None,
            "seals": seals,
            **rest,
        }
        write_json(self.path / RECORD, record)
        self._release()
        sync_folder(self.path.parent)
        return Layer(self.key, self.path, record)

    def _masters(self, image: Image | None) -> list[Path]:
        """Disks outside of the store of layers that this layer is the first to stand on."""
        made = (image, *(disk for _, disk in image.data)) if image else ()
        below = [top.backing for top in made if top.backing and top.path.parent == self.path]
        return [level.path for level in below if level.path.parent.parent != self.path.parent and level.path.exists()]

    def discard(self) -> None:
        remove_tree(self.path)
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / LOCK).unlink()
        self._lock.release()


def _checksum(path: Path) -> list[object]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, chunk_digests(path).tree]


def make_durable(path: Path) -> list[object]:
    """Give a finished file back to us, read-only, and bring it to the disk; its seal is taken meanwhile."""
    if os.geteuid() == 0 and path.stat().st_uid != 0:
        os.chown(path, 0, 0)
    path.chmod(0o444)
    with ThreadPoolExecutor(1) as pool:
        sealing = pool.submit(_checksum, path)
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return sealing.result()


class Layers:
    """The folder of layers."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> Layer | None:
        """The committed layer of this key whose files are all there, or None."""
        folder = self.root / key
        try:
            record = read_json(folder / RECORD, LayerShape)
            if record is None:
                return None
            image = Image.from_json(record["image"]) if record["image"] else None
            if record["key"] != key or any("\0" in str(level.path) for level in (image.files if image else ())):
                raise RecordDamaged(folder / RECORD, f"it is not that of layer {key}", LayerShape.advice())
        except RecordDamaged as error:
            skip(error)
            return None
        if image and not all(level.path.exists() for level in image.files):
            return None
        return Layer(key, folder, record)

    def begin(self, key: str) -> PendingLayer | Layer:
        """A draft to fill, or the layer itself if another build committed it while we waited for its lock.

        Raises BuildError when the other build is not done within TIMEOUT.
        """
        folder = self.root / key
        while True:
            if layer := self.get(key):
                return layer
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK, thread_local=False)
            try:
                locks.acquire(
                    lock,
                    f"another build of the layer {key[:12]}",
                    deadline=TIMEOUT,
                    name="layer-locked",
                    runs=self.root.parent / "runs",
                )
            except FileNotFoundError:
                continue  # a sweep took the folder between mkdir and lock
            if layer := self.get(key):
                lock.release()
                return layer
            if not (folder / LOCK).exists():
                lock.release()
                continue  # swept, or committed and dropped, while we waited
            for path in folder.iterdir():
                if path.name != LOCK:
                    remove_tree(path)
            folder.chmod(0o755)  # libvirt's qemu user searches it
            return PendingLayer(key, folder, lock)

    def drop(self, key: str) -> None:
        """Forget a layer: the record first, so that a crash leaves scratch and never half a layer."""
        remove_tree(self.root / key / RECORD)
        remove_tree(self.root / key)

    def all(self) -> Iterator[Layer]:
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if layer := self.get(folder.name):
                yield layer

    def of_image(self, name: str) -> list[Layer]:
        """The committed layers that were made for an image."""
        return [layer for layer in self.all() if layer.record.get("name") == name]

    def sweep(self, *, dry: bool = False, useless: bool = False) -> list[str]:
        """Remove scratch that nobody fills; the keys removed. Each under its own lock: nobody begins it meanwhile.

        With `useless` also layers with a missing file, such as a master that was removed: no build can use them.
        """

        def goes(folder: Path) -> bool:
            return not (folder / RECORD).exists() or (useless and self._lacks_file(folder.name))

        swept = []
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if not folder.is_dir() or not goes(folder):
                continue
            lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except (Timeout, OSError):
                continue  # somebody fills it, or it is gone
            try:
                if goes(folder):
                    if not dry:
                        self.drop(folder.name)
                    swept.append(folder.name)
            finally:
                lock.release()
        return swept

    def _lacks_file(self, key: str) -> bool:
        """Whether a layer's record can be read and names a file that was removed.

        An image's whole folder that is missing was not removed, but may be on a file system that is not mounted.
        """
        record = read_usable(self.root / key / RECORD, LayerShape)
        if record is None or not record["image"]:
            return False
        paths = [level.path for level in Image.from_json(record["image"]).files]
        return any(not path.exists() and path.parent.parent.is_dir() for path in paths)

    def keys(self) -> list[str]:
        """The keys of all committed layers, also of those that cannot be used."""
        return [path.parent.name for path in sorted(self.root.glob(f"*/{RECORD}"))]


class ListedLayers(Layers):
    """The folder of layers, whose records are listed once: for a caller that plans many images and builds none."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._by_image: dict[object, list[Layer]] | None = None

    def of_image(self, name: str) -> list[Layer]:
        if self._by_image is None:
            self._by_image = {}
            for layer in self.all():
                self._by_image.setdefault(layer.record.get("name"), []).append(layer)
        return self._by_image.get(name, [])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
