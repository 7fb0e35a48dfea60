"""Parameters of definitions: what `parameters:` declares, which value each has, and `${name}` in the other keys.

A parameter is declared short (`suite: bookworm`, a default of that type) or long (`suite: {type: text, default:
bookworm, env: SUITE}`). Its value comes from, in this order: the matrix, `--set` of the command line, the declared
variable of the environment, the default. A definition without any parameter has no `${name}`: its text is plain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.definition.diagnostics import Fault, Wrong, closest, shown
from pipeline.definition.document import Document, Place, spell
from pipeline.definition.reading import find_credentials
from pipeline.definition.units import duration, size

Scalar = str | int | float | bool

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,60}", re.ASCII)
#: `${name}`; `$${` is the text `${`.
_USE = re.compile(r"\$(\$\{|\{([^{}\n]*)\})")
_KEYS = ("type", "default", "env", "description")
#: Keys of a definition in which no parameter is replaced: they decide which parameters there are.
STRUCTURE = frozenset({"goldsmith", "extends", "matrix", "parameters"})


@dataclass(frozen=True)
class Parameter:
    """A declared parameter; `variable` is the environment's variable that may set it, or empty."""

    name: str
    type: str
    variable: str = ""
    default: Scalar | None = None


@dataclass(frozen=True)
class Value:
    """A parameter's value, where it was set, the place of its text if it stands in a file, and the environment's
    variable with its text if that set it."""

    value: Scalar
    origin: str
    position: tuple[str, int, int] | None = None
    variable: tuple[str, str] | None = None


def _to_number(text: str) -> Scalar:
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,15}\.[0-9]{1,15}", text):
        return float(text)
    raise Wrong(f"{shown(text)} is not a number", "write digits only, such as 4")


def _to_boolean(text: str) -> Scalar:
    if text not in ("true", "false"):
        raise Wrong(f"{shown(text)} is not a boolean", "write true or false")
    return text == "true"


def _check_size(value: object) -> None:
    size(value)


def _check_duration(value: object) -> None:
    duration(value)


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise Wrong(f"must be text, not {shown(value)}", f'quote it: "{shown(value)}"')


