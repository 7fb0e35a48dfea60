"""The protocol of a stage, and the stages of a build in order.

The engine asks a stage what it is (a gate, the maker of the master's disk, ...), never which one it is: no other
module of this package names one.
"""

from __future__ import annotations

from typing import Protocol

from pipeline.cache.units import UnitSpec
from pipeline.context import BuildContext
from pipeline.definition import Definition
from pipeline.stages.acquire import Acquire
from pipeline.stages.capture import Capture
from pipeline.stages.convert import Convert
from pipeline.stages.generalize import Generalize
from pipeline.stages.inspect import Inspect
from pipeline.stages.install import Install
from pipeline.stages.prove import Prove
from pipeline.stages.provision import Provision


class Stage(Protocol):
    """One stage of a build. `pipeline.context.BaseStage` has the answers that most give."""

    @property
    def name(self) -> str:
        """What the command line, records and layer keys call it."""
        ...

    @property
    def version(self) -> int:
        """Part of every layer key: raise it where the stage makes something else of the same inputs."""
        ...

    @property
    def is_gate(self) -> bool:
        """Whether its failure is a verdict on the disk that would ship, which the gallery then remembers."""
        ...

    @property
    def makes_content(self) -> bool:
        """Whether its inputs decide what is on the master's disk."""
        ...

    @property
    def makes_master(self) -> bool:
        """Whether it leaves the disk that ships. That disk stands alone: the layers below it may be pruned."""
        ...

    @property
    def makes_version(self) -> bool:
        """Whether it leaves a version in the gallery, whose number is the fact `version` of its layer."""
        ...

    def units(self, context: BuildContext, /) -> tuple[UnitSpec[BuildContext], ...]:
        """What it consists of for this definition, in order, with all inputs. Runs nothing and boots nothing."""
        ...

    def why_root(self, definition: Definition, /) -> str:
        """Why its units need root; empty where a user who may write to the store can run them."""
        ...


STAGES: tuple[Stage, ...] = (
    Acquire(),
    Install(),
    Provision(),
    Generalize(),
    Convert(),
    Inspect(),
    Prove(),
    Capture(),
)


def stage_names() -> tuple[str, ...]:
    return tuple(stage.name for stage in STAGES)


def master_stage() -> Stage:
    """The stage that leaves the disk that ships."""
    return next(stage for stage in STAGES if stage.makes_master)


def find_stage(name: str) -> Stage | None:
    return next((stage for stage in STAGES if stage.name == name), None)


def position_of(name: str) -> int:
    """A stage's place in the order of stages. Raises ValueError for a name that is not a stage's."""
    return stage_names().index(name)
