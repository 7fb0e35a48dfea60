"""The runner: keeps what is good of a plan, runs what is not, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline import prove as proof
from pipeline.base import locks
from pipeline.base.errors import BuildError, GoldsmithError, Interrupted
from pipeline.base.file_errors import describe_os_error
from pipeline.base.runs import Run, Stopwatch, now, write_json
from pipeline.base.store import Store
from pipeline.cache.layers import Draft, Image, Layer, Layers
from pipeline.context import BuildContext
from pipeline.definition import Definition
from pipeline.engine.plan import START, WARM, Unit, begin_of, check_word, end_of, golden_stands, plan, standing
from pipeline.gallery import GOLDEN, Gallery, Version
from pipeline.gallery.retention import withdrawn
from pipeline.guest.playbook_check import require_good_playbooks
from pipeline.hypervisor.domains import mark_kept
from pipeline.maintenance.gc import planning, sweep_dead
from pipeline.stages import capture, convert, inspect, prove, provision

#: Seconds that a build waits for another build of the same image.
PATIENCE = 4 * 3600.0
#: The stages whose no is a judgement of a finished disk.
GATES = (inspect.NAME, prove.NAME)


@dataclass(frozen=True)
class Outcome:
    """How a build ended. `shipped` is the VHD that convert made, `layers` are the keys that it stands on."""

    run: str
    version: Version | None
    unchanged: bool
    seconds: float
    shipped: Path | None = None
    layers: tuple[str, ...] = ()


def build(
    definition: Definition,
    store: Store,
    *,
    command: str,
    from_stage: str | None = None,
    until: str | None = None,
    warm: bool = False,
    keep_failed: bool = False,
    listeners: Sequence[Any] = (),
    cold: str | None = None,
) -> Outcome:
    """Build one definition as far as asked; `from_stage` and `until` name a stage or a step.

    `cold` is a word that sets this build's layers apart from all others: none is reused but those of the same word.

    Raises GoldsmithError; the run's record and its black box tell the rest. Whatever happens, no domain, lock or
    scratch of this run stays, but for a guest that `keep_failed` keeps.
    """
    for word in (from_stage, until):
        check_word(definition, word)
    store.ensure()
    watch = Stopwatch()
    run = Run.start(store.runs, definition.name, command)
    for listener in listeners:
        run.listen(listener)
    layers, gallery = Layers(store.layers), Gallery(store.gallery)
    context = BuildContext(definition, store, run, layers, gallery, keep_failed=keep_failed)
    lock = FileLock(store.tmp / f"build-{definition.name}.lock", thread_local=False)
    try:
        locks.acquire(
            lock,
            f"another build of {definition.name}",
            deadline=PATIENCE,
            name="image-locked",
            runs=store.runs,
            image=definition.name,
            on_wait=lambda text: run.emit("note", "", text),
        )
        sweep_dead(store, context)
        unchanged = _run(context, from_stage, until, warm, cold)
    except GoldsmithError as error:
        _fail(context, error)
        raise
    except OSError as error:
        # the disk is full, or a file of the project has gone while it was built
        told = describe_os_error(error)
        named = BuildError(told.message, name="host-file-error", hint=told.hint)
        _fail(context, named)
        raise named from error
    except BaseException as error:
        _fail(
            context,
            BuildError(
                f"{type(error).__name__}: {error}",
                name="internal",
                hint="a fault of goldsmith: report it, with the run's folder",
            ),
        )
        raise
    finally:
        if not (keep_failed and run.record.get("kept_guest")):
            context.close()
        lock.release()
    captured = next((layer for stage, layer in context.made if stage == capture.NAME), None)
    number = str(captured.facts.get("version")) if captured else GOLDEN
    version = gallery.find(definition.name, number) if captured or (unchanged and until is None) else None
    shipped = next((layer.image.path for stage, layer in context.made if stage == convert.NAME), None)
    run.finish("unchanged" if unchanged else "done")
    run.emit("saved", "", str(run.folder))
    keys = tuple(layer.key for _, layer in context.made)
    return Outcome(run.id, version, unchanged, watch.seconds, shipped, keys)


def _run(context: BuildContext, from_stage: str | None, until: str | None, warm: bool, cold: str | None) -> bool:
    """Run what is not there yet. True when nothing had to run."""
    with planning(context.store):
        units = plan(context, warm=warm, again=from_stage, cold=cold)
        context.run.note(layers=[unit.key for unit in units])
    if from_stage is not None:
        for unit in units[begin_of(units, from_stage) :]:
            context.layers.drop(unit.key)
    end = end_of(units, until) if until is not None else len(units)
    if _is_built(context, units, asked=from_stage or until or warm or cold):
        return True
    begin = _sound(context, units, min(standing(units, context.layers), end))
    # a later layer left over from other times may stand on files that are made anew now
    for unit in units[begin:]:
        context.layers.drop(unit.key)
    _kept(context, units[:begin])
    context.made = [(unit.stage, layer) for unit in units[:begin] if (layer := context.layers.get(unit.key))]
    for _, layer in context.made:
        layer.touch()
    context.warm = any(unit.inputs.get(START) == WARM for unit in units[:begin])
    if begin == end:
        if end == len(units) and not context.warm:
            _point_golden(context, units[-1])
        return True
    if any(unit.stage == provision.NAME for unit in units[begin:end]):
        require_good_playbooks([context.definition], context.store)
    _ = context.accelerator  # said before the first stage, refused before anything starts
    source = context.made[-1][1] if begin else None
    draft: Draft | None = None
    for position in range(begin, end):
        following = units[position + 1] if position + 1 < end else None
        source, draft = _unit(context, units[position], source, draft, following)
        context.made.append((units[position].stage, source))
    return False


def _is_built(context: BuildContext, units: Sequence[Unit], *, asked: object) -> bool:
    """Whether golden is what a build would make, although layers of it are gone. Where one was `asked` for, never."""
    if asked or standing(units, context.layers) == len(units) or golden_stands(context) is None:
        return False
    context.run.emit("note", "", "golden is what this definition makes; its layers are gone, and not made anew")
    return True


def _sound(context: BuildContext, units: Sequence[Unit], begin: int) -> int:
    """How many of the first `begin` units are still what was committed; the first that is not is named.

    Once there is a VHD, the layers below it are not used any more.
    """
    shipped = next(i for i, unit in enumerate(units) if unit.stage == convert.NAME)
    for position in range(shipped if shipped < begin else 0, begin):
        unit = units[position]
        layer = context.layers.get(unit.key)
        if layer is not None and (changed := layer.changed()):
            context.run.emit("note", "", f"{unit.stage} {unit.spec.title}: {changed}: made anew")
            return position
    return begin


def _kept(context: BuildContext, units: Sequence[Unit]) -> None:
    for stage in dict.fromkeys(unit.stage for unit in units):
        count = sum(unit.stage == stage for unit in units)
        detail = f"{count} layers" if count > 1 else ""
        context.run.stage(stage, "kept", seconds=0.0, detail=detail)
        context.run.emit("end", stage, f"kept\t{detail}")


def _point_golden(context: BuildContext, unit: Unit) -> None:
    """A definition that was changed and changed back: golden is what it says now."""
    layer = context.layers.get(unit.key)
    current = context.gallery.find(context.definition.name)
    if layer is None:
        return
    wanted = context.gallery.find(context.definition.name, str(layer.facts.get("version")))
    if wanted is None or wanted.version in withdrawn(context.gallery, wanted.name):
        return  # somebody took it back: only another build, or `gallery promote`, makes golden anew
    if current is not None and (current.manifest.get("rebuilt") or {}).get("version") == wanted.version:
        return  # golden is the same, with the patches that have come since
    if current is None or current.version != wanted.version:
        context.gallery.promote(wanted, GOLDEN)
        context.run.emit("note", "", f"golden is {wanted.version} again")


def _unit(
    context: BuildContext, unit: Unit, source: Layer | None, draft: Draft | None, following: Unit | None
) -> tuple[Layer, Draft | None]:
    """Make one layer. `draft` is there already when the running guest writes into it."""
    context.stage = unit.stage
    context.warm = context.warm or unit.inputs.get(START) == WARM
    watch = context.watch = Stopwatch()
    context.run.emit("start", unit.stage, unit.spec.title)
    begun = draft or context.layers.begin(unit.key)
    if isinstance(begun, Layer):
        # another build made the very same layer while this one waited for its lock
        context.run.stage(unit.stage, "kept", seconds=watch.seconds, detail=unit.spec.title)
        context.run.emit("end", unit.stage, "kept\tby another build", watch.seconds)
        return begun, None
    next_draft: Draft | None = None
    try:
        made = unit.spec.run(context, source, begun)
        if context.session is not None:
            next_draft = _hand_over(context, following)
        layer = begun.commit(
            stage=unit.stage,
            inputs=unit.spec.inputs,
            source=unit.source,
            image=made.image,
            title=unit.spec.title,
            seconds=round(watch.seconds, 2),
            facts=made.facts,
            run=context.run.id,
            name=context.definition.name,
            version=unit.version,
        )
    except BaseException as error:
        _black_box(context, error)
        for scratch in (begun, next_draft):
            if scratch is not None and not context.run.record.get("kept_guest"):
                context.close()
                scratch.discard()
        raise
    context.run.stage(
        unit.stage, "new", seconds=watch.seconds, detail=made.detail, title=unit.spec.title, key=unit.key
    )
    context.run.emit("end", unit.stage, f"new\t{made.detail}", watch.seconds)
    return layer, next_draft


def _hand_over(context: BuildContext, following: Unit | None) -> Draft | None:
    """Bring the running guest's disk to rest: it writes into the next unit's draft, or it is shut down."""
    if following is not None and following.spec.live:
        begun = context.layers.begin(following.key)
        if isinstance(begun, Draft):
            try:
                context.rotate(begun)
            except BaseException:
                begun.discard()
                raise
            return begun
    context.end_guest()
    return None


# ---- when it fails -----------------------------------------------------------------------------------------------


def _black_box(context: BuildContext, error: BaseException) -> None:
    """Gather what the guest can still tell, while it is there."""
    if context.session is None:
        return
    context.session.black_box(quick=isinstance(error, Interrupted))
    if context.keep_failed and context.session.machine.stopped is None and not isinstance(error, Interrupted):
        mark_kept(context.session.machine)
        context.session.machine.keep = True
        context.run.note(kept_guest={"domain": context.session.spec.name, **context.session.told()})


def _fail(context: BuildContext, error: GoldsmithError) -> None:
    error.evidence = error.evidence or context.run.folder
    interrupted = isinstance(error, Interrupted)
    if context.stage:
        state = "interrupted" if interrupted else "failed"
        context.run.stage(context.stage, state, seconds=context.watch.seconds, detail=error.name)
        context.run.emit("end", context.stage, f"{state}\t{error.name}", context.watch.seconds)
    context.run.finish("interrupted" if interrupted else "failed", error)
    write_json(context.run.folder / "failure.json", {**context.run.record["error"], "stage": context.stage})
    shipped = next((layer for stage, layer in reversed(context.made) if stage == convert.NAME), None)
    if shipped is not None and not interrupted and context.stage in GATES:
        told = {"gate": context.stage, "name": error.name, "why": error.message, "run": context.run.id, "when": now()}
        context.gallery.refuse(context.definition.name, {**told, "disk": str(shipped.image.path)})


def prove_again(
    definition: Definition,
    name: str,
    master: Image,
    store: Store,
    *,
    command: str,
    listeners: Sequence[Any],
    cells: Sequence[str] = (),
) -> Run:
    """Prove a disk that is there: in `cells`, or in all that its generations allow. Raises as the stage does."""
    store.ensure()
    run = Run.start(store.runs, name, command)
    for listener in listeners:
        run.listen(listener)
    context = BuildContext(definition, store, run, Layers(store.layers), Gallery(store.gallery), stage=prove.NAME)
    watch = Stopwatch()
    try:
        sweep_dead(store, context)
        _ = context.accelerator
        run.emit("start", prove.NAME, ", ".join(cells) or "all cells")
        verdicts, _trees = proof.prove(context, master, run.folder / "prove", cells, whole=True)
    except GoldsmithError as error:
        _fail(context, error)
        raise
    told = " and ".join(verdict.told for verdict in verdicts)
    run.stage(prove.NAME, "ok", seconds=watch.seconds, detail=told, cells={v.cell: asdict(v) for v in verdicts})
    run.emit("end", prove.NAME, f"ok\t{told}", watch.seconds)
    run.finish("done")
    return run
