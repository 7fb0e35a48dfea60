"""install: a system that comes from its medium is installed onto the blank disk, with nobody at the keyboard."""

from __future__ import annotations

from pipeline.cache.units import UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import Definition


class Install(BaseStage):
    """The system on the blank disk."""

    name = "install"
    version = 1
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        return tuple(context.system.install_units(context))

    def why_root(self, _definition: Definition) -> str:
        return "it creates the network of its guest"
