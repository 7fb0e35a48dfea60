"""Runs a build: keeps every layer that is still good, makes the others, and leaves nothing else behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base import locks
from pipeline.base.errors import BuildError, GoldsmithError, Interrupted, UsageError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.memory import return_large_blocks
from pipeline.base.runs import Run, Stopwatch, now, write_json
from pipeline.base.store import Store
from pipeline.cache.layers import Layer, Layers, PendingLayer
from pipeline.cache.units import StageResult
from pipeline.context import BuildContext
from pipeline.definition import Definition
from pipeline.engine.plan import (
    START,
    WARM,
    Unit,
    begin_of,
    check_word,
    current_golden,
    end_of,
    explain_units,
    plan,
    position_of_master,
    reusable_prefix,
)
from pipeline.engine.run_report import write_page
from pipeline.engine.stage import Stage, find_stage
from pipeline.gallery import GOLDEN, Gallery, Version
from pipeline.gallery.retention import withdrawn
from pipeline.guest.playbook_check import require_good_playbooks
from pipeline.guest.step_log import masked
from pipeline.hypervisor.domains import mark_kept
from pipeline.maintenance.gc import cache_lock, collect_orphans, in_use

#: Seconds that a build waits for another build of the same image.
TIMEOUT = 4 * 3600.0


@dataclass(frozen=True)
class Outcome:
    """The result of a build. `shipped` is the disk that ships, `layers` are the keys of its layers."""

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
    return_large_blocks()
    store.ensure()
    watch = Stopwatch()
    run = Run.start(store.runs, definition.name, command)
    for listener in listeners:
        run.listen(listener)
    layers, gallery = Layers(store.layers), Gallery(store.gallery)
    context = BuildContext(definition, store, run, layers, gallery, keep_failed=keep_failed)
    lock = FileLock(store.tmp / f"build-{definition.name}.lock", thread_local=False)
    try:
        with _recorded(context):
            locks.acquire(
                lock,
                f"another build of {definition.name}",
                deadline=TIMEOUT,
                name="image-locked",
                runs=store.runs,
                image=definition.name,
                on_wait=lambda text: run.emit("note", "", text),
            )
            collect_orphans(store, context)
            unchanged = _run(context, from_stage, until, warm, cold)
    finally:
        if not (keep_failed and run.record.get("kept_guest")):
            context.close()
        lock.release()
    captured, shipped = _captured(context), _shipped(context)
    number = str(captured.facts.get("version")) if captured else GOLDEN
    version = gallery.find(definition.name, number) if captured or (unchanged and until is None) else None
    run.finish("unchanged" if unchanged else "done")
    if not unchanged:
        write_page(context, version if captured else None)
    run.emit("saved", "", str(run.folder))
    keys = tuple(layer.key for _, layer in context.made)
    return Outcome(run.id, version, unchanged, watch.seconds, shipped.image.path if shipped else None, keys)


def _captured(context: BuildContext) -> Layer | None:
    """The layer that tells which version this build has made, or stands on."""
    return _layer_where(context, lambda stage: stage.makes_version)


def _shipped(context: BuildContext) -> Layer | None:
    """The layer with the disk that ships, as far as the build has come that far."""
    return _layer_where(context, lambda stage: stage.makes_master)


def _layer_where(context: BuildContext, fits: Callable[[Stage], bool]) -> Layer | None:
    return next((layer for name, layer in context.made if (stage := find_stage(name)) and fits(stage)), None)


def _run(context: BuildContext, from_stage: str | None, until: str | None, warm: bool, cold: str | None) -> bool:
    """Run the units that have no layer yet. True if nothing had to run."""
    decided = _decide(context, from_stage, until, warm, cold)
    if decided is None:
        return True
    units, begin, end, source = decided
    _kept(context, units[:begin])
    context.made = [(unit.stage.name, layer) for unit in units[:begin] if (layer := context.layers.get(unit.key))]
    for _, layer in context.made:
        layer.mark_used()
    context.warm = any(unit.inputs.get(START) == WARM for unit in units[:begin])
    if begin == end:
        if end == len(units) and not context.warm:
            _point_golden(context, units[-1])
        return True
    if any(unit.spec.steps for unit in units[begin:end]):
        require_good_playbooks([context.definition], context.store)
    _ = context.accelerator  # reported before the first stage, refused before anything starts
    draft: PendingLayer | None = None
    for position in range(begin, end):
        following = units[position + 1] if position + 1 < end else None
        source, draft = _unit(context, units[position], source, draft, following)
        context.made.append((units[position].stage.name, source))
    return False


def _decide(
    context: BuildContext, from_stage: str | None, until: str | None, warm: bool, cold: str | None
) -> tuple[Sequence[Unit], int, int, Layer | None] | None:
    """(the units, the first that runs, the end, the layer that the first one stands on), None if golden is current.

    Images share layers. A run that has noted a layer has decided, under the same lock, that it stands on it or makes
    it: no other build deletes it then, but waits for it. Raises UsageError (layers-in-use).
    """
    with cache_lock(context.store):
        used = in_use(context.store)
        units = plan(context, warm=warm, again=from_stage, cold=cold)
        if from_stage is not None:
            _drop_again(context, units[begin_of(units, from_stage) :], used, from_stage)
        end = end_of(units, until) if until is not None else len(units)
        if _is_built(context, units, asked=from_stage or until or warm or cold):
            return None
        begin, source = _begin(context, units, end)
        if begin < end:
            context.run.note(plan=explain_units(context, units[:end], begin))
            # a later layer left over from other times may stand on files that are made again now
            for unit in units[begin:]:
                if unit.key not in used:
                    context.layers.drop(unit.key)
        context.run.note(layers=[unit.key for unit in units[:end]])
    return units, begin, end, source


def _drop_again(context: BuildContext, units: Sequence[Unit], used: Collection[str], word: str) -> None:
    if any(unit.key in used for unit in units):
        raise UsageError(
            f"another build uses layers that --from {word} makes again",
            name="layers-in-use",
            hint="wait until it ends (goldsmith runs list), then build again",
        )
    for unit in units:
        context.layers.drop(unit.key)


def _is_built(context: BuildContext, units: Sequence[Unit], *, asked: object) -> bool:
    """Whether a build would make golden again, although its layers are deleted. False if a part is `asked` for."""
    if asked or reusable_prefix(units, context.layers) == len(units) or current_golden(context) is None:
        return False
    context.run.emit("note", "", "golden matches this definition; its deleted layers are not built again")
    return True


def _begin(context: BuildContext, units: Sequence[Unit], end: int) -> tuple[int, Layer | None]:
    """How many of the first `end` units are kept, and the layer of the last one, on which the next unit runs."""
    begin = _sound(context, units, min(reusable_prefix(units, context.layers), end))
    # somebody may delete a layer at this moment: the next unit must not run on the one below it
    while begin and (source := context.layers.get(units[begin - 1].key)) is None:
        begin = min(begin - 1, reusable_prefix(units, context.layers))
    return begin, source if begin else None


def _sound(context: BuildContext, units: Sequence[Unit], begin: int) -> int:
    """How many of the first `begin` units have unchanged files; the first changed layer is reported.

    Once there is a VHD, the layers below it are not used any more.
    """
    shipped = position_of_master(units)
    for position in range(shipped if shipped < begin else 0, begin):
        unit = units[position]
        layer = context.layers.get(unit.key)
        if layer is not None and (changed := layer.changed()):
            context.run.emit("note", "", f"{unit.stage.name} {unit.spec.title}: {changed}, so it is built again")
            return position
    return begin


def _kept(context: BuildContext, units: Sequence[Unit]) -> None:
    names = [unit.stage.name for unit in units]
    for stage in dict.fromkeys(names):
        count = names.count(stage)
        detail = f"{count} layers" if count > 1 else ""
        context.run.stage(stage, "kept", seconds=0.0, detail=detail)
        context.run.emit("end", stage, f"kept\t{detail}")


def _point_golden(context: BuildContext, unit: Unit) -> None:
    """Promote the version that the definition describes, for example after a change that was undone."""
    layer = context.layers.get(unit.key)
    current = context.gallery.find(context.definition.name)
    if layer is None:
        return
    wanted = context.gallery.find(context.definition.name, str(layer.facts.get("version")))
    if wanted is None or wanted.version in withdrawn(context.gallery, wanted.name):
        return  # somebody took it back: only another build, or `gallery promote`, makes golden again
    if current is not None and (current.manifest.get("rebuilt") or {}).get("version") == wanted.version:
        return  # golden is the same, with the patches that have come since
    if current is None or current.version != wanted.version:
        context.gallery.promote(wanted, GOLDEN)
        context.run.emit("note", "", f"golden is {wanted.version} again")


def _unit(
    context: BuildContext, unit: Unit, source: Layer | None, draft: PendingLayer | None, following: Unit | None
) -> tuple[Layer, PendingLayer | None]:
    """Make one layer. `draft` exists already if the running guest writes into it."""
    name = context.stage = unit.stage.name
    context.warm = context.warm or unit.inputs.get(START) == WARM
    watch = context.watch = Stopwatch()
    context.run.emit("start", name, unit.spec.title)
    begun = draft or context.layers.begin(unit.key)
    if isinstance(begun, Layer):
        # another build made the very same layer while this one waited for its lock
        context.run.stage(name, "kept", seconds=watch.seconds, detail=unit.spec.title)
        context.run.emit("end", name, "kept\tby another build", watch.seconds)
        return begun, None
    next_draft: PendingLayer | None = None
    try:
        # a file may be edited while an earlier unit runs, or this one: the layer would not be what its key says
        unit.spec.require_unchanged(new_files=True)
        made = unit.spec.run(context, source, begun)
        # a playbook may write a new file beside itself, such as a password that it draws
        unit.spec.require_unchanged(new_files=False)
        if context.session is not None:
            next_draft = _hand_over(context, following)
        layer = begun.commit(
            stage=name,
            inputs=unit.spec.inputs,
            source=unit.source,
            image=made.image,
            title=unit.spec.title,
            seconds=round(watch.seconds, 2),
            facts=made.facts,
            run=context.run.id,
            name=context.definition.name,
            version=unit.stage.version,
        )
    except BaseException as error:
        _black_box(context, error)
        for scratch in (begun, next_draft):
            if scratch is not None and not context.run.record.get("kept_guest"):
                context.close()
                scratch.discard()
        raise
    context.run.stage(name, "new", seconds=watch.seconds, detail=made.detail, title=unit.spec.title, key=unit.key)
    context.run.emit("end", name, f"new\t{made.detail}", watch.seconds)
    return layer, next_draft


def _hand_over(context: BuildContext, following: Unit | None) -> PendingLayer | None:
    """Bring the running guest's disk to rest: it writes into the next unit's draft, or it is shut down."""
    if following is not None and following.spec.live:
        begun = context.layers.begin(following.key)
        if isinstance(begun, PendingLayer):
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
    """Collect diagnostics from the guest while it exists."""
    if context.session is None:
        return
    context.session.black_box(quick=isinstance(error, Interrupted))
    if context.keep_failed and context.session.machine.stopped is None and not isinstance(error, Interrupted):
        mark_kept(context.session.machine)
        context.session.machine.keep = True
        context.run.note(kept_guest={"domain": context.session.spec.name, **context.session.access_facts()})


@contextlib.contextmanager
def _recorded(context: BuildContext) -> Iterator[None]:
    """Whatever the block raises is recorded in the run, and raised under a name and with a hint."""
    try:
        yield
    except GoldsmithError as error:
        _fail(context, error)
        raise
    except OSError as error:
        # the disk is full, or a file of the project has gone while it was built
        named = host_file_error(error)
        _fail(context, named)
        raise named from error
    except BaseException as error:
        _fail(
            context,
            BuildError(
                f"{type(error).__name__}: {error}",
                name="internal",
                hint="this is a bug in goldsmith: please report it, with the run's folder",
            ),
        )
        raise


def host_file_error(error: OSError) -> BuildError:
    """An error of the host's file system, with the file and what to do."""
    described = describe_os_error(error)
    return BuildError(described.message, name="host-file-error", hint=described.hint)


