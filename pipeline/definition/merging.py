"""Definitions laid over each other: mappings are merged key by key, everything else is replaced by the upper one.

`KEY+` appends the items of its list to the list that is inherited for KEY. Every place of the result keeps the file,
line and column where its value is written.
"""

from __future__ import annotations

from typing import Any

from pipeline.definition.diagnostics import shown
from pipeline.definition.document import Document, Place
from pipeline.definition.schema_sources import SOURCES

_NOTHING: Any = object()
#: Mappings with exactly one way to say it: the upper one stands alone.
_WHOLE = frozenset({("source", "disk"), ("source", "iso"), ("source", "drivers")})


def lay_over(below: Document | None, above: Document, left_out: frozenset[str] = frozenset()) -> Document:
    """A document with everything of `below` that `above` does not replace; its file is that of `above`.

    Top-level keys in `left_out` are taken from `below` only. Both documents must hold a mapping; neither is changed.
    """
    merged = Document(above.file, data={}, faults=list(above.faults))
    if below is not None:
        merged.data = below.data
        merged.keys, merged.values = dict(below.keys), dict(below.values)
        merged.files = {place: below.files.get(place, below.file) for place in (*below.keys, *below.values)}
        merged.faults[:0] = below.faults
    upper = {key: value for key, value in above.data.items() if key not in left_out}
    merged.data = _merge(merged, above, merged.data, upper, (), ())
    return merged


def _merge(target: Document, layer: Document, base: Any, value: Any, at: Place, source: Place) -> Any:
    if not (isinstance(base, dict) and isinstance(value, dict)) or _replaces(at, base, value):
        _forget(target, at)
        if not isinstance(value, dict):
            _copy_marks(target, layer, value, at, source)
            return value
        base = {}
    _copy_mark(target, layer, at, source)
    merged = dict(base)
    for key, item in value.items():
        inner = (*source, key)
        if key.endswith("+") and at[:1] != ("waive",):
            _append(target, layer, merged, key, item, at, source)
        else:
            merged[key] = _merge(target, layer, merged.get(key, _NOTHING), item, (*at, key), inner)
    return merged


def _append(
    target: Document, layer: Document, merged: dict[str, Any], key: str, item: Any, at: Place, source: Place
) -> None:
    """Put the items of `KEY+` behind those of KEY."""
    inner, plain = (*source, key), key[:-1]
    inherited = merged.get(plain, [])
    if not isinstance(item, list) or not isinstance(inherited, list):
        hint = f"write {plain}: to replace the value" if isinstance(item, list) else f"{key}: [...]"
        layer_fault = Document(layer.file, keys=layer.keys, values=layer.values, files=layer.files)
        wrong = item if not isinstance(item, list) else inherited
        layer_fault.add(inner, f"{key} appends to a list, not to {shown(wrong)}", hint, at_key=True)
        target.faults.extend(layer_fault.faults)
        return
    place = (*at, plain)
    if plain not in merged:
        _copy_mark(target, layer, place, inner)
    for index, entry in enumerate(item):
        _copy_marks(target, layer, entry, (*place, len(inherited) + index), (*inner, index))
    merged[plain] = [*inherited, *item]


def _replaces(at: Place, base: dict[str, Any], value: dict[str, Any]) -> bool:
    """Whether a mapping stands for itself: another kind of source, or a disk given in another way."""
    if at == ("source",):
        kinds = [{kind for kind in SOURCES if kind in part} for part in (base, value)]
        return kinds[0] != kinds[1]
    return at in _WHOLE


def _forget(target: Document, at: Place) -> None:
    depth = len(at)
    for marks in (target.keys, target.values):
        for place in [place for place in marks if place[:depth] == at]:
            del marks[place]
            target.files.pop(place, None)


def _copy_mark(target: Document, layer: Document, at: Place, source: Place) -> None:
    for ours, theirs in ((target.keys, layer.keys), (target.values, layer.values)):
        if source in theirs:
            ours[at] = theirs[source]
            target.files[at] = layer.files.get(source, layer.file)


def _copy_marks(target: Document, layer: Document, value: Any, at: Place, source: Place) -> None:
    _copy_mark(target, layer, at, source)
    if isinstance(value, dict):
        for key, item in value.items():
            _copy_marks(target, layer, item, (*at, key), (*source, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _copy_marks(target, layer, item, (*at, index), (*source, index))
