"""A folder of named records, each in a folder of its own: VMs, disks, sets.

`ROOT/NAME/record.json` is rewritten whole at each change by the holder of the name's lock. A folder gets its name in
one rename when it is whole, and loses it in one rename before it is removed: what an interrupted command leaves
begins with `NEW` or `GONE`.
"""

from __future__ import annotations

import contextlib
import difflib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout

from pipeline.base.errors import NotFound
from pipeline.base.files import RecordDamaged, Shape, read_json, remove_tree, skip, sync_folder, write_json
from pipeline.base.names import INSTANCE_NAME, folders

RECORD = "record.json"
#: The beginnings of the name of a record's folder while it is made, and while it is removed.
NEW, GONE = ".new-", ".gone-"
#: The folder of locks, which outlive the folders that they guard.
LOCKS = ".locks"


class Named(Protocol):
    """A record: it has a name and can be written as JSON."""

    @property
    def name(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Named)


class NamedRecords(Generic[R]):
    """The records of one kind. A subclass says what they are: `shape` is the record as a file."""

    shape: ClassVar[type[Shape]]

    def __init__(self, root: Path) -> None:
        self.root = root

    def from_json(self, data: Mapping[str, Any]) -> R:
        """The record of a file that has the shape."""
        raise NotImplementedError

    def check_name(self, name: str) -> None:
        """Raise UsageError for an invalid name."""
        raise NotImplementedError

    def unknown(self, name: str, meant: str) -> NotFound:
        """The error for a name without a record; `meant` begins its hint."""
        raise NotImplementedError

    def acquire(self, lock: FileLock, name: str) -> None:
        """Wait for the lock of a name. Raises BuildError after a deadline."""
        raise NotImplementedError

    # ---- reading -------------------------------------------------------------------------------------------------

    def folder(self, name: str) -> Path:
        return self.root / name

    def names(self) -> list[str]:
        return folders(self.root, INSTANCE_NAME)

    def all(self) -> list[R]:
        """All records that can be read, by name; the others are skipped by name."""
        found = []
        for name in self.names():
            try:
                record = self.find(name)
            except RecordDamaged as error:
                skip(error)
                continue
            found += [record] if record is not None else []
        return found

    def find(self, name: str) -> R | None:
        """A record, None where there is none. Raises RecordDamaged."""
        if not INSTANCE_NAME.fullmatch(name):
            return None
        path = self.folder(name) / RECORD
        data = read_json(path, self.shape)
        if data is not None and data["name"] != name:
            raise RecordDamaged(path, f"it is the record of {data['name']}", self.shape.advice())
        return None if data is None else self.from_json(data)

    def get(self, name: str) -> R:
        """A record. Raises NotFound, as `unknown` makes it, and RecordDamaged."""
        found = self.find(name)
        if found is None:
            near = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.6)
            meant = f"did you mean {near[0]}? " if near else ""
            raise self.unknown(name, meant)
        return found

    # ---- writing -------------------------------------------------------------------------------------------------

    def save(self, record: R) -> R:
        """Write a record that exists. The caller holds it."""
        write_json(self.folder(record.name) / RECORD, record.to_json())
        return record

    def read_file(self, name: str, file: str) -> bytes:
        """A file beside a record; empty where there is none."""
        try:
            return (self.folder(name) / file).read_bytes()
        except FileNotFoundError:
            return b""

    def write_file(self, name: str, file: str, data: bytes) -> None:
        """Replace a file beside a record, 0600, in one rename; without data there is none then. The caller holds it.

        Its temporary file is in the folder, and goes with it.
        """
        path = self.folder(name) / file
        if not data:
            path.unlink(missing_ok=True)
        else:
            scratch = path.with_name(f".{file}.{secrets.token_hex(4)}")
            scratch.touch(mode=0o600)
            scratch.write_bytes(data)
            scratch.rename(path)
        sync_folder(path.parent)

    def draft(self, record: R, files: Mapping[str, bytes] | None = None, *, mode: int | None = None) -> Path:
        """Make the folder of a new record, with it and these files, 0600; `finish` names it. The caller holds it.

        `mode`: of the folder, where others than its owner need it.
        """
        folder = self.root / f"{NEW}{record.name}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        if mode is not None:
            folder.chmod(mode)
        for name, data in (files or {}).items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(data)
        write_json(folder / RECORD, record.to_json())
        return folder

    def finish(self, folder: Path, record: R) -> R:
        """Give a finished folder its name, in one rename. The caller holds the record."""
        folder.rename(self.folder(record.name))
        sync_folder(self.root)
        return record

    def unname(self, name: str) -> Path:
        """Take its name from a folder, in one rename; the caller removes what is returned, and holds the record."""
        scratch = self.root / f"{GONE}{name}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            self.folder(name).rename(scratch)
            sync_folder(self.root)
        return scratch

    def leftovers(self) -> list[Path]:
        """What interrupted commands left, and what commands that run now are making or removing."""
        return sorted((*self.root.glob(f"{NEW}*"), *self.root.glob(f"{GONE}*"))) if self.root.is_dir() else []

    def sweep(self, *, dry: bool = False) -> list[str]:
        """Remove what interrupted commands left; the names. The caller keeps others from making or removing any."""
        gone = self.leftovers()
        for path in gone if not dry else ():
            remove_tree(path)
        return [path.name for path in gone]

    # ---- locks ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keep every other command from changing a record. Raises as `check_name` and `acquire` do."""
        self.check_name(name)
        lock = FileLock(self.lock_file(f"{name}.lock"), thread_local=False)
        self.acquire(lock, name)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def hold_now(self, name: str) -> Iterator[bool]:
        """As `hold`, but without waiting: False if another command holds the lock."""
        lock = FileLock(self.lock_file(f"{name}.lock"), timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (Timeout, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def lock_file(self, file: str) -> Path:
        """A file of the folder of locks, which is made."""
        (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
        return self.root / LOCKS / file
