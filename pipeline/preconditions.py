"""What a definition needs of the store, of this host and of the archive, looked at before anything is started.

A definition that reads well may still name a check, a master, a suite or a package that does not exist, or ask for
more than this host has. Each is a fault at its line, as the definition's own faults are. What cannot be looked at
here (no store, an archive that does not answer) is no fault: the build finds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.definition import (
    DebianSource,
    Definition,
    DefinitionError,
    DiskSource,
    Fault,
    MasterSource,
    load,
    read_places,
)
from pipeline.definition.document import Document
from pipeline.definition.faults import closest
from pipeline.definition.load import IMAGES
from pipeline.errors import BuildError, DiskError
from pipeline.gallery import GOLDEN, Gallery
from pipeline.guests import archive
from pipeline.store import Store

GIB = 1 << 30
#: Suites and package lists in the store's own scratch: `packages-SUITE.txt`.
_CACHE = "packages"


def check_preconditions(definitions: Sequence[Definition], store: Store) -> dict[Path, tuple[Fault, ...]]:
    """The faults of each definition, by its path; one without faults is not in it."""
    looker = _Looker(store)
    found = {definition.path: looker.faults(definition) for definition in definitions}
    return {path: faults for path, faults in found.items() if faults}


def require_preconditions(definitions: Sequence[Definition], store: Store) -> None:
    """Raise DefinitionError with the faults that `check_preconditions` finds."""
    found = check_preconditions(definitions, store)
    if found:
        raise DefinitionError([fault for faults in found.values() for fault in faults])


class _Looker:
    """Looks each thing up once, however many definitions name it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._gallery = Gallery(store.gallery) if store.gallery.is_dir() else None
        self._packages: dict[str, frozenset[str] | None] = {}

    def faults(self, definition: Definition) -> tuple[Fault, ...]:
        place = read_places(definition.path, definition.project)
        looks: tuple[Callable[[Definition, Document], None], ...] = (
            self._waivers,
            self._host,
            self._master,
            self._disk,
            self._archive,
        )
        place.faults.clear()
        for look in looks:
            look(definition, place)
        return tuple(sorted(place.faults, key=lambda fault: (fault.line, fault.column)))

    def _waivers(self, definition: Definition, document: Document) -> None:
        if not definition.waive:
            return
        # the checks bring every reader of disks with them: loaded where they are asked for
        from pipeline.checks import all_checks

        profile = "azure-windows" if definition.os == "windows" else "azure-linux"
        names = [check.id for check in all_checks()]
        asked = {check.id for check in all_checks(profile)}
        for name in definition.waive:
            if name.startswith("data-disk-"):
                continue
            if name not in names:
                hint = closest(name, asked) or "goldsmith checks lists all checks"
                document.add(("waive", name), f"there is no check {name}", hint, at_key=True)
            elif name not in asked:
                hint = f"goldsmith checks --profile {profile} lists those that look at it; remove the line"
                document.add(("waive", name), f"the check {name} does not look at this image", hint, at_key=True)

    def _host(self, definition: Definition, document: Document) -> None:
        cpus, memory = len(os.sched_getaffinity(0)), _host_memory()
        machine = definition.machine
        if machine.cpus > cpus and ("machine", "cpus") in document.values:
            message = f"{machine.cpus} processors are more than this host has ({cpus})"
            document.add(("machine", "cpus"), message, f"write cpus: {cpus} or fewer")
        if machine.memory > memory:
            message = f"{_size(machine.memory)} of memory are more than this host has ({_size(memory)})"
            document.add(("machine", "memory"), message, f"write memory: {max(1, memory // GIB - 1)} GiB or less")

    def _master(self, definition: Definition, document: Document) -> None:
        source = definition.source
        if not isinstance(source, MasterSource):
            return
        version = None
        if self._gallery is not None:
            version = self._gallery.find(source.image, source.channel_or_version)
        size = int(version.manifest["disk"]["virtual_size"]) if version else None
        system = str(version.manifest.get("os", "linux")) if version else None
        if version is None:
            beside = definition.project / IMAGES / f"{source.image}.yaml"
            if not beside.is_file() or source.channel_or_version != GOLDEN:
                self._no_master(definition, document, source)
                return
            # a build makes the parent first; the parent's own faults are told as its own
            with suppress(DefinitionError):
                parent = load(beside, definition.project)
                size, system = parent.disk, parent.os
        if size is not None and definition.disk is not None and definition.disk < size:
            message = f"{_size(definition.disk)} are less than the {_size(size)} of {source}"
            document.add(("disk",), message, f"write disk: {_size(size)} or more, or leave it out")
        if system is not None and system != definition.os:
            document.add(("source", "master"), f"{source} is a {system} image", f"write os: {system}")

    def _no_master(self, definition: Definition, document: Document, source: MasterSource) -> None:
        if self._gallery is None:
            return
        made_here = {path.stem for path in (definition.project / IMAGES).glob("*.yaml")}
        versions = self._gallery.versions(source.image)
        if versions:
            channels = sorted({channel for version in versions for channel in version.channels})
            there = [*channels, *(version.version for version in versions[-3:])]
            hint = closest(source.channel_or_version, there) or f"there is {source.image}@{', @'.join(there)}"
        elif source.image in made_here:
            hint = f"write {source.image}: only golden is built on the way"
        else:
            near = closest(source.image, {*made_here, *self._gallery.names()})
            hint = near or "goldsmith gallery list shows what there is; build it, or import it, first"
        message = f"{source} is not in the gallery {self._store.gallery}"
        document.add(("source", "master"), message, hint)

    def _disk(self, definition: Definition, document: Document) -> None:
        source = definition.source
        if not isinstance(source, DiskSource) or source.path is None:
            return
        from pipeline.offline import mapping

        try:
            found = mapping.detect(source.path, named=False)
            if found != {"vhd": "vpc"}.get(source.format, source.format):
                name = {"vpc": "vhd"}.get(found, found)
                message = f"{source.path.name} is a {name} disk, not {source.format}"
                document.add(("source", "disk", "format"), message, f"write format: {name}")
                return
            if definition.disk is not None:
                with mapping.open_source(source.path, found) as disk:
                    size = disk.size
                if definition.disk < size:
                    message = f"{_size(definition.disk)} are less than the {_size(size)} of {source.path.name}"
                    document.add(("disk",), message, f"write disk: {_size(size)} or more, or leave it out")
        except DiskError as error:
            document.add(("source", "disk", "path"), f"{error.message} ({error.name})", error.hint or "")

    def _archive(self, definition: Definition, document: Document) -> None:
        source = definition.source
        if not isinstance(source, DebianSource):
            return
        try:
            if source.suite not in self._packages:
                self._packages[source.suite] = archive.known_packages(source.suite, self._store.root / _CACHE)
        except BuildError as error:
            document.add(("source", "debian", "suite"), error.message, error.hint or "")
            return
        known = self._packages[source.suite]
        for number, package in enumerate(source.packages if known else ()):
            if known and package not in known:
                near = closest(package, _alike(package, known)) or "apt-cache search finds packages by a word"
                message = f"{source.suite} has no package {package}"
                document.add(("source", "debian", "packages", number), message, near)


def _alike(word: str, names: frozenset[str]) -> Iterator[str]:
    """Names that may be a slip of `word`: comparing sixty thousand takes seconds."""
    near = (name for name in names if abs(len(name) - len(word)) <= 2)
    return (name for name in near if name[0] == word[0] or name[1:2] == word[1:2])


def _host_memory() -> int:
    """Bytes of memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: int) -> str:
    """As a definition writes it: whole GiB or MiB."""
    return f"{count // GIB} GiB" if count % GIB == 0 else f"{-(-count // (1 << 20))} MiB"
