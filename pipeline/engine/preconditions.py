"""What a definition needs of the store, of this host and of the archive, looked at before anything is started.

A definition that reads well may still name a check, a master, a suite or a package that does not exist, or ask for
more than this host has. Each is a fault at its line, as the definition's own faults are. What cannot be looked at
here (no store, an archive that does not answer) is a note, not a fault: the build finds it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.base import scratch
from pipeline.base.disk_format import find_format, known_format
from pipeline.base.errors import DiskError, GoldsmithError
from pipeline.base.store import Store
from pipeline.cache.digests import file_digest
from pipeline.definition import (
    Definition,
    DefinitionError,
    DiskSource,
    Fault,
    MasterSource,
    image_names,
    load_named,
    read_places,
)
from pipeline.definition.diagnostics import closest
from pipeline.definition.document import Document
from pipeline.gallery import GOLDEN, Gallery
from pipeline.guest.playbook_check import check_playbooks, require_good_playbooks
from pipeline.guest.secret_values import check_sources
from pipeline.systems import registry
from pipeline.systems.base import Lookups

GIB = 1 << 30
#: Suites and package lists in the store's own scratch: `packages-SUITE.txt`.
_CACHE = "packages"
#: Checksums of local files, one a file, by the digest of path, inode, size and times.
_CHECKSUMS = "checksums"


def check_preconditions(
    definitions: Sequence[Definition],
    store: Store,
    left_out: Mapping[Path, frozenset[str]] | None = None,
    on_note: Callable[[str], None] = lambda _note: None,
) -> dict[Path, tuple[Fault, ...]]:
    """The faults of each definition, by its path; one without faults is not in it.

    `left_out` has the keys that could not be read of a definition that has faults of its own: nothing is said of
    those. `on_note` is called with each thing that could not be looked at here, once.
    """
    return _look(_Looker(store, on_note), definitions, left_out)


def _look(
    looker: _Looker, definitions: Sequence[Definition], left_out: Mapping[Path, frozenset[str]] | None = None
) -> dict[Path, tuple[Fault, ...]]:
    keys = left_out or {}
    found: dict[Path, dict[Fault, None]] = {}
    # a file may make several images
    for definition in definitions:
        faults = looker.faults(definition, keys.get(definition.path, frozenset()))
        found.setdefault(definition.path, {}).update(dict.fromkeys(faults))
    return {path: tuple(faults) for path, faults in found.items() if faults}


def require_buildable(definitions: Sequence[Definition], store: Store) -> None:
    """Raise DefinitionError with all faults that can be found without a guest, those of playbooks included.

    Raises too what `require_good_playbooks` raises, where a requirement of a playbook cannot be installed.
    """
    found = _look(_Looker(store, lambda _note: None, builds=True), definitions)
    if not found:
        require_good_playbooks(definitions, store)
        return
    of_playbooks = check_playbooks(definitions, store)
    faults = [
        fault
        for definition in definitions
        for fault in (*found.get(definition.path, ()), *of_playbooks.get(definition.path, ()))
    ]
    raise DefinitionError(list(dict.fromkeys(faults)))


class _Looker:
    """Looks each thing up once, however many definitions name it."""

    def __init__(self, store: Store, on_note: Callable[[str], None], *, builds: bool = False) -> None:
        """`builds`: the definitions are about to be built, so that their secrets must be in reach."""
        self._builds = builds
        self._store = store
        self._on_note = on_note
        self._notes: set[str] = set()
        self._formats: dict[Path, str] = {}
        self._sizes: dict[Path, int] = {}
        self._left_out: frozenset[str] = frozenset()
        self._names: dict[Path, Mapping[str, Path]] = {}
        self._gallery = Gallery(store.gallery) if store.gallery.is_dir() else None
        self._lookups = Lookups(store.root / _CACHE, self._note)

    def faults(self, definition: Definition, left_out: frozenset[str]) -> tuple[Fault, ...]:
        place = read_places(definition)
        looks: tuple[tuple[Callable[[Definition, Document], None], set[str]], ...] = (
            (self._waivers, set()),
            (self._host, set()),
            (self._test_suites, {"test_suites"}),
            (self._master, {"source", "os", "disk"}),
            (self._disk, {"source", "disk"}),
            (self._checksums, {"source"}),
            (self._archive, {"source"}),
            (self._secrets, {"secrets"}),
        )
        place.faults.clear()
        self._left_out = left_out
        for look, needs in looks:
            if not needs & left_out:
                look(definition, place)
        return tuple(sorted(place.faults, key=lambda fault: (fault.line, fault.column)))

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self._on_note(text)

    def _image_names(self, project: Path) -> Mapping[str, Path]:
        if project not in self._names:
            self._names[project] = image_names(project)
        return self._names[project]

    def _secrets(self, definition: Definition, document: Document) -> None:
        if not self._builds:
            return
        names = {name for step in (*definition.steps, *definition.refresh.steps) for name in step.secrets}
        for name, why in check_sources(definition, sorted(names & definition.secrets.keys())).items():
            document.add(("secrets", name), why, "provide the secret, or change its source")

    def _waivers(self, definition: Definition, document: Document) -> None:
        if not definition.waive:
            return
        # the checks bring every reader of disks with them: loaded where they are asked for
        from pipeline.checks import all_checks

        profile = registry.for_definition(definition, None).profile
        names = [check.id for check in all_checks()]
        asked = {check.id for check in all_checks(profile)}
        for name in definition.waive:
            if name.startswith("data-disk-"):
                self._data_disk_waiver(definition, document, name)
            elif name not in names:
                hint = closest(name, asked) or "goldsmith checks lists all checks"
                document.add(("waive", name), f"the check {name} does not exist", hint, at_key=True)
            elif name not in asked and "os" not in self._left_out:
                hint = f"remove the line; goldsmith checks --profile {profile} lists the checks for this image"
                document.add(("waive", name), f"the check {name} does not apply to this image", hint, at_key=True)

    def _data_disk_waiver(self, definition: Definition, document: Document, name: str) -> None:
        """A check of a data disk has the disk's LUN in its name; the parent's data disks are the child's too."""
        if self._left_out & {"data_disks", "source"}:
            return
        luns = {disk.lun for disk in definition.data_disks}
        source = definition.source
        if isinstance(source, MasterSource):
            version = self._gallery.find(source.image, source.channel_or_version) if self._gallery else None
            if version is None:
                return
            luns |= {disk.lun for disk in version.data_disks}
        checks = [f"data-disk-{lun}" for lun in sorted(luns)]
        if name not in checks:
            hint = (
                f"similar checks: {', '.join(checks)}" if checks else "remove the line; this image has no data disks"
            )
            document.add(("waive", name), f"the check {name} does not exist", hint, at_key=True)

    def _host(self, definition: Definition, document: Document) -> None:
        cpus, memory = len(os.sched_getaffinity(0)), _host_memory()
        machine = definition.machine
        if machine.cpus > cpus and ("machine", "cpus") in document.values:
            message = f"this host has only {cpus} processors"
            document.add(("machine", "cpus"), message, f"write cpus: {cpus} or fewer")
        if machine.memory > memory:
            message = f"{_size(machine.memory)} of memory is more than this host has ({_size(memory)})"
            document.add(("machine", "memory"), message, f"write memory: {max(1, memory // GIB - 1)} GiB or less")

    def _test_suites(self, definition: Definition, document: Document) -> None:
        if not definition.test_suites:
            return
        from pipeline.prove.lisa import SUITES
        from pipeline.prove.suites import installed_version

        for index, name in enumerate(definition.test_suites):
            if installed_version(self._store, SUITES[name]) is None:
                message = f"the test suite {name} is not installed"
                document.add(("test_suites", index), message, f"goldsmith suite install {name}")

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
            if source.image not in self._image_names(definition.project) or source.channel_or_version != GOLDEN:
                self._no_master(definition, document, source)
                return
            # a build makes the parent first; the parent's own faults are reported with the parent
            with suppress(DefinitionError):
                parent = load_named(definition.project, source.image)
                size, system = parent.disk, parent.os
        if size is not None and definition.disk is not None and definition.disk < size:
            message = f"{_size(definition.disk)} are less than the {_size(size)} of {source}"
            document.add(("disk",), message, f"write disk: {_size(size)} or more, or omit it")
        if system is not None and system != definition.os:
            document.add(("source", "master"), f"{source} is a {system} image", f"write os: {system}")

    def _no_master(self, definition: Definition, document: Document, source: MasterSource) -> None:
        made_here = set(self._image_names(definition.project))
        if self._gallery is None and not closest(source.image, made_here):
            self._note(f"{source} was not checked, because {self._store.root} has no gallery")
            return
        versions = self._gallery.versions(source.image) if self._gallery else []
        if versions:
            channels = sorted({channel for version in versions for channel in version.channels})
            there = [*channels, *(version.version for version in versions[-3:])]
            hint = closest(source.channel_or_version, there) or f"there is {source.image}@{', @'.join(there)}"
        elif source.image in made_here:
            hint = f"write {source.image}: a build makes only golden parents"
        else:
            near = closest(source.image, {*made_here, *(self._gallery.names() if self._gallery else ())})
            hint = near or "goldsmith gallery list shows all masters; build or import the master first"
        message = f"{source} is not in the gallery {self._store.gallery}"
        document.add(("source", "master"), message, hint)

    def _disk(self, definition: Definition, document: Document) -> None:
        source = definition.source
        if not isinstance(source, DiskSource) or source.path is None:
            return
        try:
            found, size = self._detect(source.path, sized=definition.disk is not None)
            if known_format(found) != find_format(source.format):
                name = known_format(found).name
                message = f"{source.path.name} is a {name} disk, not {source.format}"
                document.add(("source", "disk", "format"), message, f"write format: {name}")
                return
            if definition.disk is not None and definition.disk < size:
                message = f"{_size(definition.disk)} are less than the {_size(size)} of {source.path.name}"
                document.add(("disk",), message, f"write disk: {_size(size)} or more, or omit it")
        except DiskError as error:
            if error.name == "disk-packed":
                return  # a build unpacks it, and then compares
            document.add(("source", "disk", "path"), f"{error.message} ({error.name})", error.hint or "")

    def _detect(self, path: Path, *, sized: bool) -> tuple[str, int]:
        """The format of a disk and, with `sized`, its size; many images may start from one. Raises DiskError."""
        from pipeline.disk import mapping

        if path not in self._formats:
            self._formats[path] = mapping.detect(path, named=False)
        if sized and path not in self._sizes:
            with mapping.open_source(path, self._formats[path]) as disk:
                self._sizes[path] = disk.size
        return self._formats[path], self._sizes.get(path, 0)

    def _checksums(self, definition: Definition, document: Document) -> None:
        source = definition.source
        files: list[tuple[tuple[str, ...], Path | None, str | None]] = []
        if isinstance(source, DiskSource):
            files = [(("source", "disk", "sha256"), source.path, source.sha256)]
        else:
            files = [*registry.for_definition(definition, None).source_files(source)]
        for place, path, wanted in files:
            if path is None or wanted is None:
                continue
            try:
                found = self._checksum(path)
            except OSError as error:
                document.add(place[:2], f"{path.name} cannot be read: {error.strerror}", "allow this user to read it")
                continue
            if found != wanted:
                message = f"the sha256 of {path.name} is {found}"
                document.add(place, message, "copy the file again, or correct the digits")

    def _checksum(self, path: Path) -> str:
        """A file's sha256, remembered until the file changes: a medium has several GiB."""
        state = path.stat()
        seen = f"{path}\0{state.st_dev}\0{state.st_ino}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}"
        kept = self._store.root / _CHECKSUMS / hashlib.sha256(seen.encode()).hexdigest()
        with suppress(OSError):
            return kept.read_text(encoding="ascii").strip()
        found = file_digest(path)
        # anyone who may not write here reads the file again the next time
        with suppress(OSError, GoldsmithError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with scratch.file_beside(kept, force=True, own=True) as draft:
                draft.write_text(found, encoding="ascii")
        return found

    def _archive(self, definition: Definition, document: Document) -> None:
        registry.for_definition(definition, None).check_source(definition, document, self._lookups)


def _host_memory() -> int:
    """Bytes of memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: int) -> str:
    """As a definition writes it: whole GiB or MiB."""
    return f"{count // GIB} GiB" if count % GIB == 0 else f"{-(-count // (1 << 20))} MiB"
