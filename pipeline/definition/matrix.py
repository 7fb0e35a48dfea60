"""`matrix:` of a definition: the images that one file makes, each with its own values of parameters.

A mapping makes every combination of its lists; a list of mappings makes an image for each item. An image's name is
the file's name and the values, in the order in which they are written, joined by hyphens: `web-bookworm-8gib`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.store import IMAGE_NAME
from pipeline.definition import rules
from pipeline.definition.diagnostics import Wrong, shown
from pipeline.definition.document import Document, Place
from pipeline.definition.parameters import Parameter, Scalar, Value, check_type, type_of

#: More images of one file are a mistake, and would only be slow to refuse.
MAX_IMAGES = 1000


@dataclass(frozen=True)
class Row:
    """One image of a matrix: its name, and the values that it sets. `place` is its place in the matrix."""

    image: str
    values: Mapping[str, Value]
    place: Place = ("matrix",)


def axes_of(document: Document, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """The parameters together with those that only the matrix names: their type is that of their first value."""
    found = dict(parameters)
    declared = document.data.get("parameters")
    for name, _, value in _cells(document):
        if name not in found and not (isinstance(declared, dict) and name in declared):
            found[name] = Parameter(name, type_of(value))
    return found


def rows_of(document: Document, stem: str, parameters: Mapping[str, Parameter]) -> list[Row]:
    """The images of the matrix, in its order; errors are added to the document's faults."""
    before = len(document.faults)
    matrix = document.data["matrix"]
    cells = _cells(document)
    if not cells and len(document.faults) == before:
        document.add(("matrix",), "has no values", "{suite: [bookworm, trixie]}")
    for name, place, value in cells:
        if name in parameters:
            try:
                check_type(value, parameters[name].type)
            except Wrong as error:
                document.add(place, error.message, error.hint, name="parameter-type")
    if len(document.faults) > before:
        return []
    rows = []
    for combination in _combinations(matrix):
        values = {name: _value(document, place, value) for name, place, value in combination}
        image = "-".join([stem, *(slug(value.value) for value in values.values())])
        place = combination[0][1] if isinstance(matrix, dict) else combination[0][1][:2]
        rows.append(Row(image, values, place))
        if len(rows) > MAX_IMAGES:
            document.add(("matrix",), f"makes more than {MAX_IMAGES} images", "split the definition")
            return []
    _check_names(document, rows)
    return rows if len(document.faults) == before else []


def slug(value: Scalar) -> str:
    """A value as a part of an image's name: `8 GiB` is `8gib`, `Server Core` is `servercore`, `a/b` is `a-b`."""
    text = str(value).lower()
    return re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\s+", "", text)).strip("-.")


_Cell = tuple[str, Place, Any]


def _cells(document: Document) -> list[_Cell]:
    """Every value of the matrix, with its parameter and its place; empty if the matrix is invalid."""
    matrix = document.data.get("matrix")
    found: list[_Cell] = []
    if isinstance(matrix, dict):
        for name, values in matrix.items():
            if not isinstance(values, list) or not values:
                document.add(("matrix", name), f"must be a list of values, not {shown(values)}", f"{name}: [a, b]")
                return []
            found.extend((name, ("matrix", name, index), value) for index, value in enumerate(values))
    elif isinstance(matrix, list):
        for index, row in enumerate(matrix):
            if not isinstance(row, dict) or not row:
                document.add(("matrix", index), f"must be a mapping, not {shown(row)}", "{suite: bookworm}")
                return []
            found.extend((name, ("matrix", index, name), value) for name, value in row.items())
    else:
        document.add(("matrix",), f"must be a mapping or a list, not {shown(matrix)}", "{suite: [bookworm, trixie]}")
    return found


def _combinations(matrix: Any) -> Any:
    if isinstance(matrix, list):
        return ([(name, ("matrix", i, name), value) for name, value in row.items()] for i, row in enumerate(matrix))
    return itertools.product(
        *([(name, ("matrix", name, i), value) for i, value in enumerate(values)] for name, values in matrix.items())
    )


def _value(document: Document, place: Place, value: Scalar) -> Value:
    file, line, column = document.position(place)
    return Value(value, f"the matrix in {file}:{line}", (file, line, column))


def _check_names(document: Document, rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if not IMAGE_NAME.fullmatch(row.image):
            message = f"{shown(row.image)} is not a valid image name"
            document.add(row.place, message, rules.IMAGE_NAME_RULE)
        elif row.image in first:
            message = f"two images have the name {row.image}"
            document.add(row.place, message, "remove one, or change a value", name="matrix-duplicate")
        first.setdefault(row.image, row)
