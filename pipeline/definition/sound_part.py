"""The part of a faulty definition that can be read, so that one fault does not hide others of another kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.definition.composition import Composed, compose
from pipeline.definition.conversion import make_definition
from pipeline.definition.diagnostics import Wrong
from pipeline.definition.document import Place
from pipeline.definition.model import Definition
from pipeline.definition.rules import Context
from pipeline.definition.schema_models import TAGS, Written

#: Stands for a source that cannot be read; `left_out` says that it does.
_SOURCE = {"debian": {"suite": "bookworm"}}


@dataclass(frozen=True)
class SoundPart:
    """A definition without its faulty values, and the top-level keys that have lost something."""

    definition: Definition
    left_out: frozenset[str] = frozenset()


def load_sound_part(path: Path, project: Path, image: Composed | None = None) -> SoundPart | None:
    """Read what a faulty definition says without fault; None where too little of it can be read.

    `image` is one of the file's images, by default its first.
    """
    path, project = path.resolve(), project.resolve()
    image = image or compose(path, project)[0]
    document = image.document
    if not isinstance(document.data, dict):
        return None
    data: dict[str, Any] = copy.deepcopy(document.data)
    left_out: set[str] = set()
    while True:
        try:
            shape = Written.model_validate(data, context=Context(project))
            return SoundPart(make_definition(shape, path, project, image), frozenset(left_out))
        except ValidationError as error:
            places = {entry for detail in error.errors(include_url=False) if (entry := _entry(data, _place(detail)))}
        if not places:
            if "source" in data:
                return None
            places = {("source",)}
        for place in places:
            left_out.add(str(place[0]))
            _remove(data, place)
        if "source" not in data:
            left_out.add("source")
            data["source"] = dict(_SOURCE)


def _place(detail: Any) -> Place:
    """Where an error of pydantic's stands in the document."""
    place: Place = tuple(part for part in detail["loc"] if part not in TAGS and part != "[key]")
    cause = detail.get("ctx", {}).get("error")
    return (*place, *cause.at) if isinstance(cause, Wrong) else place


def _entry(data: Any, place: Place) -> Place:
    """The smallest entry of a mapping at or around a place: an item alone would renumber the items behind it."""
    found: Place = ()
    value = data
    for depth, part in enumerate(place, 1):
        if isinstance(value, dict) and part in value:
            found = place[:depth]
        elif not (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            break
        value = value[part]
    return found


def _remove(data: Any, place: Place) -> None:
    """Take an entry away; one that went with an entry around it is gone already."""
    value = data
    for part in place[:-1]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(value, dict):
        value.pop(place[-1], None)
