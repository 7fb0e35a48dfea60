"""From files to the documents of images: merges defaults.yaml, `extends:`, `parameters:` and `matrix:`.

A definition that uses none of these, in a project without defaults.yaml, is its file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.base import surroundings
from pipeline.base.project import IMAGES, definition_files
from pipeline.base.store import IMAGE_NAME
from pipeline.definition import matrix, rules
from pipeline.definition.diagnostics import Fault, closest, shown
from pipeline.definition.document import Document, missing_values
from pipeline.definition.merging import lay_over
from pipeline.definition.parameters import (
    Parameter,
    Scalar,
    Value,
    declared_parameters,
    normalized,
    replace_parameters,
    values_of,
)
from pipeline.definition.reading import DEFAULTS, read_document, relative

#: Keys that say how a definition is put together; the definition itself does not have them.
COMPOSING = frozenset({"extends", "matrix", "parameters"})
#: Keys that a file does not pass on to those that extend it.
_OWN = frozenset({"extends", "matrix"})
#: More definitions below one another are a mistake.
MAX_DEPTH = 20


@dataclass(frozen=True)
class Composed:
    """One image of a file: its document as merged, the other files in it, and the values of its parameters.

    `used` has the parameters that the image needs; `from_defaults` those that defaults.yaml declares.
    """

    name: str
    document: Document
    files: tuple[str, ...] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    from_defaults: frozenset[str] = frozenset()


def compose(path: Path, project: Path, only: str | None = None) -> list[Composed]:
    """The images of one file, in the order of its matrix; at least one, which may have faults.

    `only`: the image of this name alone, or the first where the file has none of it.
    """
    own = read_document(path, project)
    if not isinstance(own.data, dict) or _is_later(own):
        return [Composed(path.stem, own)]
    faults: list[Fault] = []
    parents = _parents(own, path, project, faults)
    defaults = _defaults(project, faults)
    if not parents and defaults is None and not faults and not _composes(own):
        return [Composed(path.stem, own)]
    layers = tuple(_Same(document) for document in (*([defaults] if defaults else []), *reversed(parents), own))
    settings = tuple(surroundings.settings().items())
    variables = tuple(surroundings.variables().items())
    found = _compose(path.stem, layers, defaults is not None, settings, variables)
    if only is not None:
        found = tuple(each for each in found if each.name == only)[:1] or found[:1]
    # callers add faults of their own
    return [replace(each, document=replace(each.document, faults=[*faults, *each.document.faults])) for each in found]


def image_names(project: Path) -> dict[str, Path]:
    """The file of each image of the project. Of two files for one name the first counts: `duplicates` names both."""
    found: dict[str, Path] = {}
    for path in definition_files(project):
        for name in names_of(path, project):
            found.setdefault(name, path)
    return found


def names_of(path: Path, project: Path) -> list[str]:
    """The images of one file."""
    data = read_document(path, project).data
    if not isinstance(data, dict) or "matrix" not in data:
        return [path.stem]
    return [image.name for image in compose(path, project)]


def duplicates(project: Path) -> dict[Path, list[Fault]]:
    """A fault for each image that two files of the project make, in the later file."""
    found: dict[Path, list[Fault]] = {}
    first: dict[str, Path] = {}
    for path in definition_files(project):
        for name in dict.fromkeys(names_of(path, project)):
            if name in first and path.suffix == first[name].suffix:
                file, line, column = read_document(path, project).position(("matrix",))
                other = relative(first[name], project)
                message = f"the image {name} is defined in {other} too"
                fault = Fault(file, line, column, "", message, "rename one of the files", "image-duplicate")
                found.setdefault(path, []).append(fault)
            first.setdefault(name, path)
    return found


def unused_defaults(project: Path, images: list[Composed]) -> list[Fault]:
    """A fault for each parameter that defaults.yaml declares and no image of the project uses."""
    used = {name for image in images for name in image.used}
    declared = sorted({name for image in images for name in image.from_defaults} - used)
    document = read_document(project / DEFAULTS, project) if declared else None
    return [_unused(document, name) for name in declared if document is not None]


# -- the layers of one file ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Same:
    """A parsed document as part of a cache's key: equal texts have equal keys."""

    document: Document

    def __hash__(self) -> int:
        return hash((self.document.file, id(self.document.data)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Same)
            and self.document.file == other.document.file
            and self.document.data is other.document.data
        )


def _is_later(document: Document) -> bool:
    """Whether the file has a later format, whose keys this version does not know."""
    version = document.data.get("goldsmith")
    return isinstance(version, int) and not isinstance(version, bool) and version > rules.FORMAT


def _composes(document: Document) -> bool:
    return any(key in COMPOSING or key.endswith("+") for key in document.data)


def _defaults(project: Path, faults: list[Fault]) -> Document | None:
    path = project / DEFAULTS
    if not path.exists():
        return None
    document = read_document(path, project)
    data = document.data
    if isinstance(data, dict):
        if data.get("goldsmith") != rules.FORMAT:
            place: tuple[str, ...] = ("goldsmith",) if "goldsmith" in data else ()
            message = f"{DEFAULTS} must have goldsmith: {rules.FORMAT}, the format's version"
            document.add(place, message, f"add goldsmith: {rules.FORMAT}")
        for key in sorted(_OWN & set(data)):
            hint = f"move {key}: into a definition in {IMAGES}/"
            document.add((key,), f"{key} is not allowed in {DEFAULTS}", hint, at_key=True)
        if len(document.faults) == len(read_document(path, project).faults):
            return document
    elif not document.faults:
        document.add((), f"must be a mapping, not {shown(data)}", f"start the file with goldsmith: {rules.FORMAT}")
    faults.extend(document.faults)
    return document if isinstance(data, dict) else None


