"""The owner's side of a job before it runs: the project and the versions that it begins with, its spec and script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pipeline
from pipeline.engine.executors.exchange import (
    RESULT_WORD,
    JobSpec,
    Parent,
    VersionRef,
    copy_project,
    project_digest,
)
from pipeline.engine.executors.jobs import ImageJob, variables_of
from pipeline.engine.scheduler import parents_of
from pipeline.gallery import Gallery, Version
from pipeline.gallery.export_import import export
from pipeline.gallery.integrity import Judge
from pipeline.gallery.retention import leased


class Handover:
    """Fills the folder of a session in the exchange. `judge` judges the owner's versions before they go out."""

    def __init__(self, gallery: Gallery, folder: Path, judge: Judge) -> None:
        self._gallery = gallery
        self._folder = folder
        self._judge = judge
        self._digest = ""

    def take_project(self, project: Path) -> None:
        """Copy the project as it is now. Raises OSError."""
        copy_project(project, self._folder / "project")
        self._digest = project_digest(self._folder / "project")

    def write_spec(self, job: ImageJob[Any], folder: Path, beside: Mapping[str, Path], *, always: bool) -> JobSpec:
        """The spec of a job; the versions that it begins with are exported. `beside`: the folders of other jobs."""
        definition = job.definition
        golden = self._gallery.find(definition.name)
        parents = []
        for name in parents_of(definition):
            version = None if name in beside else self._gallery.find(name)
            reference = self._reference(version, exported=True) if version else None
            parents.append(Parent(image=name, golden=reference, job=str(beside[name]) if name in beside else None))
        return JobSpec(
            image=definition.name,
            goldsmith=pipeline.__version__,
            words=[str(word) for word in job.arguments(Path(RESULT_WORD))],
            variables=variables_of(definition),
            folder=str(folder),
            project=str(self._folder / "project"),
            project_digest=self._digest,
            parents=parents,
            golden=self._reference(golden, exported=job.wants_golden) if golden else None,
            numbers=self._gallery.given_numbers(definition.name),
            always=always,
        )

    def _reference(self, version: Version, *, exported: bool) -> VersionRef:
        place = self._folder / "exports" / f"{version.name}-{version.version}"
        if exported and not place.exists():
            with leased(self._gallery, version, "a job of Slurm"):
                export(version, place, judge=self._judge)
        return VersionRef(version=version.version, digest=version.digest, export=str(place) if exported else None)


def batch_script(goldsmith: Sequence[str], spec: JobSpec) -> str:
    """The script of a job. The spec is a line of ASCII, so that it cannot hold the line that ends it."""
    text = json.dumps(spec.model_dump())
    words = " ".join(f"'{word}'" for word in (each.replace("'", "'\\''") for each in (*goldsmith, "worker", "run")))
    return f"#!/bin/sh\nexec {words} <<'END_OF_JOB'\n{text}\nEND_OF_JOB\n"
