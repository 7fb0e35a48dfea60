"""The guest of a Windows build: one for each unit, whose disk is at rest only when it is shut down."""

from __future__ import annotations

from pipeline.cache.layers import DISK, Image, Layer, PendingLayer
from pipeline.guest.access import run_folder
from pipeline.guest.build import Build
from pipeline.guest.disks import create_overlay
from pipeline.hypervisor.domain import Spec, attached
from pipeline.systems.windows.machine import FEATURES
from pipeline.systems.windows.session import Deadlines, WindowsSession


def guest_on_overlay(build: Build, source: Layer, draft: PendingLayer) -> tuple[WindowsSession, Image]:
    """A guest on a fresh overlay of `source`, not started yet, and the overlay. It is the build's session.

    Its UEFI variables are fresh each time.
    """
    overlay = create_overlay(draft.path / DISK, source.image)
    definition = build.definition
    kvm = build.accelerator.kind == "kvm"
    efi = definition.generations == (2,)
    folder = run_folder(build.label, "build")
    spec = Spec(
        name=f"goldsmith-{build.label}-{definition.name}",
        run=build.label,
        role="build",
        kvm=kvm,
        cpus=definition.machine.cpus,
        memory=definition.machine.memory,
        disks=attached(overlay),
        serial_log=build.run.log("serial.log"),
        outside=build.way_out(),
        firmware="efi" if efi else "bios",
        machine="q35" if efi else "pc",
        nvram=folder / "vars.fd" if efi else None,
        secure_boot=definition.secure_boot,
        tpm=definition.tpm,
        features=FEATURES,
    )
    session = WindowsSession(
        build.connection,
        spec,
        folder,
        logs=build.run.folder,
        deadlines=Deadlines.for_kind(kvm, definition.machine.timeout_factor),
        cancelled=build.cancelled,
        progress=build.progress,
    )
    build.session = session
    session.machine.autodestroy = not build.keep_failed
    build.run.note(guest={"domain": spec.name, **session.access_facts()})
    return session, overlay


def shut_down(build: Build, session: WindowsSession) -> None:
    """Power the guest off in order; the build has none from then on."""
    session.shut_down()
    build.session = None