def _fail(context: BuildContext, error: GoldsmithError) -> None:
    masked(error, context.secrets.mask)
    context.mask_logs()
    error.evidence = error.evidence or context.run.folder
    interrupted = isinstance(error, Interrupted)
    if context.stage:
        state = "interrupted" if interrupted else "failed"
        context.run.stage(context.stage, state, seconds=context.watch.seconds, detail=error.name)
        context.run.emit("end", context.stage, f"{state}\t{error.name}", context.watch.seconds)
    context.run.finish("interrupted" if interrupted else "failed", error)
    write_json(context.run.folder / "failure.json", {**context.run.record["error"], "stage": context.stage})
    write_page(context, None)
    stage, shipped = find_stage(context.stage), _shipped(context)
    if stage is not None and stage.is_gate and shipped is not None and not interrupted:
        refusal = {"gate": stage.name, "name": error.name, "why": error.message, "run": context.run.id, "when": now()}
        context.gallery.refuse(context.definition.name, {**refusal, "disk": str(shipped.image.path)})


def run_alone(
    stage: Stage,
    definition: Definition,
    name: str,
    store: Store,
    work: Callable[[BuildContext], StageResult],
    *,
    title: str,
    command: str,
    listeners: Sequence[Any],
) -> Run:
    """Run one stage's `work` on a disk that exists already: recorded as in a build, and no layer is made.

    `name` is what the run's record calls the image. The facts of the result go into the stage's record. Raises as the
    work does.
    """
    store.ensure()
    run = Run.start(store.runs, name, command)
    for listener in listeners:
        run.listen(listener)
    context = BuildContext(definition, store, run, Layers(store.layers), Gallery(store.gallery), stage=stage.name)
    watch = Stopwatch()
    with _recorded(context):
        collect_orphans(store, context)
        _ = context.accelerator
        run.emit("start", stage.name, title)
        result = work(context)
    run.stage(stage.name, "ok", seconds=watch.seconds, detail=result.detail, **result.facts)
    run.emit("end", stage.name, f"ok\t{result.detail}", watch.seconds)
    run.finish("done")
    return run
