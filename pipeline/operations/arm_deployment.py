"""A deployment of an ARM template: its parameters, variables and resources with all expressions evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.files import read_foreign_json
from pipeline.operations.arm_expressions import Function, bad_value, concat, evaluate

#: Bytes of a template or a parameters file; Azure takes 4 MB.
LARGEST = 4_000_000
#: What stands for the subscription and the resource group of a deployment on this host.
SUBSCRIPTION, GROUP, LOCATION = "00000000-0000-0000-0000-000000000000", "goldsmith", "local"
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "array": list,
    "object": dict,
    "secureobject": dict,
}
_SECTIONS = {
    "$schema",
    "contentVersion",
    "languageVersion",
    "apiProfile",
    "metadata",
    "parameters",
    "variables",
    "functions",
    "resources",
    "outputs",
}


@dataclass(frozen=True)
class Resource:
    """One resource. `body` is the whole resource, evaluated."""

    kind: str
    name: str
    id: str
    body: Mapping[str, Any]

    @property
    def properties(self) -> Mapping[str, Any]:
        found = self.body.get("properties")
        return found if isinstance(found, Mapping) else {}


@dataclass
class Deployment:
    """A template with the values of its parameters. `runtime` holds what `reference` gives, by a resource's id.

    `group` is the resource group that it is deployed to, and `location` that group's.
    """

    template: Mapping[str, Any]
    parameters: Mapping[str, Any]
    runtime: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    group: str = GROUP
    location: str = LOCATION
    _open: list[str] = field(default_factory=list)

    @property
    def metadata(self) -> Mapping[str, Any]:
        found = self.template.get("metadata")
        return found if isinstance(found, Mapping) else {}

    def resources(self) -> list[Resource]:
        """The resources in the order of the template. Raises UsageError (template-...)."""
        found = []
        for row in _list_of(self.template, "resources"):
            for key in ("copy", "condition", "resources"):
                if key in row:
                    raise UsageError(
                        f"a resource of the template uses `{key}`, which goldsmith does not know",
                        name="template-resource",
                        hint="write each resource out, at the top level",
                    )
            body = evaluate(row, self._functions())
            kind, name = body.get("type"), body.get("name")
            if not isinstance(kind, str) or not isinstance(name, str):
                raise bad_value("a resource of the template has no type or no name")
            found.append(Resource(kind, name, self._resource_id([kind, *name.split("/")]), body))
        return found

    def outputs(self) -> dict[str, Any]:
        """The outputs, after `runtime` was filled. An output that refers to what is not deployed here is left out."""
        found = {}
        for name, row in _mapping_of(self.template, "outputs").items():
            try:
                found[name] = evaluate(row.get("value") if isinstance(row, Mapping) else None, self._functions())
            except UsageError as error:
                if error.name != "template-reference":
                    raise
        return found

    def _functions(self) -> dict[str, Function]:
        return {
            "concat": concat,
            "parameters": lambda words: self._named("parameters", words),
            "variables": lambda words: self._named("variables", words),
            "resourceId": self._resource_id,
            "reference": self._reference,
            "resourceGroup": lambda _words: {
                "name": self.group,
                "location": self.location,
                "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{self.group}",
            },
            "subscription": lambda _words: {"subscriptionId": SUBSCRIPTION, "id": f"/subscriptions/{SUBSCRIPTION}"},
            "toLower": lambda words: _text(words, "toLower").lower(),
            "toUpper": lambda words: _text(words, "toUpper").upper(),
        }

    def _resource_id(self, words: Sequence[Any]) -> str:
        return resource_id(words, self.group)

    def _named(self, section: str, words: Sequence[Any]) -> Any:
        name = _text(words, section)
        value = _look_up(self.parameters if section == "parameters" else _mapping_of(self.template, section), name)
        if value is _MISSING:
            raise UsageError(
                f"the template has no {section[:-1]} {name}",
                name="template-unknown-name",
                hint=f"correct {section}('{name}'), or add it to `{section}`",
            )
        place = f"{section}.{name.lower()}"
        if place in self._open:
            raise bad_value(f"{name} of `{section}` stands on itself")
        self._open.append(place)
        try:
            # what the user gave is a value, not an expression
            given = section == "parameters" and not isinstance(value, _Default)
            return (
                value if given else evaluate(value.value if isinstance(value, _Default) else value, self._functions())
            )
        finally:
            self._open.pop()

    def _reference(self, words: Sequence[Any]) -> Any:
        wanted = words[0] if words and isinstance(words[0], str) else ""
        found = next(
            (
                value
                for each, value in self.runtime.items()
                if wanted.lower() in (each.lower(), each.lower().split("/")[-1])
            ),
            None,
        )
        if found is None:
            raise UsageError(
                f"reference({wanted!r}) is not the id or the name of a resource that exists yet",
                name="template-reference",
                hint="only outputs may refer to resources of the same template, by resourceId(...)",
            )
        return found


@dataclass(frozen=True)
class _Default:
    """A parameter's default, which may be an expression."""

    value: Any


_MISSING = object()


def _look_up(values: Mapping[str, Any], name: str) -> Any:
    """Names of parameters and variables have no case."""
    return next((value for key, value in values.items() if key.lower() == name.lower()), _MISSING)


