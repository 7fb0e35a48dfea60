"""The JSON schema of the YAML as written, for editors."""

from __future__ import annotations

from typing import Any

from pipeline.definition.schema_models import Written


def json_schema() -> dict[str, Any]:
    """A draft 2020-12 schema; an editor takes it by `# yaml-language-server: $schema=...`.

    It knows the shape. What needs the disk, or two keys at once, only `goldsmith validate` can say.
    """
    schema = _without_null(Written.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "goldsmith definition"}


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
    if len(choices) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    return kept
