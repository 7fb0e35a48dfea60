"""Plans a build: every unit with its key, whether its layer is kept or it runs, and why.

Every unit's key is known before anything runs: it is the digest of the stage, its inputs and its source's key. What
is committed under a key is kept; the first unit that is not is where work starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pipeline.base.errors import UsageError
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.layers import Layer, Layers, digest, layer_key
from pipeline.cache.units import UnitSpec
from pipeline.context import BuildContext
from pipeline.definition import Definition
from pipeline.engine import stage as stages
from pipeline.engine.stage import Stage
from pipeline.gallery import Gallery, Version

INDEX = "package index"
#: The input that sets apart what a restored guest made. Its keys are never those of a cold build.
START, WARM = "start", "warm"
#: The input that sets apart what is built with no layer reused.
COLD = "cold"


#: A build that has not started: its context, its units, and the position of the first that would run.
Decided = tuple[BuildContext, list["Unit"], int]


@dataclass(frozen=True)
class Unit:
    """One unit of a stage, with its key and the key of the layer below it."""

    stage: Stage
    spec: UnitSpec[BuildContext]
    key: str
    source: str | None

    @property
    def inputs(self) -> Mapping[str, object]:
        return self.spec.inputs


def plan(
    context: BuildContext, *, warm: bool = False, again: str | None = None, cold: str | None = None
) -> list[Unit]:
    """Every unit of a build with its key, in order. Runs nothing.

    `cold` goes into every key, so that nothing is kept but what was made under the same word.

    `again` is a stage or a step: from it on nothing is kept. A warm build keeps what cold builds left as far as that
    stands, and goes on warm from there.
    """
    units: list[Unit] = []
    source: str | None = None
    former = cache(lambda: _latest(context))  # an unchanged image needs none of it
    reusable, redo = True, False
    for stage in stages.STAGES:
        for spec in stage.units(context):
            unit = _unit(stage, replace(spec, inputs={**spec.inputs, COLD: cold}) if cold else spec, source)
            redo = redo or (again is not None and _is(unit, again, units))
            reusable = reusable and not redo and context.layers.get(unit.key) is not None
            before = None if reusable or redo or cold else former().get((stage.name, spec.title))
            if before is not None and (still := _still_good(context, unit, before)):
                unit, reusable = still, True
            if not reusable and warm and spec.live:
                unit = _unit(stage, replace(spec, inputs={**unit.inputs, START: WARM}), source)
                warm, reusable = False, not redo and context.layers.get(unit.key) is not None
            units.append(unit)
            source = unit.key
    return units


def current_golden(context: BuildContext) -> Version | None:
    """The golden master, if its own record shows that a build would make the same one; its layers may be deleted.

    Every unit's key is that of the record. The state of the archive is an input only where it has something newer for
    the disk: the state that golden was made with stands for it. None for a golden master that was patched since, or
    made from a saved guest, and where there is none.
    """
    golden = context.gallery.find(context.definition.name)
    if golden is None or golden.manifest.get("patched_from") or golden.manifest.get("start") == WARM:
        return None
    recorded = [(str(unit["stage"]), unit.get("title"), unit) for unit in golden.manifest.get("inputs", ())]
    if not recorded or not _is_described(context, golden):
        return None
    specs = [(stage, spec) for stage in stages.STAGES if not stage.makes_version for spec in stage.units(context)]
    if [(stage.name, spec.title) for stage, spec in specs] != [entry[:2] for entry in recorded]:
        return None
    source: str | None = None
    older_index = False
    for (stage, spec), (_, _, before) in zip(specs, recorded, strict=True):
        inputs = dict(spec.inputs)
        if INDEX in inputs and before["inputs"].get(INDEX) not in (None, inputs[INDEX]):
            inputs[INDEX] = before["inputs"][INDEX]
            older_index = True
        source = layer_key(stage.name, stage.version, inputs, source)
        if source != before.get("key"):
            return None
    return None if older_index and context.outdated_packages(golden.image) != [] else golden


def _is_described(context: BuildContext, golden: Version) -> bool:
    """Whether golden's manifest has the definition's summary and caching, which no layer below capture has."""
    caching = {disk.lun: disk.caching for disk in golden.data_disks}
    return golden.manifest.get("summary") == context.definition.summary and caching == {
        disk.lun: disk.caching for disk in context.data_disks
    }


def _unit(stage: Stage, spec: UnitSpec[BuildContext], source: str | None) -> Unit:
    return Unit(stage, spec, layer_key(stage.name, stage.version, spec.inputs, source), source)


def _still_good(context: BuildContext, unit: Unit, former: Layer) -> Unit | None:
    """The unit with its former package index, if the new index has no newer version of a package on its disk."""
    if INDEX not in unit.inputs or former.record["inputs"].get(INDEX) is None:
        return None
    inputs = {**unit.inputs, INDEX: former.record["inputs"][INDEX]}
    same = _unit(unit.stage, replace(unit.spec, inputs=inputs), unit.source)
    if same.key != former.key or same.key == unit.key:
        return None
    return same if context.outdated(former) == [] else None


def _is(unit: Unit, word: str, before: Sequence[Unit]) -> bool:
    """Whether a word (a stage's name, a step's title or number) names this unit, or a stage before this unit."""
    first = sum(len(each.spec.steps) for each in before if each.spec.counted) + 1
    numbers = [str(number) for number, _ in enumerate(unit.spec.steps, first)] if unit.spec.counted else []
    if word in (*unit.spec.steps, *numbers):
        return True
    return word in stages.stage_names() and _rank(unit) >= stages.position_of(word)


def _rank(unit: Unit) -> int:
    return stages.position_of(unit.stage.name)


def begin_of(units: Sequence[Unit], word: str) -> int:
    """Where a stage, or a step, begins; see check_word."""
    return next(i for i, unit in enumerate(units) if _is(unit, word, units[:i]))


def end_of(units: Sequence[Unit], word: str) -> int:
    """Behind the last unit of a stage, or behind a step; see check_word."""
    if word not in stages.stage_names():
        return begin_of(units, word) + 1
    return 1 + max(i for i, unit in enumerate(units) if _rank(unit) <= stages.position_of(word))


def check_word(definition: Definition, word: str | None) -> None:
    """Raises UsageError for a word that is neither a stage nor a step, before anything is made."""
    numbers = [str(number) for number, _ in enumerate(definition.steps, 1)]
    titles = [step.title for step in definition.steps]
    if definition.updates:
        titles.insert(0, definition.updates.title)
    if word is not None and word not in (*stages.stage_names(), *titles, *numbers):
        raise _unknown(word, titles)


def _unknown(word: str, steps: Sequence[str]) -> UsageError:
    known = f"stages: {', '.join(stages.stage_names())}" + (f"; steps: {', '.join(steps)}" if steps else "")
    return UsageError(f"there is no stage or step {word}", name="stage-unknown", hint=known)


def reusable_prefix(units: Sequence[Unit], layers: Layers) -> int:
    """How many units from the start need not run.

    Layers up to the master's disk stand on each other's files; that disk stands alone, so that a build can go on from
    it when the layers below were pruned.
    """
    master = position_of_master(units)
    good = [layers.get(unit.key) is not None for unit in units]
    if good[master]:
        return _run_length(good, master)
    return min(_run_length(good, 0), master)


def position_of_master(units: Sequence[Unit]) -> int:
    """The unit that leaves the disk that ships."""
    return [unit.stage.makes_master for unit in units].index(True)


def _run_length(good: Sequence[bool], start: int) -> int:
    return next((i for i in range(start, len(good)) if not good[i]), len(good))


# ---- telling it --------------------------------------------------------------------------------------------------


def explain(
    definition: Definition, store: Store, *, warm: bool = False, again: str | None = None
) -> list[dict[str, str]]:
    """A row for each unit: keep or run, and why: the inputs that differ from its latest layer of this image."""
    return explain_decided(decide(definition, store, warm, again), warm, again)


def explain_decided(decided: Decided, warm: bool, again: str | None) -> list[dict[str, str]]:
    """As `explain`, of what `decide` returned."""
    context, units, begin = decided
    if again is None and not warm and begin < len(units) and current_golden(context):
        # its layers are gone, and nothing would come of making them again
        begin = len(units)
    return explain_units(context, units, begin)


def explain_units(context: BuildContext, units: Sequence[Unit], begin: int) -> list[dict[str, str]]:
    """As `explain`, of a build that keeps the first `begin` units."""
    former = _latest(context) if begin < len(units) else {}
    rows = []
    for position, unit in enumerate(units):
        action = "keep" if position < begin else "run"
        why = ""
        if action == "run":
            old = former.get((unit.stage.name, unit.spec.title))
            why = "; ".join(_why(context, unit, old, position > begin))
        rows.append(
            {"stage": unit.stage.name, "title": unit.spec.title, "action": action, "why": why, "key": unit.key}
        )
    return rows


def decide(
    definition: Definition, store: Store, warm: bool, again: str | None, layers: Layers | None = None
) -> Decided:
    """The units of a build that has not started, and the position of the first unit that would run.

    `layers` are those of the store, from a caller that plans many images.
    """
    check_word(definition, again)
    store.ensure()
    context = BuildContext(definition, store, NO_RUN, layers or Layers(store.layers), Gallery(store.gallery))
    units = plan(context, warm=warm, again=again)
    begin = reusable_prefix(units, context.layers)
    if again is not None:
        begin = min(begin, begin_of(units, again))
    return context, units, begin


def root_needed_for(
    definition: Definition, store: Store, *, warm: bool = False, again: str | None = None, until: str | None = None
) -> str:
    """The first stage of a build that needs root, as 'STAGE: why'; '' if write access to the store is enough."""
    check_word(definition, until)
    return first_root_stage(decide(definition, store, warm, again), until)


def first_root_stage(decided: Decided, until: str | None = None) -> str:
    """As `root_needed_for`, of what `decide` returned."""
    context, units, begin = decided
    for unit in units[begin : end_of(units, until) if until is not None else len(units)]:
        if why := unit.stage.why_root(context.definition):
            return f"{unit.stage.name}: {why}"
    return ""


def _latest(context: BuildContext) -> dict[tuple[str, str], Layer]:
    """This image's newest layer of each unit."""
    mine = (layer for layer in context.layers.of_image(context.definition.name) if COLD not in layer.record["inputs"])
    ordered = sorted(mine, key=lambda layer: str(layer.record["created"]))
    return {(str(layer.record["stage"]), str(layer.record.get("title"))): layer for layer in ordered}


def _why(context: BuildContext, unit: Unit, before: Layer | None, after_first: bool) -> Iterator[str]:
    if before is None:
        yield "new"
        return
    old, new = before.record["inputs"], unit.inputs
    changed = [name for name in sorted({*old, *new}) if digest(old.get(name)) != digest(new.get(name))]
    if changed:
        yield "changed: " + ", ".join(changed)
        if INDEX in changed and (newer := context.outdated(before)):
            yield "newer: " + ", ".join(newer[:5]) + (" ..." if len(newer) > 5 else "")
        return
    if before.record.get("version") != unit.stage.version:
        yield f"changed: goldsmith's own {unit.stage.name}"
        return
    yield "the layer below it is run" if after_first else "it was requested, or its layer is missing"
