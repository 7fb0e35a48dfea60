"""A Windows installed from its medium: the blank disk, and the installation onto it with nobody at the keyboard."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.disk_format import QCOW2, RAW
from pipeline.cache.layers import DISK, Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import IsoSource
from pipeline.guest.build import Build
from pipeline.guest.source_files import require_readable, verify_checksum

if TYPE_CHECKING:
    from pipeline.systems.windows.answers import Machine


def media_unit(build: Build, source: IsoSource) -> UnitSpec[Build]:
    """The unit that makes a blank disk, once the media are what the definition says."""
    inputs: dict[str, object] = {
        "source": "iso",
        "sha256": [source.sha256, source.drivers_sha256],
        "disk size": build.definition.disk,
    }
    return UnitSpec(source.path.name, inputs, partial(_check_media, source))


def _check_media(source: IsoSource, build: Build, _source: Layer | None, draft: PendingLayer) -> StageResult:
    """The media are what the definition says, and can do what it asks; the disk is blank."""
    from pipeline.base import qemu_img
    from pipeline.systems.windows.preflight import preflight
    from pipeline.systems.windows.product_keys import product_key

    definition = build.definition
    edition = preflight(source.path, source.edition, definition.generations[0], source.drivers, definition.locale)
    product_key(source.product_key, edition)
    for path in (source.path, source.drivers):
        require_readable(build, path)
    _verify_media(build, source)
    disk = draft.path / DISK
    assert definition.disk is not None, "the definition has no disk size"
    qemu_img.create(disk, "qcow2", definition.disk)
    facts = {"edition": edition.name, "build": edition.build, "suite": None}
    return StageResult(Image(disk, QCOW2), facts, edition.name)


def _verify_media(build: Build, source: IsoSource) -> None:
    verify_checksum(build, source.path, source.sha256, "source.iso.sha256")
    verify_checksum(build, source.drivers, source.drivers_sha256, "source.drivers.sha256")


def install_unit(build: Build, source: IsoSource) -> UnitSpec[Build]:
    """The unit that installs Windows onto the blank disk."""
    # a plan of another system's image needs none of these
    from pipeline.systems.windows.answers import Wishes, installation
    from pipeline.systems.windows.product_keys import key_digest

    definition = build.definition
    machine = _machine(build)
    # of another edition and another password; what is left is how goldsmith installs
    recipe = installation(Wishes(1, "", "-", definition.locale, definition.timezone), machine)
    inputs: dict[str, object] = {
        "edition": source.edition,
        "generation": machine.generation,
        "secure boot": machine.secure_boot,
        "tpm": machine.tpm,
        "answers": hashlib.sha256(recipe).hexdigest(),
    }
    if source.product_key is not None:
        inputs["product key"] = key_digest(source.product_key)
    return UnitSpec(source.edition, inputs, partial(_install, source))


def _machine(build: Build) -> Machine:
    from pipeline.systems.windows.answers import Machine

    definition = build.definition
    return Machine(1 if definition.generations == (1,) else 2, definition.secure_boot, definition.tpm)


def _install(media: IsoSource, build: Build, source: Layer | None, draft: PendingLayer) -> StageResult:
    from pipeline.systems.windows import boot_media
    from pipeline.systems.windows.answers import Wishes, draw_password, installation
    from pipeline.systems.windows.build_guest import guest_on_overlay, shut_down
    from pipeline.systems.windows.install import install
    from pipeline.systems.windows.preflight import preflight
    from pipeline.systems.windows.product_keys import product_key

    definition = build.definition
    assert source is not None
    machine = _machine(build)
    # the blank disk below may be an old layer: the files may have been replaced since
    _verify_media(build, media)
    edition = preflight(media.path, media.edition, machine.generation, media.drivers, definition.locale)
    session, overlay = guest_on_overlay(build, source, draft)
    # drawn for this installation alone; the first logon uses it up, and its commands remove it
    wishes = Wishes(
        edition.index,
        edition.drivers or "",
        draw_password(),
        definition.locale,
        definition.timezone,
        product_key(media.product_key, edition),
    )
    answers = boot_media.answer_medium(session.folder / "answers.iso", installation(wishes, machine))
    silent = None
    if machine.generation == 2:
        silent = boot_media.without_prompt(media.path, session.folder / "medium.qcow2")
    session.insert(silent or Image(media.path, RAW), Image(media.drivers, RAW), answers)
    install(session, press=silent is None)
    restarts = session.machine.reboots
    shut_down(build, session)
    return StageResult(overlay, {**source.facts, "restarts": restarts}, f"{edition.name}, {restarts} restarts")


def answer_file(medium: Path, wanted: str, generation: int, drivers: Path | None) -> str:
    """autounattend.xml for an edition; the administrator's password is drawn, and used for one logon.

    Raises UsageError where the medium does not have the edition, or the drivers' medium lacks one that it needs.
    """
    from pipeline.systems.windows.answers import Machine, Wishes, draw_password, installation
    from pipeline.systems.windows.preflight import preflight

    edition = preflight(medium, wanted, generation, drivers)
    machine = Machine(1 if generation == 1 else 2, secure_boot=generation == 2, tpm=generation == 2)
    wishes = Wishes(edition.index, edition.drivers or "", draw_password(), locale=(*edition.languages, "en-US")[0])
    return installation(wishes, machine).decode()
