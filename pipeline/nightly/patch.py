"""Patches a golden master: it is updated and generalized again, where a rebuild of the image would take too long.

Only what the distribution, or Windows Update, changed is brought in that way. Whatever else changed since the image
was last built again (a playbook, the definition, the parent, goldsmith) asks for a rebuild, as does its age. A
Windows can be generalized so many times only: after the last of them it is built again too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipeline.base.printable import listed
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.layers import Layers, digest
from pipeline.context import BuildContext
from pipeline.definition import Definition, MasterSource
from pipeline.engine.plan import COLD, INDEX, plan
from pipeline.engine.stage import STAGES
from pipeline.gallery import Gallery, Version
from pipeline.systems import registry
from pipeline.systems.base import GuestSystem

#: Inputs that change as time goes on. A patch brings these changes in.
_MOVES = frozenset({INDEX, COLD})


def _system(definition: Definition, golden: Version) -> GuestSystem:
    return registry.for_definition(definition, golden.manifest.get("suite"))


def patched(definition: Definition, golden: Version) -> Definition:
    """The definition of the patched version: it starts from golden, installs updates, and passes all gates."""
    return replace(
        definition,
        source=MasterSource(definition.name, golden.version),
        steps=definition.refresh.steps or _system(definition, golden).update_steps(definition),
        refresh=replace(definition.refresh, mode="patch"),
    )


def needs_patch(definition: Definition, golden: Version, store: Store) -> tuple[Definition, str]:
    """The definition to build, and the reason. The reason is empty if there is nothing to build."""
    if changed := "; ".join(_changed(definition, golden, store)):
        return definition, f"rebuilt: {changed}"
    found = _system(definition, golden).updates_for(golden)
    if found is None:
        return definition, ""
    if found and golden.manifest.get("rearms_left") == 0:
        return definition, "rebuilt: golden cannot be generalized again, because no rearm is left"
    return patched(definition, golden), f"newer: {listed(found, 3)}" if found else ""


def _changed(definition: Definition, golden: Version, store: Store) -> Iterator[str]:
    """The inputs other than packages that have changed since golden was last rebuilt, a line for each."""
    root: Mapping[str, Any] = golden.manifest.get("rebuilt") or golden.manifest
    content = {stage.name for stage in STAGES if stage.makes_content}
    old = {(unit["stage"], unit["title"]): unit["inputs"] for unit in root["inputs"] if unit["stage"] in content}
    context = BuildContext(definition, store, NO_RUN, Layers(store.layers), Gallery(store.gallery))
    new = {(unit.stage.name, unit.spec.title): unit.inputs for unit in plan(context) if unit.stage.makes_content}
    moves = _MOVES | _system(definition, golden).moving_inputs
    for place in dict.fromkeys((*old, *new)):
        before, after = old.get(place), new.get(place)
        if before is None or after is None:
            yield f"{place[1]} is {'new' if before is None else 'gone'}"
            continue
        names = sorted({*before, *after} - moves)
        if differ := [name for name in names if digest(before.get(name)) != digest(after.get(name))]:
            yield f"{place[1]}: changed: {', '.join(differ)}"
