"""A worker's side of a job: parents come in, goldsmith builds in the worker's own store, the version goes out."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pipeline
from pipeline.base import scratch
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, Interrupted
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import remove_tree
from pipeline.base.runs import Stopwatch, write_json
from pipeline.base.store import Store
from pipeline.engine.executors.exchange import (
    CLAIM,
    DELIVERY,
    PARCEL,
    RESULT,
    RESULT_WORD,
    Claim,
    Delivery,
    Failure,
    JobSpec,
    Parent,
    VersionRef,
    read_claim,
    read_delivery,
    take_project,
)
from pipeline.evidence.checksum import write_local_evidence
from pipeline.gallery import GOLDEN, Gallery, Version
from pipeline.gallery.export_import import export, import_version
from pipeline.gallery.integrity import Judge

log = logging.getLogger("goldsmith.worker")

#: Runs goldsmith's words in a project, with variables; its exit code.
RunWords = Callable[[Path, Sequence[str], Mapping[str, str]], int]


@dataclass(frozen=True)
class Start:
    """Which start of which job this process is; `restarts` counts those before it."""

    node: str = ""
    job: int = 0
    restarts: int = 0


def run_job(spec: JobSpec, store: Store, start: Start, judge: Judge, run_words: RunWords) -> int:
    """Do a job and leave its delivery in its folder; the exit code. `judge` judges the evidence of versions.

    Only what prevents a delivery is raised: an interrupt, and an exchange that cannot be written to.
    """
    folder, watch = Path(spec.folder), Stopwatch()
    node = start.node or socket.gethostname()
    claim = Claim(node=node, job=start.job, restarts=start.restarts)
    earlier = read_delivery(folder)
    if earlier is not None and earlier.job == start.job and earlier.exit_code == 0 and start.job:
        return 0  # its host was lost behind its end, and Slurm has started the job again
    # what an earlier start of this job has left is not this one's
    for name in (DELIVERY, RESULT, PARCEL):
        remove_tree(folder / name)
    write_json(folder / CLAIM, claim.model_dump())
    made: Version | None = None
    failure: GoldsmithError | None = None
    code, has_parcel = 0, False
    try:
        code = _build(spec, store, judge, run_words)
        made = Gallery(store.gallery).find(spec.image)
        if read_claim(folder) != claim:
            # Slurm has started the job again on another node, and that start delivers
            log.warning("the job of %s was started again elsewhere; nothing is delivered", spec.image)
            return BuildError.exit_code
        has_parcel = code == 0 and made is not None and (spec.always or not _is(made, spec.golden))
        if has_parcel:
            assert made is not None
            export(made, folder / PARCEL, judge=judge)
    except Interrupted:
        raise
    except GoldsmithError as error:
        failure = error
    except OSError as error:
        failure = describe_os_error(error)
    if failure is not None:
        code = failure.exit_code
        log.warning("%s: %s", failure.name, failure.message)
    delivery = Delivery(
        node=node,
        job=start.job,
        exit_code=code,
        seconds=round(watch.seconds, 2),
        version=made.version if made else None,
        digest=made.digest if made else None,
        has_parcel=has_parcel and failure is None,
        failure=Failure(name=failure.name, message=failure.message, hint=failure.hint) if failure else None,
    )
    write_json(folder / DELIVERY, delivery.model_dump())
    return code


def _build(spec: JobSpec, store: Store, judge: Judge, run_words: RunWords) -> int:
    if spec.goldsmith != pipeline.__version__:
        raise BuildError(
            f"this worker has goldsmith {pipeline.__version__}, the owner of the gallery has {spec.goldsmith}",
            name="worker-version",
            hint="install the owner's version on the worker; goldsmith doctor --fleet shows those of all workers",
        )
    gallery = Gallery(store.ensure().gallery)
    for parent in spec.parents:
        _take_parent(gallery, parent, judge)
    _take_golden(gallery, spec, judge)
    gallery.reserve(spec.image, spec.numbers)
    with scratch.folder(store.tmp, "project") as place:
        take_project(spec, place / "project")
        result = str(Path(spec.folder) / RESULT)
        return run_words(
            place / "project", [result if word == RESULT_WORD else word for word in spec.words], spec.variables
        )


def _is(version: Version, reference: VersionRef | None) -> bool:
    return reference is not None and (version.version, version.digest) == (reference.version, reference.digest)


def _take_parent(gallery: Gallery, parent: Parent, judge: Judge) -> None:
    """Make the version that an image is built on the golden one of this store."""
    wanted = parent.golden
    if parent.job is not None:
        delivery = read_delivery(Path(parent.job))
        if delivery is None or delivery.version is None or delivery.digest is None:
            raise BuildError(
                f"the job of the parent {parent.image} has delivered no version",
                name="parent-missing",
                hint=f"read its output in {parent.job}",
            )
        place = str(Path(parent.job) / PARCEL) if delivery.has_parcel else None
        wanted = VersionRef(version=delivery.version, digest=delivery.digest, export=place)
    if wanted is None:
        raise BuildError(
            f"the gallery's owner has no version of the parent {parent.image}",
            name="parent-missing",
            hint=f"goldsmith build {parent.image}, or build both with --all",
        )
    gallery.promote(_take_version(gallery, parent.image, wanted, judge), GOLDEN)


def _take_golden(gallery: Gallery, spec: JobSpec, judge: Judge) -> None:
    """Make the owner's golden version that of this store, if it is here or comes along; else there is none here."""
    golden = spec.golden
    there = gallery.find(spec.image, golden.version) if golden else None
    if golden is not None and ((there is not None and _is(there, golden)) or golden.export is not None):
        gallery.promote(_take_version(gallery, spec.image, golden, judge), GOLDEN)
    elif gallery.find(spec.image) is not None:
        with gallery.hold(spec.image) as folder:
            (folder / GOLDEN).unlink(missing_ok=True)


def _take_version(gallery: Gallery, image: str, wanted: VersionRef, judge: Judge) -> Version:
    """The version of this store's gallery, imported unless it is there."""
    there = gallery.find(image, wanted.version)
    if there is not None and _is(there, wanted):
        return there
    if wanted.export is None:
        raise BuildError(
            f"{image} {wanted.version} is not on this worker, and nobody has exported it",
            name="parent-missing",
            hint="run the command again",
        )
    if there is not None:
        # this worker made it, and the owner never took it: another worker's version has its number
        with gallery.hold(image) as folder:
            for channel in there.channels:
                (folder / channel).unlink(missing_ok=True)
            remove_tree(there.path)
    made = import_version(gallery, Path(wanted.export), judge=judge, complete=write_local_evidence, returns=True)
    if made.name != image or not _is(made, wanted):
        raise CheckFailed(
            f"{wanted.export} is {made.name} {made.version}, not the expected version of {image}",
            name="parcel-wrong",
            hint="run the command again; find out who has written to the exchange",
        )
    return made
