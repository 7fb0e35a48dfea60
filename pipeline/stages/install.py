"""install: Windows comes from its medium onto the blank disk, with nobody at the keyboard."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pipeline.base.disk_format import RAW
from pipeline.cache.layers import DISK, Draft, Image, Layer
from pipeline.context import BaseStage, BuildContext, StageResult, UnitSpec
from pipeline.definition import Definition, IsoSource

if TYPE_CHECKING:
    from pipeline.systems.windows.answers import Machine


class Install(BaseStage):
    """Windows on the blank disk."""

    name = "install"
    version = 1
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec, ...]:
        definition, source = context.definition, context.definition.source
        if not isinstance(source, IsoSource):
            return ()
        # a plan of a Linux image needs none of these
        from pipeline.systems.windows.answers import Wishes, installation
        from pipeline.systems.windows.product_keys import key_digest

        machine = _machine(context)
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
        return (UnitSpec(source.edition, inputs, _run),)

    def why_root(self, _definition: Definition) -> str:
        return "it makes the network of its guest"


def _machine(context: BuildContext) -> Machine:
    from pipeline.systems.windows.answers import Machine

    definition = context.definition
    return Machine(1 if definition.generations == (1,) else 2, definition.secure_boot, definition.tpm)


def _run(context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    from pipeline.guest.disks import create_overlay
    from pipeline.systems.windows import boot_media
    from pipeline.systems.windows.answers import Wishes, draw_password, installation
    from pipeline.systems.windows.install import install
    from pipeline.systems.windows.preflight import preflight
    from pipeline.systems.windows.product_keys import product_key

    definition, media = context.definition, context.definition.source
    assert source is not None and isinstance(media, IsoSource)
    machine = _machine(context)
    edition = preflight(media.path, media.edition, machine.generation, media.drivers, definition.locale)
    overlay = create_overlay(draft.path / DISK, source.image)
    session = context.windows(overlay)
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
    session.shut_down()
    context.session = None
    return StageResult(overlay, {**source.facts, "restarts": restarts}, f"{edition.name}, {restarts} restarts")
