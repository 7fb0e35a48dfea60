"""What a single value of a definition may be, as the shape and its JSON schema know it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipeline.definition import rules
from pipeline.definition.units import disk_size, duration, memory_size


def is_former(spec: FieldInfo) -> bool:
    """Whether a field is the former name of a key: definitions of older versions have it, and nothing proposes it."""
    return isinstance(spec.json_schema_extra, dict) and spec.json_schema_extra.get("deprecated") is True


class Part(BaseModel):
    """A mapping with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _remember(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(info.context, rules.Context):
            info.context.keys[id(data)] = cls.keys()
        return data

    @classmethod
    def keys(cls) -> list[str]:
        """The keys as they are written, without the former names of keys."""
        known = cls.model_fields.items()
        return [spec.alias or name for name, spec in known if not is_former(spec)]


# -- scalars ------------------------------------------------------------------------------------------------

Unique = AfterValidator(rules.unique)
Text = Annotated[str, Field(min_length=1), AfterValidator(rules.not_blank)]
_SIZE_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)? ?(B|KiB|MiB|GiB|TiB)$", "examples": ["8 GiB"]}
_TIME_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)? ?(s|min|h)$", "examples": ["30 min"]}
DiskSize = Annotated[int, BeforeValidator(disk_size), WithJsonSchema(_SIZE_SCHEMA)]
MemorySize = Annotated[int, BeforeValidator(memory_size), WithJsonSchema(_SIZE_SCHEMA)]
Duration = Annotated[int, BeforeValidator(duration), WithJsonSchema(_TIME_SCHEMA)]
_SHA256_SCHEMA = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
Sha256 = Annotated[str, AfterValidator(rules.sha256), WithJsonSchema(_SHA256_SCHEMA)]
Generation = Annotated[int, AfterValidator(rules.generation), WithJsonSchema({"enum": [1, 2]})]
KeyYear = Annotated[int, AfterValidator(rules.key_year), WithJsonSchema({"enum": [2011, 2023]})]
TargetName = Annotated[str, AfterValidator(rules.matches(r"[A-Za-z][A-Za-z0-9_-]{0,60}", "the name of a target"))]
Account = Annotated[str, AfterValidator(rules.matches(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", "the name of an account"))]
SecretName = Annotated[
    str,
    AfterValidator(rules.matches(r"[a-z][a-z0-9_]{0,62}", "the name of a secret: lower case letters, digits and _")),
]
CheckId = Annotated[
    str, AfterValidator(rules.matches(r"[a-z0-9]+(-[a-z0-9]+)*", "the id of a check")), AfterValidator(rules.waivable)
]
Package = Annotated[str, AfterValidator(rules.matches(r"[a-z0-9][a-z0-9+.-]+", "the name of a Debian package"))]
Suite = Annotated[str, AfterValidator(rules.matches(r"[a-z][a-z0-9-]*", "the name of a Debian suite"))]
Mode = Annotated[
    str,
    AfterValidator(rules.matches(r"0?[0-7]{3,4}", 'an octal mode in quotes, such as "0644"')),
    WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3,4}$"}),
]
