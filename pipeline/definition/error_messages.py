"""pydantic's errors in the user's words, at the place where the user wrote them."""

from __future__ import annotations

import re
from typing import Any

from pipeline.definition.diagnostics import Fault, Wrong, closest, shown
from pipeline.definition.document import Document, Place
from pipeline.definition.rules import Context
from pipeline.definition.schema_models import EXPECTATIONS, TAGS
from pipeline.definition.schema_sources import SOURCES
from pipeline.definition.schema_steps import STEPS

_KINDS = {"source": SOURCES, "steps": STEPS, "expect": EXPECTATIONS}

#: What a key that is often given the wrong shape looks like.
_SHAPES: dict[Place, str] = {
    ("waive",): "the check's id and the reason: {apt-proxy: our mirror is meant to stay}",
    ("generalize",): "{agent: waagent}",
    ("machine",): "{cpus: 2, memory: 2 GiB}",
    ("network",): "{allow: [10.1.2.3:8080]}",
    ("keep",): "{versions: 14, days: 90}",
    ("ports",): "[{port: 443, name: web}]",
    ("updates",): "{only: security, deadline: 3 h}",
    ("first_boot",): "{apply: first-boot/page.sh}",
    ("source", "debian"): "{suite: trixie}",
    ("source", "disk"): "{path: base.qcow2}",
    ("source", "master"): "debian-13@golden",
}


def fault_of(error: dict[str, Any], document: Document, context: Context) -> Fault:
    """One error of pydantic's (an item of `ValidationError.errors()`) as a fault of the document."""
    kind: str = error["type"]
    location: tuple[str | int, ...] = error["loc"]
    at_key = kind == "extra_forbidden" or location[-1:] == ("[key]",)
    place: Place = tuple(part for part in location if part not in TAGS and part != "[key]")
    message, hint = "", ""
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        message, hint, place = cause.message, cause.hint, (*place, *cause.at)
    elif kind == "extra_forbidden":
        message, hint = _unknown_key(place, document, context)
    elif kind.startswith("union_tag"):
        message, hint, place, at_key = _no_kind(place, error["input"])
    else:
        message, hint = _plain(kind, error)
        hint = hint or _SHAPES.get(place if kind != "missing" else (), "")
    before = len(document.faults)
    document.add(place, message, hint, at_key=at_key)
    return document.faults.pop(before)


def _at(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


def _kinds_at(place: Place) -> tuple[str, ...]:
    """The kinds that the mapping at a place is one of, where it is (`source`, `steps[0]`, `expect[0]`)."""
    kinds = _KINDS.get(str(place[0]), ()) if place else ()
    depth = 1 if place[:1] == ("source",) else 2
    return kinds if len(place) == depth else ()


def _unknown_key(place: Place, document: Document, context: Context) -> tuple[str, str]:
    above, key = place[:-1], str(place[-1])
    mapping = _at(document.data, above)
    kinds = _kinds_at(above)
    if key in kinds:
        given = next(kind for kind in kinds if kind in mapping)
        return f"{given} and {key} cannot be combined", "write each into its own list item" if len(above) > 1 else ""
    known = context.keys.get(id(mapping), [])
    unused = [name for name in known if name not in mapping]
    return "unknown key", closest(key, unused) or f"valid keys: {', '.join(known)}"


def _no_kind(place: Place, value: Any) -> tuple[str, str, Place, bool]:
    kinds = _kinds_at(place)
    choice = ", ".join(kinds)
    if isinstance(value, dict):
        for key in value:
            if near := closest(key, kinds):
                return "unknown key", near, (*place, key), True
        return f"needs one of {choice}", "", place, False
    if isinstance(value, str):
        guess = _guess(place, value)
        return f"must be a mapping with one of {choice}, not text", guess, place, False
    return f"must be a mapping with one of {choice}, not {shown(value)}", "", place, False


def _guess(place: Place, value: str) -> str:
    match place[0]:
        case "steps":
            return f"playbook: {value}?" if value.endswith((".yml", ".yaml")) else f"script: {value}?"
        case "source":
            return f"{{master: {value}}}?"
    return f"command: {value}?"


_WANTED = {
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _plain(kind: str, error: dict[str, Any]) -> tuple[str, str]:
    value, ctx = error["input"], error.get("ctx", {})
    message, hint = str(error["msg"]), ""
    match kind:
        case "missing":
            message = "is missing"
        case "string_type":
            message = f"must be text, not {shown(value)}"
            if isinstance(value, bool | int | float):
                what = "truth value" if isinstance(value, bool) else "number"
                message, hint = f"must be text, not the {what} {shown(value)}", f'quote it: "{shown(value)}"'
        case "literal_error":
            names = re.findall(r"'([^']*)'", ctx["expected"])
            choice = " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else ctx["expected"]
            message, hint = f"must be {choice}, not {shown(value)}", closest(str(value), names)
        case "greater_than_equal":
            message = f"must be at least {ctx['ge']}, not {shown(value)}"
        case "less_than_equal":
            message = f"must be at most {ctx['le']}, not {shown(value)}"
        case "too_short" | "string_too_short":
            message = "must not be empty"
        case _ if kind in _WANTED:
            described = f"the text {shown(value)}" if isinstance(value, str) else shown(value)
            message = f"must be {_WANTED[kind]}, not {described}"
            if kind == "list_type" and isinstance(value, str | int):
                hint = f"[{shown(value)}]?"
            elif kind == "int_type" and isinstance(value, str) and value.isdigit():
                hint = "without quotes?"
    return message, hint
