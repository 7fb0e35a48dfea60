"""The guest of a Linux build: booted on an overlay of the layer that it starts from, and reached over ssh."""

from __future__ import annotations

from dataclasses import replace

from pipeline.base.errors import BuildError, GuestError
from pipeline.base.runs import Stopwatch
from pipeline.cache.layers import DISK, Layer, PendingLayer
from pipeline.guest.access import BUILD_USER, Access
from pipeline.guest.build import Build
from pipeline.guest.disks import create_overlay
from pipeline.hypervisor.domain import Spec, attached
from pipeline.network.proxies import APT_CONFIGURATION, Proxy
from pipeline.systems.linux import scripts, set_up_session, snapshots
from pipeline.systems.linux.boot_again import HUNG, keep_console, record_hung
from pipeline.systems.linux.session import GuestSession


def running_guest(build: Build, source: Layer, draft: PendingLayer) -> GuestSession:
    """The build's running guest, writing into `draft`; started on an overlay of `source` when none runs."""
    if isinstance(build.session, GuestSession):
        return build.session
    return GuestStart(build, source, draft).run()


def proxy_environment(build: Build, session: GuestSession) -> dict[str, str]:
    """The variables by which a step finds the host's proxies; apt's own lie in the guest's memory.

    They are not an input of a layer: the way a package came does not change its content.
    """
    proxies = build.proxies
    known = proxies.all
    if not known or build.proxy_address(0) is None:
        return {}

    def address(proxy: Proxy) -> str:
        return build.proxy_address(known.index(proxy)) or ""

    if text := proxies.guest_apt(address):
        session.agent.write(APT_CONFIGURATION, text.encode())
    return proxies.guest_environment(address)


class GuestStart:
    """Starts a build's guest: from a memory snapshot where the build is warm and that can be done, else cold."""

    def __init__(self, build: Build, source: Layer, draft: PendingLayer) -> None:
        self.build = build
        self.source = source
        self.draft = draft
        self._session: GuestSession | None = None

    def run(self) -> GuestSession:
        """The running guest, which is the build's session from then on."""
        spec, access = self._spec()
        if not (self.build.warm and self._start_warm(spec, access)):
            self._start_cold(spec, access)
        assert self._session is not None
        return self._session

    def _spec(self) -> tuple[Spec, Access]:
        """The machine that the guest runs on, of the generation that the image is for, and a way into it.

        An image for both generations is built on the first: what both have is what its steps find.
        """
        build, definition = self.build, self.build.definition
        access = Access.create(build.label, "build", BUILD_USER)
        efi = definition.generations == (2,)
        spec = Spec(
            name=f"goldsmith-{build.label}-{definition.name}",
            run=build.label,
            role="build",
            kvm=build.accelerator.kind == "kvm",
            slowness=build.accelerator.slowness,
            cpus=definition.machine.cpus,
            memory=definition.machine.memory,
            disks=(),
            serial_log=build.run.log("serial.log"),
            forwards=(access.forward,),
            outside=build.way_out(),
            firmware="efi" if efi else "bios",
            machine="q35" if efi else "pc",
            nvram=access.nvram if efi else None,
        )
        build.run.note(guest={"domain": spec.name, **access.to_json()})
        return spec, access

    def _start_cold(self, spec: Spec, access: Access) -> None:
        """Boot the guest; once more from the same layer where its kernel hangs, which emulated ones seldom do."""
        entry = set_up_session.find(self.source.image, self.build.store.root)
        try:
            self._boot(spec, access, entry)
        except GuestError as error:
            if error.name != HUNG or self.build.session is None:
                raise
            self._put_hung_aside(error)
            self._boot(*self._spec(), entry)

    def _boot(self, spec: Spec, access: Access, entry: set_up_session.DirectBoot | None) -> None:
        session = self._prepare(spec, access, self.source)
        if entry is None:
            session.open(scripts.build_user_data(access.public_key), "goldsmith-build")
        else:
            session.boot_directly(entry.write(access.folder))
            session.set_up(new_addresses=False)

    def _put_hung_aside(self, error: GuestError) -> None:
        """End a guest whose kernel hangs; its console and its screen stay in the run, and the record says so."""
        build = self.build
        assert build.session is not None
        build.session.machine.screenshot(build.run.log("hung-screen.png"))
        build.session.close()
        build.session = None
        kept = keep_console(build.run.log("serial.log"), build.run.log("hung-serial.log"))
        for overlay in self.draft.path.glob("*.qcow2"):
            overlay.unlink()
        record_hung(build, error, "", kept)

    def _prepare(self, spec: Spec, access: Access, below: Layer) -> GuestSession:
        """A session, not started yet, on a fresh overlay."""
        build = self.build
        overlay = create_overlay(self.draft.path / DISK, below.image, build.definition.disk)
        session = GuestSession(
            build.connection,
            replace(spec, disks=attached(overlay)),
            access,
            logs=build.run.folder,
            store=build.store.root,
            cancelled=build.cancelled,
            progress=build.progress,
        )
        # a guest that a person wants to look at must outlive this process, and its connection
        session.machine.autodestroy = not build.keep_failed
        self._session = build.session = session
        return session

    def _start_warm(self, spec: Spec, access: Access) -> bool:
        """Start the guest from a snapshot of `source`. False, and a line that says why, where that cannot be."""
        build, source = self.build, self.source
        if source.image.data:
            build.run.emit("note", "", "an image with data disks cannot use a snapshot, so the guest boots cold")
            return False
        watch = Stopwatch()
        try:
            snapshot = snapshots.make(
                build.layers,
                spec,
                source,
                lambda: set_up_session.find(source.image, build.store.root),
                build.connection,
                size=build.definition.disk,
                tag=build.store.tag,
                logs=build.run.folder,
                note={"run": build.run.id, "name": build.definition.name},
                progress=build.progress,
            )
        except (BuildError, GuestError) as error:
            build.run.emit("note", "", f"the snapshot was not made ({error.message}), so the guest boots cold")
            return False
        making, watch = watch.seconds, Stopwatch()
        lock = snapshots.take(snapshot)
        if lock is None:
            build.run.emit("note", "", "another build uses this snapshot, so the guest boots cold")
            return False
        session = self._prepare(snapshots.snapshot_spec(spec, snapshot.key, build.store.tag), access, snapshot)
        session.release = lock.release
        session.machine.spec = replace(session.spec, kernel=snapshots.kernel(snapshot))
        try:
            session.restore(snapshot.path / snapshots.MEMORY)
        except (BuildError, GuestError) as error:
            build.run.emit("note", "", f"the snapshot cannot be restored ({error.message}), so the guest boots cold")
            session.machine.destroy()
            build.layers.drop(snapshot.key)
            lock.release()
            return False
        session.set_up(new_addresses=True)
        build.run.note(warm={"save": snapshot.key, "making": making, "starting": watch.seconds})
        return True
