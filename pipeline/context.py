"""One build in progress: what the stages share, and the shape of a unit of work.

The runner owns a context; a stage sees only what it needs of it. A plan makes contexts too, and starts nothing: what
guests, libvirt and networks need is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import BuildError, GoldsmithError, GuestError, UsageError
from pipeline.base.files import Shape, read_usable
from pipeline.base.runs import Run, Stopwatch, now, write_json
from pipeline.base.store import Store
from pipeline.cache.digests import FLAT_LIMIT, FlatDigest, flat_digest
from pipeline.cache.layers import DISK, Draft, Image, Layer, Layers
from pipeline.definition import DataDisk, Definition, MasterSource
from pipeline.gallery import Gallery
from pipeline.systems.debian import apt
from pipeline.systems.linux import set_up_session

if TYPE_CHECKING:
    from filelock import FileLock

    from pipeline.guest.access import Access
    from pipeline.hypervisor.accelerator import Verdict
    from pipeline.hypervisor.connection import Connection
    from pipeline.hypervisor.domain import Spec
    from pipeline.network.egress import Egress
    from pipeline.systems.debian.proxies import HostProxies, Proxy
    from pipeline.systems.linux.session import GuestSession
    from pipeline.systems.windows.session import WindowsSession

#: The failure of a boot that is tried once more.
HUNG = "guest-kernel-hung"
#: Seconds for which the archive's state is taken for granted: Debian's changes four times a day.
INDEX_AGE = 300.0


def keep_console(console: Path, kept: Path) -> str | None:
    """Move a console's log away from where the next guest writes its own. The new name, None where there is none."""
    if not console.exists():
        return None
    console.replace(kept)
    return kept.name


@dataclass(frozen=True)
class StageResult:
    """What a unit made: the disk it leaves, and facts for the records."""

    image: Image | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True)
