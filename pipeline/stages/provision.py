"""provision: the definition's steps, as its operating system runs them, and what goes before them."""

from __future__ import annotations

from pipeline.cache.units import UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import Definition


class Provision(BaseStage):
    """The definition's steps."""

    name = "provision"
    version = 2
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        return tuple(context.system.provision_units(context))

    def why_root(self, _definition: Definition) -> str:
        return "it creates the network of its guest"