def _check_number(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong(f"must be a number, not {shown(value)}", "write it without quotes")


def _check_boolean(value: object) -> None:
    if not isinstance(value, bool):
        raise Wrong(f"must be true or false, not {shown(value)}")


#: For each type: the check of a value, and how a text from outside becomes one.
TYPES: dict[str, tuple[Callable[[object], None], Callable[[str], Scalar]]] = {
    "text": (_check_text, str),
    "number": (_check_number, _to_number),
    "boolean": (_check_boolean, _to_boolean),
    "size": (_check_size, str),
    "duration": (_check_duration, str),
}


def type_of(value: object) -> str:
    """The type of a parameter that is declared by a default alone."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text"


def check_type(value: object, kind: str) -> None:
    """Raise `Wrong` where a value from YAML is not of the type."""
    if isinstance(value, dict | list) or value is None:
        raise Wrong(f"must be a single value, not {shown(value)}")
    TYPES[kind][0](value)


def normalized(document: Document) -> Document:
    """The document with every short declaration written long, so that declarations of two files can be merged."""
    declared = document.data.get("parameters")
    if not isinstance(declared, dict) or all(isinstance(entry, dict) for entry in declared.values()):
        return document
    result = Document(document.file, dict(document.data), dict(document.keys), dict(document.values))
    result.faults, result.files = document.faults, dict(document.files)
    result.data["parameters"] = {
        name: entry if isinstance(entry, dict) or entry is None else {"default": entry}
        for name, entry in declared.items()
    }
    for name, entry in declared.items():
        place = ("parameters", name)
        if not isinstance(entry, dict) and place in result.values:
            result.values[(*place, "default")] = result.values[place]
    return result


def declared_parameters(document: Document) -> dict[str, Parameter]:
    """The parameters that a merged document declares; errors are added to its faults."""
    declared = document.data.get("parameters", {})
    if not isinstance(declared, dict):
        document.add(("parameters",), f"must be a mapping, not {shown(declared)}", "{suite: bookworm}")
        return {}
    found = {}
    for name, entry in declared.items():
        parameter = _declared(document, str(name), entry)
        if parameter is not None:
            found[parameter.name] = parameter
    return found


def _declared(document: Document, name: str, entry: Any) -> Parameter | None:
    place: Place = ("parameters", name)
    before = len(document.faults)
    if not _NAME.fullmatch(name):
        message = f"{shown(name)} is not a valid parameter name"
        document.add(place, message, "use letters, digits, _ and -, with a letter or _ first", at_key=True)
        return None
    if not isinstance(entry, dict):
        document.add(place, "has no default", f"write {name}: DEFAULT, or {name}: {{type: text}}")
        return None
    for key in entry:
        if key not in _KEYS:
            hint = closest(key, _KEYS) or f"valid keys: {', '.join(_KEYS)}"
            document.add((*place, key), "unknown key", hint, at_key=True)
    default = entry.get("default")
    kind = entry.get("type", type_of(default))
    if not isinstance(kind, str) or kind not in TYPES:
        hint = closest(str(kind), TYPES)
        document.add((*place, "type"), f"must be {_choice(list(TYPES))}, not {shown(kind)}", hint)
        return None
    if default is not None:
        _type_fault(document, (*place, "default"), default, kind)
    variable = entry.get("env", "")
    if variable != "" and not (isinstance(variable, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable)):
        message = f"{shown(variable)} is not a valid name of an environment variable"
        document.add((*place, "env"), message, "use letters, digits and _")
    if len(document.faults) > before:
        return None
    return Parameter(name, kind, variable, default)


def _choice(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _type_fault(document: Document, place: Place, value: object, kind: str) -> None:
    try:
        check_type(value, kind)
    except Wrong as error:
        document.add(place, error.message, error.hint, name="parameter-type")


def values_of(
    document: Document,
    parameters: Mapping[str, Parameter],
    row: Mapping[str, Value],
    settings: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, Value]:
    """The value of each parameter that has one; errors are added to the document's faults."""
    found = {}
    for name, parameter in parameters.items():
        if name in row:
            found[name] = row[name]
        elif name in settings:
            value = _from_text(document, parameter, settings[name], f"--set {name}=...")
            found |= {name: value} if value else {}
        elif parameter.variable and parameter.variable in environment:
            origin = f"the environment variable {parameter.variable}"
            text = environment[parameter.variable]
            value = _from_text(document, parameter, text, origin)
            found |= {name: replace(value, variable=(parameter.variable, text))} if value else {}
        elif parameter.default is not None:
            file, line, column = document.position(("parameters", name, "default"))
            found[name] = Value(parameter.default, f"its default in {file}:{line}", (file, line, column))
    return found


def _from_text(document: Document, parameter: Parameter, text: str, origin: str) -> Value | None:
    place = ("parameters", parameter.name)
    file, line, column = document.position(place, at_key=True)
    for fault in find_credentials(f"{parameter.name}: {text}\n".encode(), file):
        document.faults.append(Fault(file, line, column, spell(place), fault.message, fault.hint))
    try:
        value = TYPES[parameter.type][1](text)
        check_type(value, parameter.type)
    except Wrong as error:
        hint = f"{error.hint}; set by {origin}" if error.hint else f"set by {origin}"
        document.add(place, error.message, hint, at_key=True, name="parameter-type")
        return None
    return Value(value, origin)


def replace_parameters(
    document: Document, parameters: Mapping[str, Parameter], values: Mapping[str, Value]
) -> set[str]:
    """Put the values in place of `${name}` in all keys of the document; returns the names that are used."""
    used: set[str] = set()

    def walk(value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            return {
                key: item if not place and key in STRUCTURE else walk(item, (*place, key))
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [walk(item, (*place, index)) for index, item in enumerate(value)]
        return _replaced(document, value, place, parameters, values, used) if isinstance(value, str) else value

    document.data = walk(document.data, ())
    return used


def _replaced(
    document: Document,
    text: str,
    place: Place,
    parameters: Mapping[str, Parameter],
    values: Mapping[str, Value],
    used: set[str],
) -> Any:
    names = [match[2] for match in _USE.finditer(text) if match[2] is not None]
    if not names:
        return text.replace("$${", "${")
    used |= {name for name in names if name in parameters}
    for name in dict.fromkeys(names):
        if name not in parameters:
            hint = closest(name, parameters) or f"declare it under parameters:, or write $${{{name}}} for the text"
            document.add(place, f"the parameter {shown(name)} does not exist", hint, name="parameter-unknown")
        elif name not in values and not _has_fault(document, name):
            variable = parameters[name].variable
            hint = f"--set {name}=VALUE" + (f", or export {variable}=VALUE" if variable else ", or give it a default")
            document.add(place, f"the parameter {name} has no value", hint, name="parameter-missing")
    if any(name not in values for name in names):
        document.unresolved.add(place)
        return text
    document.parameters[place] = ", ".join(
        f"{name} is {shown(values[name].value)}, from {values[name].origin}" for name in dict.fromkeys(names)
    )
    if text == f"${{{names[0]}}}":
        value = values[names[0]]
        if value.position is not None:
            document.files[place], *mark = value.position
            document.values[place] = (mark[0], mark[1])
        return value.value
    return _USE.sub(lambda match: "${" if match[2] is None else _as_text(values[match[2]].value), text)


def _has_fault(document: Document, name: str) -> bool:
    """Whether the parameter's value, or the matrix, was refused already: then the value is not missing."""
    key = spell(("parameters", name))
    return any(fault.key in (key, f"{key}.default") or fault.key.startswith("matrix") for fault in document.faults)


def _as_text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
