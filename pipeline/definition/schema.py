"""The JSON schema of the YAML as written, for editors."""

from __future__ import annotations

from typing import Any

from pipeline.definition.schema_models import Written


def json_schema() -> dict[str, Any]:
    """A draft 2020-12 schema; an editor takes it by `# yaml-language-server: $schema=...`.

    It knows the shape. What needs the disk, or two keys at once, only `goldsmith validate` can say.
    """
    schema = _composed(_without_null(Written.model_json_schema(by_alias=True)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "goldsmith definition"}


#: In place of any single value: a text with a parameter in it.
_PARAMETER = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_-]*\}"}


def _composed(schema: dict[str, Any]) -> dict[str, Any]:
    """What a file may hold that is merged with others: parameters, lists that are appended to, no required source."""
    properties = schema["properties"]
    version = properties.pop("goldsmith")
    schema = _with_parameters(schema)
    schema["properties"] = {"goldsmith": version, **schema["properties"]}
    schema["required"] = ["goldsmith"]
    return schema


def _with_parameters(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_parameters(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_parameters(value) for key, value in node.items()}
    properties = node.get("properties")
    if isinstance(properties, dict):
        lists = {key: part for key, part in properties.items() if part.get("type") == "array"}
        more = {f"{key}+": {**part, "description": f"Items behind those of {key}."} for key, part in lists.items()}
        for part in more.values():
            part.pop("default", None)
        node["properties"] = {**properties, **more}
    if _is_narrow(node):
        shown = {key: node.pop(key) for key in ("description", "default", "examples") if key in node}
        return {"anyOf": [node, {"$ref": "#/$defs/Parameter"}], **shown}
    if "$defs" in node:
        node["$defs"] = {"Parameter": _PARAMETER, **node["$defs"]}
    return node


def _is_narrow(node: dict[str, Any]) -> bool:
    """A single value that not every text is."""
    narrow = ("enum", "const", "pattern")
    return node.get("type") in ("integer", "number", "boolean") or (
        "properties" not in node and any(isinstance(node.get(key), str | list) for key in narrow)
    )


def _without_null(node: Any) -> Any:
    """An optional key may be left out, never be null: `X or null, default null` becomes X; generated titles go."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _without_null(value)
        for key, value in node.items()
        if not (key == "default" and value is None) and not (key == "title" and isinstance(value, str))
    }
    choices = [choice for choice in kept.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) > 1:
        kept["anyOf"] = choices
    if len(choices) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    return kept
