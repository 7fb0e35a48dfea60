"""The owner's side of a delivery: the version is verified, imported under the gallery's lock, and promoted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import BuildError, CheckFailed
from pipeline.definition import Definition
from pipeline.engine.executors.exchange import PARCEL, Delivery
from pipeline.engine.scheduler import parents_of
from pipeline.evidence.checksum import write_local_evidence
from pipeline.gallery import GOLDEN, Gallery, Version
from pipeline.gallery.export_import import import_version
from pipeline.gallery.integrity import Judge
from pipeline.gallery.retention import promote, withdrawn


def take_delivery(
    gallery: Gallery, definition: Definition, delivery: Delivery, folder: Path, judge: Judge, built: Collection[str]
) -> Version | None:
    """Import and promote the version of a delivery; the golden version afterwards.

    `judge` judges the evidence by the key of the delivery's host. `built` are the parents that were built in this
    session: the version must stand on their golden versions. A version that somebody has withdrawn stays so.
    Raises CheckFailed (master-damaged, gate-shut, delivery-wrong), UsageError (version-exists), HostError.
    """
    name = definition.name

    def judge_all(copy: Path, manifest: Mapping[str, Any]) -> str:
        return judge(copy, manifest) or _wrong(gallery, definition, manifest, built)

    if not delivery.has_parcel:
        golden = gallery.find(name)
        if delivery.version is not None and (golden is None or golden.digest != delivery.digest):
            raise CheckFailed(
                f"the delivery of {name} claims to be golden already, but is {delivery.version}",
                name="delivery-wrong",
                hint="run the command again; look at the worker's store with goldsmith gallery verify",
            )
        return golden
    made = import_version(gallery, folder / PARCEL, judge=judge_all, complete=write_local_evidence, returns=True)
    if made.name != name or made.version != delivery.version:
        raise CheckFailed(
            f"the job of {name} delivered {made.name} {made.version}",
            name="delivery-wrong",
            hint="run the command again; look at the worker's store with goldsmith gallery verify",
        )
    if made.version not in withdrawn(gallery, name):
        promote(gallery, made, GOLDEN)
    return gallery.find(name)


def _wrong(gallery: Gallery, definition: Definition, manifest: Mapping[str, Any], built: Collection[str]) -> str:
    """Why a version is not what the job was to make; empty if it is."""
    if manifest.get("name") != definition.name:
        return f"it is a version of {manifest.get('name')}, not of {definition.name}"
    if manifest.get("definition") != definition.path.read_text(encoding="utf-8"):
        return "it was built from another definition"
    used = {
        str(inputs.get("image")): str(inputs.get("version"))
        for inputs in (unit.get("inputs", {}) for unit in manifest.get("inputs", ()))
        if inputs.get("source") == "master"
    }
    for parent in parents_of(definition):
        golden = gallery.find(parent) if parent in built else None
        if golden is not None and parent in used and used[parent] != golden.version:
            return f"it is built on {parent} {used[parent]}, but golden is {golden.version}"
    return ""


def failure_of(name: str, delivery: Delivery) -> BuildError:
    """The error of a delivery whose job failed; what failed is in the job's output."""
    failure = delivery.failure
    if failure is None:
        error = BuildError(f"{name} failed on {delivery.node}", name="image-failed", hint="read its error above")
    else:
        hint = failure.hint or "read the output of the job above"
        error = BuildError(f"{name} failed on {delivery.node}: {failure.message}", name=failure.name, hint=hint)
    error.exit_code = delivery.exit_code or BuildError.exit_code
    return error
