"""prove: clones of the shipped file boot on the targets that the definition names, and are what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cache.layers import Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import Definition

if TYPE_CHECKING:
    from pipeline.prove.suites import TestSuite


class Prove(BaseStage):
    """The proof in running clones."""

    name = "prove"
    version = 3
    is_gate = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        definition = context.definition
        inputs: dict[str, object] = {
            "cells": sorted(definition.prove),
            "expect": [asdict_any(expectation) for expectation in definition.expect],
            **({"first boot": definition.first_boot.sample} if definition.first_boot else {}),
            **({"test suites": sorted(definition.test_suites)} if definition.test_suites else {}),
        }
        return (UnitSpec(", ".join(definition.prove), inputs, _run),)

    def why_root(self, _definition: Definition) -> str:
        return "it creates a local Azure network for its clones"


def asdict_any(thing: Any) -> dict[str, Any]:
    data: dict[str, Any] = thing.model_dump() if hasattr(thing, "model_dump") else asdict(thing)
    return {"kind": type(thing).__name__, **data}


def _run(context: BuildContext, source: Layer | None, draft: PendingLayer) -> StageResult:
    assert source is not None
    context.begin_flat_digests(source.image)
    from pipeline.prove.lisa import SUITES

    definition = context.definition
    suites = [SUITES[name] for name in definition.test_suites]
    return _prove(context, source.image, draft.path, definition.prove, whole=False, suites=suites)


def prove_whole(
    context: BuildContext,
    master: Image,
    targets: Sequence[str],
    revocation_list: Path | None = None,
    suites: Sequence[TestSuite] = (),
) -> StageResult:
    """Prove a disk that is there already, with second boots and second clones: in `targets`, or in the whole matrix.

    With `suites`, clones boot once: one, or those of `targets`; the first has the suites run against it.
    Raises as `pipeline.prove.prove`.
    """
    pictures = context.run.folder / "prove"
    if suites and not targets:
        targets = [f"gen{max(context.definition.generations)}"]
    result = _prove(
        context, master, pictures, targets, whole=not suites, revocation_list=revocation_list, suites=suites
    )
    return replace(result, facts={"cells": result.facts["cells"]})


def _prove(
    context: BuildContext,
    master: Image,
    pictures: Path,
    targets: Sequence[str],
    *,
    whole: bool,
    revocation_list: Path | None = None,
    suites: Sequence[TestSuite] = (),
) -> StageResult:
    from pipeline.prove import prove

    results, trees = prove(
        context,
        context.system,
        master,
        pictures,
        targets,
        whole=whole,
        revocation_list=revocation_list,
        suites=suites,
    )
    detail = " and ".join(v.summary for v in results)
    return StageResult(master, {"cells": {v.target: v.to_json() for v in results}, "trees": trees}, detail)