class UnitSpec:
    """One unit of a stage: its title, all its inputs, and what does it.

    `live` work runs in the guest of the build; its disk is at rest only when the runner rotates or ends the guest.
    """

    title: str
    inputs: Mapping[str, object]
    run: Callable[[BuildContext, Layer | None, Draft], StageResult]
    live: bool = False
    #: The titles of the steps that it runs: `--from` and `--until` take them. None outside of provision.
    steps: tuple[str, ...] = ()
    #: Whether its steps are the definition's own, which `--from 2` counts.
    counted: bool = True


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
        return "remove the file: the archive is asked again"


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
    session: GuestSession | WindowsSession | None = None
    stage: str = ""
    #: Runs since the unit that is being made was begun.
    watch: Stopwatch = field(default_factory=Stopwatch)
    #: Whether the guest is to be restored from a save. The runner says so from a unit's inputs.
    warm: bool = False
    #: What this build stands on so far: each unit's stage and layer, in order.
    made: list[tuple[str, Layer]] = field(default_factory=list)
    _indexes: dict[str, str | None] = field(default_factory=dict)
    _outdated: dict[str, list[str] | None] = field(default_factory=dict)
    _flat: dict[Path, FlatDigest] = field(default_factory=dict)
    _save: FileLock | None = None
    _egress: Egress | None = None

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

        verdict = accelerator.choose(self.definition.accelerator)
        self.run.emit("accelerator", "", f"{verdict.kind}: {verdict.reason}")
        self.run.note(accelerator={"kind": verdict.kind, "reason": verdict.reason})
        return verdict

    @property
    def label(self) -> str:
        return self.store.label(self.run.id)

    def package_index(self, suite: str | None) -> str | None:
        """A digest of the distribution's package index, None where there is none.

        The archive is asked once in INDEX_AGE seconds. When it does not answer, the last digest seen on this host
        stands, so that a network that is down does not rebuild everything.
        """
        if suite is None:
            return None
        if suite not in self._indexes:
            seen = self.store.tmp / f"index-{suite}.json"
            last = read_usable(seen, _SeenIndex)
            if last is not None and 0 <= time.time() - seen.stat().st_mtime < INDEX_AGE:
                digest = str(last["digest"])
            elif (asked := apt.package_index(suite)) is not None:
                digest = asked
                # whoever may only read the store asks the archive each time
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
    def suite(self) -> str | None:
        """The distribution's suite that the guest installs from, None where it is not known."""
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
                    hint="take another LUN, or leave the parent's disk as it is: only its caching can be changed",
                )
            found[disk.lun] = disk
        return tuple(found[lun] for lun in sorted(found))

    def outdated(self, layer: Layer) -> list[str] | None:
        """The packages on a layer's disk of which the archive has a newer version; None where that is not known."""
        if layer.key not in self._outdated:
            self._outdated[layer.key] = self.outdated_packages(layer.image)
        return self._outdated[layer.key]

    def outdated_packages(self, image: Image) -> list[str] | None:
        """The packages on a disk of which the archive has a newer version; None where that is not known."""
        from pipeline.disk.facts import dpkg_versions

        if self.suite is not None:
            with contextlib.suppress(GoldsmithError, OSError):
                found = dpkg_versions(image.path, image.format.key, within=self.store.root)
                return apt.newer(self.suite, found) if found else None
        return None

    def progress(self, text: str) -> None:
        self.run.emit("progress", self.stage, text)

    def line(self, text: str) -> None:
        self.run.emit("line", self.stage, text)

    def begin_flat_digests(self, image: Image) -> None:
        """Take the flat sha256 of the disks that will ship while they are inspected and proven: capture wants it."""
        for path in (image.path, *(disk.path for _, disk in image.data)):
            if path not in self._flat and path.stat().st_size <= FLAT_LIMIT:
                self._flat[path] = FlatDigest(path)

    def flat_digest(self, path: Path, tree: str) -> str | None:
        """The flat sha256 of a disk whose tree is known; None where the disk is too large for one to be taken."""
        if path.stat().st_size > FLAT_LIMIT:
            return None
        begun = self._flat.get(path)
        return (begun.of(tree) if begun else None) or flat_digest(path)

    # ---- the build's guest ---------------------------------------------------------------------------------------

    def guest(self, source: Layer, draft: Draft) -> GuestSession:
        """The build's running guest, writing into `draft`; started on an overlay of `source` when none runs."""
        from pipeline.systems.linux.session import GuestSession

        if isinstance(self.session, GuestSession):
            return self.session
        spec, access = self._spec()
        if not (self.warm and self._start_warm(spec, access, source, draft)):
            self._start_cold(spec, access, source, draft)
        assert isinstance(self.session, GuestSession)
        return self.session

    def _spec(self) -> tuple[Spec, Access]:
        """The machine that the build's guest runs on, of the generation that the image is for, and a way into it.

        An image for both generations is built on the first: what both have is what its steps find.
        """
        from pipeline.guest.access import BUILD_USER, Access
        from pipeline.hypervisor.domain import Spec

        access = Access.create(self.label, "build", BUILD_USER)
        efi = self.definition.generations == (2,)
        spec = Spec(
            name=f"goldsmith-{self.label}-{self.definition.name}",
            run=self.label,
            role="build",
            kvm=self.accelerator.kind == "kvm",
            cpus=self.definition.machine.cpus,
            memory=self.definition.machine.memory,
            disks=(),
            serial_log=self.run.log("serial.log"),
            forwards=(access.forward,),
            outside=self._way_out(),
            firmware="efi" if efi else "bios",
            machine="q35" if efi else "pc",
            nvram=access.nvram if efi else None,
        )
        self.run.note(guest={"domain": spec.name, **access.to_json()})
        return spec, access

    def _start_cold(self, spec: Spec, access: Access, source: Layer, draft: Draft) -> None:
        """Boot the guest; once more from the same layer where its kernel hangs, which emulated ones seldom do."""
        entry = set_up_session.find(source.image, self.store.root)
        try:
            self._boot(spec, access, source, draft, entry)
        except GuestError as error:
            if error.name != HUNG or self.session is None:
                raise
            self._put_hung_aside(error, draft)
            self._boot(*self._spec(), source, draft, entry)

    def _boot(
        self, spec: Spec, access: Access, source: Layer, draft: Draft, entry: set_up_session.Threshold | None
    ) -> None:
        from pipeline.systems.linux import scripts

        session = self._prepare(spec, access, source, draft)
        if entry is None:
            session.open(scripts.build_user_data(access.public_key), "goldsmith-build")
        else:
            session.open_threshold(entry.write(access.folder))
            session.enter(new_addresses=False)

    def _put_hung_aside(self, error: GuestError, draft: Draft) -> None:
        """End a guest whose kernel hangs; its console and its screen stay in the run, and the record says so."""
        assert self.session is not None
        self.session.machine.screenshot(self.run.log("hung-screen.png"))
        self.session.close()
        self.session = None
        console = self.run.log("serial.log")
        kept = keep_console(console, self.run.log("hung-serial.log"))
        for overlay in draft.path.glob("*.qcow2"):
            overlay.unlink()
        self.record_hung(error, "", kept)

    def record_hung(self, error: GoldsmithError, who: str, kept: str | None) -> None:
        """Say and record that a guest is booted once more because its kernel hung; `kept` names what it left."""
        self.run.append(
            "boots_again", {"name": error.name, "message": f"{who}{error.message}", "stage": self.stage, "kept": kept}
        )
        self.run.emit("note", "", f"{who}{error.message}: booting once more from the same layer")

    def _prepare(self, spec: Spec, access: Access, below: Layer, draft: Draft) -> GuestSession:
        """A session, not started yet, on a fresh overlay."""
        from pipeline.guest.disks import create_overlay
        from pipeline.hypervisor.domain import attached
        from pipeline.systems.linux.session import GuestSession

        overlay = create_overlay(draft.path / DISK, below.image, self.definition.disk)
        self.session = GuestSession(
            self.connection,
            replace(spec, disks=attached(overlay)),
            access,
            logs=self.run.folder,
            cancelled=self.cancelled,
            progress=self.progress,
        )
        # a guest that a person wants to look at must outlive this process, and its connection
        self.session.machine.autodestroy = not self.keep_failed
        return self.session

    def windows(self, overlay: Image) -> WindowsSession:
        """A Windows guest that writes into `overlay`, not started yet. Its UEFI variables are fresh each time."""
        from pipeline.guest.access import run_folder
        from pipeline.hypervisor.domain import Spec, attached
        from pipeline.systems.windows.session import Deadlines, WindowsSession

        definition = self.definition
        kvm = self.accelerator.kind == "kvm"
        efi = definition.generations == (2,)
        folder = run_folder(self.label, "build")
        spec = Spec(
            name=f"goldsmith-{self.label}-{definition.name}",
            run=self.label,
            role="build",
            kvm=kvm,
            cpus=definition.machine.cpus,
            memory=definition.machine.memory,
            disks=attached(overlay),
            serial_log=self.run.log("serial.log"),
            outside=self._way_out(),
            firmware="efi" if efi else "bios",
            machine="q35" if efi else "pc",
            nvram=folder / "vars.fd" if efi else None,
            secure_boot=definition.secure_boot,
            tpm=definition.tpm,
            windows=True,
        )
        self.session = WindowsSession(
            self.connection,
            spec,
            folder,
            logs=self.run.folder,
            deadlines=Deadlines.for_kind(kvm, definition.machine.patience),
            cancelled=self.cancelled,
            progress=self.progress,
        )
        self.session.machine.autodestroy = not self.keep_failed
        self.run.note(guest={"domain": spec.name, **self.session.told()})
        return self.session

    def _start_warm(self, spec: Spec, access: Access, source: Layer, draft: Draft) -> bool:
        """Start the guest from a save of `source`. False, and a line that says why, where that cannot be."""
        from pipeline.systems.linux import snapshots

        if source.image.data:
            self.run.emit("note", "", "an image with data disks has no saved guest: cold boot")
            return False
        watch = Stopwatch()
        try:
            save = snapshots.make(
                self.layers,
                spec,
                source,
                lambda: set_up_session.find(source.image, self.store.root),
                self.connection,
                size=self.definition.disk,
                tag=self.store.tag,
                logs=self.run.folder,
                note={"run": self.run.id, "name": self.definition.name},
                progress=self.progress,
            )
        except (BuildError, GuestError) as error:
            self.run.emit("note", "", f"no saved guest: {error.message}: cold boot")
            return False
        making, watch = watch.seconds, Stopwatch()
        self._save = snapshots.take(save)
        if self._save is None:
            self.run.emit("note", "", "another build runs this saved guest: cold boot")
            return False
        session = self._prepare(snapshots.save_spec(spec, save.key, self.store.tag), access, save, draft)
        session.machine.spec = replace(session.spec, kernel=snapshots.kernel(save))
        try:
            session.restore(save.path / snapshots.MEMORY)
        except (BuildError, GuestError) as error:
            self.run.emit("note", "", f"the saved guest cannot be restored: {error.message}: cold boot")
            session.machine.destroy()
            self._release()
            self.layers.drop(save.key)
            return False
        session.enter(new_addresses=True)
        self.run.note(warm={"save": save.key, "making": making, "starting": watch.seconds})
        return True

    def rotate(self, draft: Draft) -> None:
        """Let the running guest write into `draft` from now on."""
        from pipeline.guest.disks import create_overlay
        from pipeline.systems.linux.session import GuestSession

        assert isinstance(self.session, GuestSession)
        self.session.rotate(create_overlay(draft.path / DISK, self.session.disk))

    def end_guest(self) -> None:
        """Power the guest off in order, so that its disk is at rest."""
        if self.session is not None:
            self.session.shut_down()
            self.close()

    def close(self) -> None:
        """Leave no guest, no key, no seed behind."""
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
            self._release()

    def _way_out(self) -> str:
        """The bridge of the way out; the run's guests, of which one runs at a time, share it."""
        from pipeline.network.egress import Egress, host_addresses
        from pipeline.network.endpoints import host_destinations
        from pipeline.network.proxy_relay import Upstream

        if self._egress is None:
            allowed = [*host_destinations(host_addresses()), *self.definition.allow]
            upstreams = [Upstream(one.host, one.port, one.tls, one.authorization) for one in self._proxies.all]
            egress = Egress(self.label, self.run.folder, allowed, upstreams)
            egress.open()
            self._egress = egress
            self.run.note(egress={"allowed": [str(one) for one in allowed]})
        return self._egress.bridge

    @cached_property
    def _proxies(self) -> HostProxies:
        from pipeline.systems.debian.proxies import host_proxies

        return host_proxies(os.environ)

    def proxy_environment(self, session: GuestSession) -> dict[str, str]:
        """The variables by which a step finds the host's proxies; apt's own lie in the guest's memory.

        They are no input of a layer: how a package came does not change what it is.
        """
        from pipeline.systems.debian.proxies import APT_CONFIGURATION

        egress, known = self._egress, self._proxies.all
        if egress is None or not known:
            return {}

        def address(proxy: Proxy) -> str:
            return egress.proxy_address(known.index(proxy))

        if text := self._proxies.guest_apt(address):
            session.agent.write(APT_CONFIGURATION, text.encode())
        return self._proxies.guest_environment(address)

    def _release(self) -> None:
        if self._save is not None:
            self._save.release()
            self._save = None

    def log_file(self, name: str) -> Path:
        return self.run.log(name)
