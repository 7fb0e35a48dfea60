"""The guest of a Windows build: one for each unit, whose disk is at rest only when it is shut down."""

from __future__ import annotations

import shutil

from pipeline.cache.layers import DISK, Image, Layer, PendingLayer
from pipeline.definition import MasterSource
from pipeline.guest.access import run_folder
from pipeline.guest.build import Build
from pipeline.guest.disks import create_overlay
from pipeline.hypervisor.domain import Spec, attached
from pipeline.hypervisor.enrolled_keys import YEARS, EnrolledKeys
from pipeline.hypervisor.machine import own
from pipeline.systems.windows.machine import FEATURES
from pipeline.systems.windows.session import Deadlines, WindowsSession

#: The file of a layer, and of a running guest, with its UEFI variables.
VARIABLES = "vars.fd"


def guest_on_overlay(build: Build, source: Layer, draft: PendingLayer) -> tuple[WindowsSession, Image]:
    """A guest on a fresh overlay of `source`, not started yet, and the overlay. It is the build's session.

    Its UEFI variables are those that the source's layer was left with, and its own layer keeps them: Windows writes
    its boot entry there, and its updates change the keys. The first have the keys of all years.
    """
    overlay = create_overlay(draft.path / DISK, source.image)
    definition = build.definition
    kvm = build.accelerator.kind == "kvm"
    efi = definition.generations == (2,)
    folder = run_folder(build.label, "build")
    variables = folder / VARIABLES if efi else None
    if variables is not None and (source.path / VARIABLES).exists():
        shutil.copyfile(source.path / VARIABLES, variables)
        own(variables, build.connection)
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
        nvram=variables,
        secure_boot=definition.secure_boot,
        keys=EnrolledKeys(YEARS) if efi and definition.secure_boot else None,
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
    session.kept_variables = draft.path / VARIABLES
    if isinstance(definition.source, MasterSource):
        # the first start of a generalized Windows asks questions, like a clone's
        from pipeline.systems.windows import answers
        from pipeline.systems.windows.boot_media import answer_medium

        replies = answers.first_boot(definition.locale, definition.timezone)
        session.insert(answer_medium(folder / "first-boot.iso", replies, answers.UNATTEND))
    build.session = session
    session.machine.autodestroy = not build.keep_failed
    build.run.note(guest={"domain": spec.name, **session.access_facts()})
    return session, overlay


def shut_down(build: Build, session: WindowsSession) -> None:
    """Power the guest off in order; the build has none from then on."""
    session.shut_down()
    build.session = None
