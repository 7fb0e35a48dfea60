"""A unit of work: what has a key of its own, and leaves a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.cache.layers import Image, Layer, PendingLayer

#: What a unit sees of the build that runs it. A unit that asks little of a build runs in any build that has that.
Context_contra = TypeVar("Context_contra", contravariant=True)


@dataclass(frozen=True)
class StageResult:
    """What a unit made: the disk it leaves, and facts for the records."""

    image: Image | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True)
class UnitSpec(Generic[Context_contra]):
    """One unit of a stage: its title, all its inputs, and the function that makes its layer.

    A `live` unit runs in the build's guest and leaves its disk at rest only when the runner rotates or ends it.
    """

    title: str
    inputs: Mapping[str, object]
    run: Callable[[Context_contra, Layer | None, PendingLayer], StageResult]
    live: bool = False
    #: The titles of the steps that it runs: `--from` and `--until` take them. None outside of provision.
    steps: tuple[str, ...] = ()
    #: Whether its steps are the definition's own, which `--from 2` counts.
    counted: bool = True
