"""One build in progress: what the stages share.

The runner owns a context; a stage sees only what it needs of it. A plan makes contexts too, and starts nothing: what
guests, libvirt and networks need is imported where it is used.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.byte_progress import ByteProgress
from pipeline.base.errors import UsageError
from pipeline.base.files import Shape, read_usable
from pipeline.base.runs import Run, Stopwatch, now, write_json
from pipeline.base.store import Store
from pipeline.base.surroundings import variables
from pipeline.cache.digests import FLAT_LIMIT, FlatDigest, flat_digest
from pipeline.cache.layers import DISK, Image, Layer, Layers, PendingLayer
from pipeline.definition import DataDisk, Definition, MasterSource
from pipeline.gallery import Gallery
from pipeline.systems import registry

if TYPE_CHECKING:
    from pipeline.guest.build import RunningGuest
    from pipeline.guest.secret_values import SecretValues
    from pipeline.hypervisor.accelerator import Verdict
    from pipeline.hypervisor.connection import Connection
    from pipeline.network.egress import Egress
    from pipeline.network.proxies import HostProxies
    from pipeline.systems.base import GuestSystem

#: Seconds for which the archive's state is not asked again: Debian's changes four times a day.
INDEX_AGE = 300.0


class BaseStage:
    """What most stages answer; `pipeline.engine.stage.Stage` says what each answer means."""

    is_gate = False
    makes_content = False
    makes_master = False
    makes_version = False

    def why_root(self, _definition: Definition) -> str:
        return ""


class _SeenIndex(Shape):
    """The state of a distribution's archive when it was last asked."""

    digest: str
    seen: str

    @classmethod
    def advice(cls) -> str:
        return "delete the file; the archive's state is then read again"