def _parents(own: Document, path: Path, project: Path, faults: list[Fault]) -> list[Document]:
    """The definitions that this one extends, nearest first."""
    found: list[Document] = []
    below, chain = own, [path.stem]
    folder = path.parent
    while "extends" in below.data:
        name = below.data["extends"]
        if name is None:  # reported as a key without a value
            break
        if not isinstance(name, str) or not IMAGE_NAME.fullmatch(name):
            _fault(below, faults, f"{shown(name)} is not the name of a definition", "write a name: extends: debian")
            break
        if name in chain:
            cycle = " -> ".join([*chain[chain.index(name) :], name])
            _fault(
                below, faults, f"the definitions extend each other: {cycle}", "remove one extends:", "extends-cycle"
            )
            break
        beside = folder / f"{name}.yaml"
        file = beside if beside.is_file() else project / IMAGES / f"{name}.yaml"
        if not file.is_file():
            near = closest(name, [each.stem for each in definition_files(project)])
            hint = near or f"write {relative(file, project)}"
            _fault(below, faults, f"there is no definition {name}", hint, "extends-unknown")
            break
        if len(chain) > MAX_DEPTH:
            _fault(below, faults, f"more than {MAX_DEPTH} definitions extend each other", "extend fewer")
            break
        document = read_document(file, project)
        if not isinstance(document.data, dict):
            faults.extend(document.faults or [Fault(document.file, 1, 1, "", "must be a mapping", "goldsmith: 1")])
            break
        chain.append(name)
        found.append(document)
        below = document
    return found


def _fault(document: Document, faults: list[Fault], message: str, hint: str, name: str = "definition") -> None:
    file, line, column = document.position(("extends",))
    faults.append(Fault(file, line, column, "extends", message, hint, name))


# -- from the layers to the images --------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _compose(
    stem: str,
    layers: tuple[_Same, ...],
    has_defaults: bool,
    settings: tuple[tuple[str, str], ...],
    variables: tuple[tuple[str, str], ...],
) -> tuple[Composed, ...]:
    """The images of the last of the layers; `layers` begins with defaults.yaml where `has_defaults`."""
    documents = [normalized(layer.document) for layer in layers]
    *below, own = documents
    merged: Document | None = None
    for document in documents:
        merged = lay_over(merged, document, frozenset() if document is own else _OWN)
    assert merged is not None
    for place in missing_values(merged):
        if place and place[0] in COMPOSING:
            merged.add(place, "has no value", "add a value, or remove the key")
    parameters = declared_parameters(merged)
    rows: list[matrix.Row] = [matrix.Row(stem, {})]
    if own.data.get("matrix") is not None:
        parameters = matrix.axes_of(merged, parameters)
        rows = matrix.rows_of(merged, stem, parameters) or rows
    images = [_image(row, merged, parameters, dict(settings), dict(variables)) for row in rows]
    inherited = {name for document in below for name in _declarations(document)}
    mine = (set(_declarations(own)) | {name for row in rows for name in row.values}) - inherited
    used = {name for image in images for name in image.used}
    unused = [_unused(own, name) for name in sorted(mine - used)]
    # a misspelled use would be reported twice
    misspelled = any(fault.name == "parameter-unknown" for image in images for fault in image.document.faults)
    if not misspelled and not any(fault.key.startswith("parameters") for fault in merged.faults):
        for image in images:
            image.document.faults.extend(unused)
    from_defaults = frozenset(_declarations(documents[0])) if has_defaults else frozenset()
    others = tuple(document.file for document in below)
    return tuple(replace(image, files=others, from_defaults=from_defaults) for image in images)


def _declarations(document: Document) -> list[str]:
    declared = document.data.get("parameters")
    return [str(name) for name in declared] if isinstance(declared, dict) else []


def _image(
    row: matrix.Row,
    merged: Document,
    parameters: Mapping[str, Parameter],
    settings: Mapping[str, str],
    variables: Mapping[str, str],
) -> Composed:
    document = replace(
        merged,
        data=dict(merged.data),
        values=dict(merged.values),
        files=dict(merged.files),
        faults=list(merged.faults),
        parameters={},
        unresolved=set(),
    )
    values = values_of(document, parameters, row.values, settings, variables)
    used = replace_parameters(document, parameters, values) if parameters else set()
    for key in COMPOSING:
        document.data.pop(key, None)
    needed = {name: values[name] for name in sorted(used) if name in values}
    return Composed(row.image, document, parameters=needed, used=frozenset(used))


def _unused(document: Document, name: str) -> Fault:
    key = f"parameters.{name}"
    place: tuple[Any, ...] = ("parameters", name)
    if place not in document.keys:
        place, key = ("matrix", name), f"matrix.{name}"
    file, line, column = document.position(place, at_key=True)
    hint = f"write ${{{name}}} where the value is needed, or remove it"
    return Fault(file, line, column, key, f"the parameter {name} is not used", hint, "parameter-unused")


def provenance(document: Document) -> Iterator[tuple[str, Scalar | None, str]]:
    """Each single value of a merged document: its key, the value, and where it comes from (file:line:column)."""
    from pipeline.definition.document import spell

    def walk(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[str, Any, str]]:
        items = list(
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        if items:
            for key, item in items:
                yield from walk(item, (*place, key))
        else:
            file, line, column = document.position(place)
            set_by = document.parameters.get(place, "")
            yield spell(place), value, f"{file}:{line}:{column}" + (f" ({set_by})" if set_by else "")

    yield from walk(document.data, ())
