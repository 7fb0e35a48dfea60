"""Disk formats, one row each: what a disk image, a manifest and the gallery say of a format comes from here.

A format is registered by its name. The first rows are those that goldsmith reads; a row with a writer can be shipped
too. A format of one's own is a module that calls `register`, and whose functions write and verify its files: no other
module has to know of it. The process that reads disks imports that module before it gives up its rights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DiskFormat:
    """One format.

    `name` is what definitions, options and messages call it, `title` what people do, `output_title` what a manifest
    says of a disk that was shipped in it. `driver` is QEMU's name of it.

    `key` is what layers' records and readers call it: those of older versions have QEMU's names.

    `suffix` is the end of a file's name; `other_suffixes` promise the format too. `trailing`: the bytes of the file
    behind the disk's data, where the file holds the disk byte for byte and then a footer.

    `writer` and `verifier` are `module:function`, of the shapes `pipeline.vhd.output.Writer` and `verify`; without
    them nothing is shipped in the format.
    """

    name: str
    driver: str
    suffix: str
    title: str = ""
    output_title: str = ""
    key: str = ""
    other_suffixes: tuple[str, ...] = ()
    trailing: int = 0
    writer: str = ""
    verifier: str = ""

    def __post_init__(self) -> None:
        for field, default in (("title", self.name), ("key", self.name), ("output_title", self.title or self.name)):
            if not getattr(self, field):
                object.__setattr__(self, field, default)

    @property
    def is_flat(self) -> bool:
        """Whether a file of it can be the disk's bytes as they are, followed by `trailing` bytes."""
        return self.driver == "raw" or self.trailing > 0

    def verify(self, path: Path) -> int:
        """How many bytes the disk in a finished file has. Raises DiskError where the file is not whole."""
        found: Callable[[Path], int] = load(self.verifier)
        return found(path)

    @property
    def is_output(self) -> bool:
        """Whether masters can be shipped in it."""
        return bool(self.writer)


def load(where: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, name = where.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


_ROWS: dict[str, DiskFormat] = {}
_BY_KEY: dict[str, DiskFormat] = {}
#: Modules that registered a format of their own.
_MODULES: set[str] = set()


def register(row: DiskFormat) -> DiskFormat:
    """Add a format. Its writer's module is imported wherever disks are read, so that module must call this.

    Raises ValueError for a name, key or suffix that another format has.
    """
    if _ROWS.get(row.name) == row:
        return row
    suffixes = {suffix for each in _ROWS.values() for suffix in (each.suffix, *each.other_suffixes)}
    taken = {*_ROWS, *_BY_KEY, *suffixes} & {row.name, row.key, row.suffix, *row.other_suffixes}
    if taken:
        raise ValueError(f"another disk format has {', '.join(sorted(taken))}")
    _ROWS[row.name] = _BY_KEY[row.key] = row
    if row.writer:
        _MODULES.add(row.writer.partition(":")[0])
    return row


def unregister(row: DiskFormat) -> None:
    """Remove a format that `register` added."""
    _ROWS.pop(row.name, None)
    _BY_KEY.pop(row.key, None)
    _MODULES.discard(row.writer.partition(":")[0])


def formats() -> tuple[DiskFormat, ...]:
    """All formats, in the order in which they were registered."""
    return tuple(_ROWS.values())


def output_formats() -> tuple[DiskFormat, ...]:
    """The formats that masters can be shipped in."""
    return tuple(row for row in _ROWS.values() if row.is_output)


def own_formats() -> tuple[DiskFormat, ...]:
    """The formats that modules outside of this one registered."""
    return tuple(row for row in _ROWS.values() if row.writer.partition(":")[0] in _MODULES)


def find_format(word: str) -> DiskFormat | None:
    """The format of that name or key, in any case; None where there is none."""
    return _ROWS.get(word.lower()) or _BY_KEY.get(word.lower())


def known_format(word: str) -> DiskFormat:
    """The format of that name or key. Raises KeyError: only for words that goldsmith itself has written."""
    row = find_format(word)
    if row is None:
        raise KeyError(word)
    return row


def by_output_title(title: str) -> DiskFormat | None:
    """The format that a manifest names; None where there is none."""
    return next((row for row in _ROWS.values() if row.is_output and row.output_title == title), None)


def by_suffix(rows: Iterable[DiskFormat] | None = None) -> Mapping[str, DiskFormat]:
    """Formats by the ends of names that promise them; `rows` are all by default."""
    found = _ROWS.values() if rows is None else rows
    return {suffix: row for row in found for suffix in (row.suffix, *row.other_suffixes)}


def modules() -> list[str]:
    """The modules that registered formats of their own, for a process that reads such disks to import."""
    return sorted(_MODULES)


RAW = register(DiskFormat("raw", driver="raw", suffix=".raw", other_suffixes=(".dd",)))
QCOW2 = register(DiskFormat("qcow2", driver="qcow2", suffix=".qcow2", other_suffixes=(".qcow",)))
#: A VHD of any type is read; shipped is the fixed one, whose footer has 512 bytes.
VHD = register(
    DiskFormat(
        "vhd",
        driver="vpc",
        key="vpc",
        suffix=".vhd",
        other_suffixes=(".vpc", ".avhd"),
        title="VHD",
        output_title="fixed VHD",
        trailing=512,
        writer="pipeline.vhd.output:write_fixed_vhd",
        verifier="pipeline.vhd.output:verify_fixed_vhd",
    )
)
VHDX = register(DiskFormat("vhdx", driver="vhdx", suffix=".vhdx", other_suffixes=(".avhdx",), title="VHDX"))
VMDK = register(DiskFormat("vmdk", driver="vmdk", suffix=".vmdk", title="VMDK"))
#: Ends of names of compressed files that goldsmith unpacks.
PACKED_SUFFIXES = (".xz", ".gz", ".bz2", ".zst", ".lz4", ".lzma")
#: What masters are shipped in, unless their definition says otherwise.
DEFAULT_OUTPUT = VHD
_MODULES.clear()  # goldsmith's own rows are known wherever this module is
