"""generalize: the guest forgets who it is, and powers itself off. A forced power-off is never a generalized disk."""

from __future__ import annotations

from pipeline.cache.units import UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import Definition


class Generalize(BaseStage):
    """The identity removed, and the guest shut down."""

    name = "generalize"
    version = 2
    makes_content = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        if context.definition.generalize.agent == "outside":
            return ()
        return tuple(context.system.generalize_units(context))

    def why_root(self, _definition: Definition) -> str:
        return "it creates the network of its guest"