@dataclass
class BuildContext:
    """A build of one definition."""

    definition: Definition
    store: Store
    run: Run
    layers: Layers
    gallery: Gallery
    keep_failed: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    session: RunningGuest | None = None
    stage: str = ""
    #: Measures the unit that is being made.
    watch: Stopwatch = field(default_factory=Stopwatch)
    #: Whether the guest starts from a memory snapshot. The runner sets it from a unit's inputs.
    warm: bool = False
    #: The layers of this build so far, each with the name of its stage, in order.
    made: list[tuple[str, Layer]] = field(default_factory=list)
    _indexes: dict[str, str | None] = field(default_factory=dict)
    _outdated: dict[str, list[str] | None] = field(default_factory=dict)
    _flat: dict[Path, FlatDigest] = field(default_factory=dict)
    _egress: Egress | None = None
    _parts: dict[str, str] = field(default_factory=dict)
    _parts_lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def connection(self) -> Connection:
        """The connection to libvirt. Raises HostError (qemu-access-denied) where QEMU could not reach the store."""
        from pipeline.hypervisor.connection import connect
        from pipeline.hypervisor.file_access import need_access

        connection = connect()
        need_access([folder / DISK for folder in self.store.folders], (), connection.qemu_owner)
        return connection

    @cached_property
    def accelerator(self) -> Verdict:
        from pipeline.hypervisor import accelerator

        verdict = accelerator.choose(self.definition.accelerator, self.store)
        self.run.emit("accelerator", "", f"{verdict.kind}: {verdict.reason}")
        self.run.note(accelerator={"kind": verdict.kind, "reason": verdict.reason})
        return verdict

    @property
    def label(self) -> str:
        return self.store.label(self.run.id)

    def package_index(self, suite: str | None) -> str | None:
        """A digest of the distribution's package index, None if it is not known.

        The archive is asked once in INDEX_AGE seconds. If it does not answer, the last digest seen on this host is
        used, so that a network outage does not rebuild everything.
        """
        if suite is None:
            return None
        if suite not in self._indexes:
            seen = self.store.tmp / f"index-{suite}.json"
            last = read_usable(seen, _SeenIndex)
            if last is not None and 0 <= time.time() - seen.stat().st_mtime < INDEX_AGE:
                digest = str(last["digest"])
            elif (asked := self.system.package_index(suite)) is not None:
                digest = asked
                # a user who may only read the store asks the archive each time
                with contextlib.suppress(OSError):
                    write_json(seen, {"digest": digest, "seen": now()})
            elif last is not None:
                digest = str(last["digest"])
                self.run.emit(
                    "note", "", f"the package index of {suite} does not answer; using that of {last['seen']}"
                )
            else:
                return None
            self._indexes[suite] = digest
        return self._indexes[suite]

    @cached_property
    def system(self) -> GuestSystem:
        """The operating system that the image has."""
        return registry.for_definition(self.definition, self.suite)

    @cached_property
    def suite(self) -> str | None:
        """The distribution's suite that the guest installs from, None if it is not known."""
        source = self.definition.source
        if isinstance(source, MasterSource):
            suite = self.gallery.get(str(source)).manifest.get("suite")
            return str(suite) if suite else None
        return getattr(source, "suite", None)

    @cached_property
    def data_disks(self) -> tuple[DataDisk, ...]:
        """The data disks that go with the image, by LUN: the parent's with what is on them, and the definition's own.

        Raises UsageError where the definition asks for another disk than the parent has at that LUN.
        """
        source = self.definition.source
        parent = self.gallery.get(str(source)).data_disks if isinstance(source, MasterSource) else ()
        found = {disk.lun: disk for disk in parent}
        for disk in self.definition.data_disks:
            there = found.get(disk.lun, disk)
            if (there.size, there.filesystem, there.label) != (disk.size, disk.filesystem, disk.label):
                raise UsageError(
                    f"{self.definition.name}: LUN {disk.lun} is another disk in {source}",
                    name="data-disk-differs",
                    hint="use another LUN, or change only the caching of the parent's disk",
                )
            found[disk.lun] = disk
        return tuple(found[lun] for lun in sorted(found))

    @cached_property
    def secrets(self) -> SecretValues:
        """The definition's secrets; what is read of them is masked in all that people see of the run."""
        from pipeline.guest.secret_values import SecretValues

        values = SecretValues(self.definition, self.store.root)
        self.run.mask = values.mask.text
        return values

    def outdated(self, layer: Layer) -> list[str] | None:
        """The packages on a layer's disk that have a newer version in the archive; None if that is not known."""
        if layer.key not in self._outdated:
            self._outdated[layer.key] = self.outdated_packages(layer.image)
        return self._outdated[layer.key]

    def outdated_packages(self, image: Image) -> list[str] | None:
        """The packages on a disk that have a newer version in the archive; None if that is not known."""
        return self.system.outdated_packages(self.suite, image, self.store.root) if self.suite is not None else None

    def list_disk(self, image: Image, *, what: str, key: str | None = None) -> Sequence[Sequence[str]]:
        """Rows about a disk at rest, read in the sandbox. Raises DiskError."""
        from pipeline.systems.questions import list_disk

        within = self.store.root
        return list_disk(image.path, image.format.key, what=what, key=key or "", allow_backing_within=within)

    def progress(self, text: str) -> None:
        self.run.emit("progress", self.stage, text)

    def progress_of(self, part: str, text: str) -> None:
        """Progress of one of several things that go on at once: a line has what each of them does. "" ends a part."""
        with self._parts_lock:
            if text:
                self._parts[part] = text
            else:
                self._parts.pop(part, None)
            whole = "; ".join(f"{name}: {doing}" for name, doing in self._parts.items())
        if whole:
            self.progress(whole)

    def line(self, text: str) -> None:
        self.run.emit("line", self.stage, text)

    def begin_flat_digests(self, image: Image) -> None:
        """Start to compute the flat sha256 of the shipped disks, which capture needs, during inspect and prove."""
        for path in (image.path, *(disk.path for _, disk in image.data)):
            if path not in self._flat and path.stat().st_size <= FLAT_LIMIT:
                self._flat[path] = FlatDigest(path)

    def flat_digest(self, path: Path, tree: str) -> str | None:
        """The flat sha256 of a disk whose tree digest is known; None if the disk is too large."""
        if path.stat().st_size > FLAT_LIMIT:
            return None
        begun = self._flat.get(path)
        found = begun.of(tree) if begun else None
        return found or flat_digest(path, ByteProgress(self.progress, f"sha256 of {path.name}"))

    # ---- the build's guest ---------------------------------------------------------------------------------------

    def rotate(self, draft: PendingLayer) -> None:
        """Let the running guest write into `draft` from now on."""
        from pipeline.guest.disks import create_overlay

        assert self.session is not None, "only a live unit's guest goes on"
        self.session.rotate(create_overlay(draft.path / DISK, self.session.disk))

    def end_guest(self) -> None:
        """Power the guest off in order, so that its disk is at rest."""
        if self.session is not None:
            self.session.shut_down()
            self.close()

    def close(self) -> None:
        """End the guest and the way out; no key, no seed and no secret stays behind."""
        for digest in self._flat.values():
            digest.stop()
        self._flat.clear()
        try:
            if self.session is not None:
                self.session.close()
                self.session = None
        finally:
            if self._egress is not None:
                self._egress.close()
                self._egress = None
            self.mask_logs()

    def mask_logs(self) -> None:
        """Overwrite the secrets that this build has read in its run's folder: a guest prints to its console."""
        if "secrets" in self.__dict__:
            self.secrets.mask.folder(self.run.folder)

    def way_out(self) -> str:
        """The bridge of the way out; the run's guests, of which one runs at a time, share it."""
        from pipeline.network.egress import Egress, host_addresses
        from pipeline.network.endpoints import host_destinations
        from pipeline.network.proxy_relay import Upstream

        if self._egress is None:
            allowed = [*host_destinations(host_addresses()), *self.definition.allow]
            upstreams = [Upstream(each.host, each.port, each.tls, each.authorization) for each in self.proxies.all]
            egress = Egress(self.label, self.run.folder, allowed, upstreams)
            egress.open()
            self._egress = egress
            self.run.note(egress={"allowed": [str(network) for network in allowed]})
        return self._egress.bridge

    @cached_property
    def proxies(self) -> HostProxies:
        from pipeline.network.proxies import host_proxies

        return host_proxies(variables())

    def proxy_address(self, index: int) -> str | None:
        """The URL at which the guest reaches a proxy of the host; None before it has a way out."""
        return self._egress.proxy_address(index) if self._egress is not None else None

    def log_file(self, name: str) -> Path:
        return self.run.log(name)
