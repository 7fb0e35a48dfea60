"""prove: clones of the shipped file boot in the cells that the definition names, and are what was asked for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.cache.layers import Draft, Layer
from pipeline.context import BuildContext, StageResult, UnitSpec

NAME = "prove"
VERSION = 3


def plan(context: BuildContext) -> tuple[UnitSpec, ...]:
    definition = context.definition
    inputs: dict[str, object] = {
        "cells": sorted(definition.prove),
        "expect": [asdict_any(expectation) for expectation in definition.expect],
        **({"first boot": definition.first_boot.sample} if definition.first_boot else {}),
    }
    return (UnitSpec(", ".join(definition.prove), inputs, _run),)


def asdict_any(thing: Any) -> dict[str, Any]:
    data: dict[str, Any] = thing.model_dump() if hasattr(thing, "model_dump") else asdict(thing)
    return {"kind": type(thing).__name__, **data}


def _run(context: BuildContext, source: Layer | None, draft: Draft) -> StageResult:
    assert source is not None
    from pipeline.prove import prove

    context.begin_flat_digests(source.image)
    verdicts, trees = prove(context, source.image, draft.path, context.definition.prove, whole=False)
    told = " and ".join(v.told for v in verdicts)
    return StageResult(source.image, {"cells": {v.cell: asdict(v) for v in verdicts}, "trees": trees}, told)
