"""Patches a golden master: it is updated and generalized again, where a rebuild of the image would take too long.

Only what the distribution, or Windows Update, changed is brought in that way. Whatever else changed since the image
was last built anew (a playbook, the definition, the parent, goldsmith) asks for a rebuild, as does its age. A Windows
can be generalized so many times only: after the last of them it is built anew too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.base.errors import HostError
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.layers import Layers, digest
from pipeline.checks import list_disk
from pipeline.context import BuildContext
from pipeline.definition import Definition, MasterSource, ScriptStep
from pipeline.engine.plan import COLD, INDEX, plan
from pipeline.engine.stage import STAGES
from pipeline.gallery import Gallery, Version
from pipeline.systems.debian import apt
from pipeline.systems.windows import updates

#: What a patch of a Linux runs where the definition names no steps.
UPDATES = Path(__file__).parents[1] / "systems" / "linux" / "inside" / "updates.sh"
#: Inputs that change as time goes on. A patch brings these changes in.
_MOVES = frozenset({INDEX, COLD, updates.RELEASED})


def patched(definition: Definition, golden: Version) -> Definition:
    """The definition of the patched version: it starts from golden, installs updates, and passes all gates."""
    # those of a Windows are a key of its own, which stays as it is
    own = () if definition.os == "windows" else (ScriptStep(file=UPDATES, script=UPDATES.name, name="updates"),)
    return replace(
        definition,
        source=MasterSource(definition.name, golden.version),
        steps=definition.refresh.steps or own,
        refresh=replace(definition.refresh, mode="patch"),
    )


def needs_patch(definition: Definition, golden: Version, store: Store) -> tuple[Definition, str]:
    """The definition to build, and the reason. The reason is empty if there is nothing to build."""
    if changed := "; ".join(_changed(definition, golden, store)):
        return definition, f"built anew: {changed}"
    found = pending_updates(golden) if definition.os == "windows" else outdated(golden)
    if found is None:
        return definition, ""
    if found and golden.manifest.get("rearms_left") == 0:
        return definition, "built anew: golden cannot be generalized once more: no rearm is left"
    more = " ..." if len(found) > 3 else ""
    return patched(definition, golden), f"newer: {', '.join(found[:3])}{more}" if found else ""


def outdated(golden: Version) -> list[str] | None:
    """The packages of a master that have newer versions in its archive. None if the master has no suite.

    Raises HostError (archive-not-reached): a night that could not look must not say that nothing is newer.
    """
    suite = golden.manifest.get("suite")
    if not suite:
        return None
    rows = list_disk(golden.disk, golden.format.key, what="packages")
    found = apt.newer(str(suite), {name: version for name, version, _ in rows})
    if found is None:
        raise HostError(
            f"the archive of {suite} does not answer: whether {golden.name} has outdated packages is not known",
            name="archive-not-reached",
            hint="look at the host's network, and at the mirror in /etc/apt: a suite past its end moves to another",
        )
    return found


def pending_updates(golden: Version) -> list[str] | None:
    """The updates that Microsoft has released since a Windows master looked for them; None where it never did."""
    inputs = (unit["inputs"] for unit in golden.manifest["inputs"])
    looked = next((str(each[updates.RELEASED]) for each in inputs if updates.RELEASED in each), None)
    if looked is None:
        return None
    day = updates.today().isoformat()
    return [f"updates of {day}"] if looked < day else []


def _changed(definition: Definition, golden: Version, store: Store) -> Iterator[str]:
    """The inputs other than packages that have changed since golden was last rebuilt, a line for each."""
    root: Mapping[str, Any] = golden.manifest.get("rebuilt") or golden.manifest
    content = {stage.name for stage in STAGES if stage.makes_content}
    old = {(unit["stage"], unit["title"]): unit["inputs"] for unit in root["inputs"] if unit["stage"] in content}
    context = BuildContext(definition, store, NO_RUN, Layers(store.layers), Gallery(store.gallery))
    new = {(unit.stage.name, unit.spec.title): unit.inputs for unit in plan(context) if unit.stage.makes_content}
    for place in dict.fromkeys((*old, *new)):
        before, after = old.get(place), new.get(place)
        if before is None or after is None:
            yield f"{place[1]} is {'new' if before is None else 'gone'}"
            continue
        names = sorted({*before, *after} - _MOVES)
        if differ := [name for name in names if digest(before.get(name)) != digest(after.get(name))]:
            yield f"{place[1]}: changed: {', '.join(differ)}"
