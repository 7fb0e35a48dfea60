"""The fields of a request's body, read with their types: one of another type is an error that names its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.facade.errors import ArmError, invalid

#: The longest tag and the most tags: https://learn.microsoft.com/azure/azure-resource-manager/management/tag-resources
_TAG_NAME, _TAG_VALUE, _TAGS = 512, 256, 50
_LOCATION = re.compile(r"[a-z0-9]{1,40}")


class Fields:
    """A JSON object. `place` is its path in the body, for messages."""

    def __init__(self, values: Mapping[str, Any], place: str = "") -> None:
        self.values = values
        self.place = place

    def __bool__(self) -> bool:
        return bool(self.values)

    def part(self, key: str) -> Fields:
        """An object; an empty one where the field is missing or null."""
        found = self.values.get(key)
        if found is None:
            return Fields({}, self._at(key))
        if not isinstance(found, Mapping):
            raise self._wrong(key, "an object")
        return Fields(found, self._at(key))

    def rows(self, key: str) -> list[Fields]:
        """A list of objects; empty where the field is missing or null."""
        found = self.values.get(key)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
            raise self._wrong(key, "a list of objects")
        return [Fields(each, f"{self._at(key)}[{number}]") for number, each in enumerate(found)]

    def text(self, key: str) -> str:
        """A text; empty where the field is missing or null."""
        found = self.values.get(key)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise self._wrong(key, "a text")
        return found

    def number(self, key: str) -> int | None:
        """A whole number, also written as a text, as templates do."""
        found = self.values.get(key)
        if isinstance(found, str) and re.fullmatch(r"-?[0-9]{1,18}", found, re.ASCII):
            return int(found)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            raise self._wrong(key, "a whole number")
        return found

    def tags(self) -> dict[str, str]:
        found = self.part("tags").values
        if len(found) > _TAGS:
            raise invalid(f"a resource has at most {_TAGS} tags")
        for name, value in found.items():
            if not isinstance(value, str) or not 0 < len(name) <= _TAG_NAME or len(value) > _TAG_VALUE:
                raise self._wrong("tags", f"texts of at most {_TAG_VALUE} characters")
        return dict(found)

    def location(self) -> str:
        """The location in Azure's form: lower case, without blanks. All locations are this host."""
        text = self.text("location").replace(" ", "").lower()
        if text and not _LOCATION.fullmatch(text):
            raise ArmError(
                400, "LocationNotAvailableForResourceGroup", f"{text[:60]!r} is not the name of a location"
            )
        return text

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def _wrong(self, key: str, wanted: str) -> ArmError:
        return invalid(f"{self._at(key)} must be {wanted}")