def resource_id(words: Sequence[Any], default_group: str = GROUP) -> str:
    """The id of a resource, as the function resourceId of templates writes it. Raises UsageError (template-value)."""
    texts = [str(each) for each in words]
    first = next((number for number, each in enumerate(texts) if "/" in each and not each.startswith("/")), None)
    if first is None:
        raise bad_value("resourceId needs a type of a resource, such as Microsoft.Compute/virtualMachines")
    provider, *kinds = texts[first].split("/")
    names = texts[first + 1 :]
    if len(kinds) != len(names):
        raise bad_value(f"resourceId: {texts[first]} needs {len(kinds)} names, and has {len(names)}")
    before = texts[:first]
    group = before[-1] if before else default_group
    subscription = before[0] if len(before) > 1 else SUBSCRIPTION
    path = "".join(f"/{kind}/{name}" for kind, name in zip(kinds, names, strict=True))
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{provider}{path}"


def _text(words: Sequence[Any], function: str) -> str:
    if len(words) != 1 or not isinstance(words[0], str):
        raise bad_value(f"{function} needs one text")
    return words[0]


# ---- the files ---------------------------------------------------------------------------------------------------


def read_deployment(template: Path, parameters: Path | None) -> Deployment:
    """The deployment of a template with the values of a parameters file.

    Raises UsageError: template-unreadable, template-invalid, template-parameter.
    """
    document = _read(template)
    values = _read(parameters) if parameters is not None else {}
    given = values.get("parameters", values)
    if not isinstance(given, Mapping):
        raise bad_value(f"{parameters}: `parameters` is not an object")
    return make_deployment(document, given, str(template))


def make_deployment(
    document: Mapping[str, Any],
    given: Mapping[str, Any],
    what: str,
    *,
    group: str = GROUP,
    location: str = LOCATION,
) -> Deployment:
    """The deployment of a template that was read, with the values of its parameters. `what` names it in messages.

    Raises UsageError: template-invalid, template-parameter.
    """
    unknown = sorted(document.keys() - _SECTIONS)
    if "$schema" not in document or "resources" not in document or unknown:
        lack = f"it has {unknown[0]!r}" if unknown else "it lacks $schema or resources"
        raise UsageError(
            f"{what} is not an ARM template: {lack}",
            name="template-invalid",
            hint="name a template.json or template-vhd.json of a version; goldsmith gallery import and "
            "goldsmith vm capture write them",
        )
    values = {key: value for key, value in given.items() if key not in ("$schema", "contentVersion")}
    declared = _parameters(_mapping_of(document, "parameters"), values)
    return Deployment(document, declared, group=group, location=location)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_foreign_json(path, LARGEST)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{path} cannot be read: {why}", name="template-unreadable", hint="name a JSON file that exists"
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not a JSON object", name="template-unreadable", hint="name a JSON file")
    return found


def _parameters(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each parameter. Raises UsageError (template-parameter) that names what is wrong."""
    names = {name.lower(): name for name in declared}
    values: dict[str, Any] = {}
    for name, row in given.items():
        if name.lower() not in names:
            raise _wrong(name, f"the template has none of this name, but {', '.join(declared) or 'no parameter'}")
        if not isinstance(row, Mapping) or "value" not in row:
            raise _wrong(name, 'write {"value": ...}; a reference to a key vault is not known here')
        values[names[name.lower()]] = row["value"]
    for name, declaration in declared.items():
        row = declaration if isinstance(declaration, Mapping) else {}
        if name not in values:
            if "defaultValue" not in row:
                described = row.get("metadata")
                what = described.get("description", "") if isinstance(described, Mapping) else ""
                raise _wrong(name, f"it has no value: {what}")
            values[name] = _Default(row["defaultValue"])
            continue
        _judge(name, row, values[name])
    return values


def _judge(name: str, row: Mapping[str, Any], value: Any) -> None:
    """Raise UsageError (template-parameter) for a value that its declaration does not allow."""
    kind = str(row.get("type", "")).lower()
    wanted = _KINDS.get(kind)
    if wanted is None:
        raise _wrong(name, f"the template gives it the unknown type {kind!r}")
    if not isinstance(value, wanted) or (kind == "int" and isinstance(value, bool)):
        raise _wrong(name, f"its value is not of the type {kind}")
    allowed = row.get("allowedValues")
    if isinstance(allowed, list) and value not in allowed:
        raise _wrong(name, f"its value is not one of {', '.join(map(str, allowed))}")
    measure = value if kind == "int" else len(value) if isinstance(value, str | list) else None
    least, most = ("minValue", "maxValue") if kind == "int" else ("minLength", "maxLength")
    bounds = row.get(least, measure), row.get(most, measure)
    if measure is not None and not all(isinstance(each, int) for each in bounds):
        raise _wrong(name, f"its {least} or {most} is not a number")
    if measure is not None and not bounds[0] <= measure <= bounds[1]:
        raise _wrong(name, f"its value is outside of {least} and {most}")


def _wrong(name: str, why: str) -> UsageError:
    return UsageError(
        f"the parameter {name}: {why}",
        name="template-parameter",
        hint=f'give it in the file of --parameters: {{"parameters": {{"{name}": {{"value": ...}}}}}}',
    )


def _mapping_of(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, Mapping):
        raise bad_value(f"`{key}` of the template is not an object")
    return found


def _list_of(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise bad_value(f"`{key}` of the template is not a list of objects")
    return found
