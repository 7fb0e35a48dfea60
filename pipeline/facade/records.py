"""What the facade alone knows: resource groups, cards and networks, and where a VM or a disk was put.

One file each, named by the digest of the lower-case id: ids have no case and any character. VMs, disks and images
themselves are never copied here: they are read from the store each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.files import Shape, read_usable, write_json


class RecordShape(Shape):
    """A record: its id in the case of its maker, and the resource itself."""

    id: str
    body: dict[str, Any]


class Records:
    """The folder of records."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> dict[str, Any] | None:
        """The body of a record; None where there is none. A damaged record is skipped by name."""
        found = read_usable(self._file(key), RecordShape)
        return dict(found["body"]) if found is not None else None

    def put(self, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        write_json(self._file(key), {"id": key, "body": dict(body)})
        return dict(body)

    def remove(self, key: str) -> bool:
        """Whether there was such a record."""
        path = self._file(key)
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    def below(self, prefix: str) -> list[dict[str, Any]]:
        """The bodies of all records whose ids begin so, in the order of their ids."""
        found = []
        for path in self._root.glob("*.json"):
            record = read_usable(path, RecordShape)
            if record is not None and record["id"].lower().startswith(prefix.lower()):
                found.append(record)
        return [dict(each["body"]) for each in sorted(found, key=lambda each: each["id"].lower())]

    def remove_below(self, prefix: str) -> None:
        """Remove all records whose ids begin so."""
        for path in self._root.glob("*.json"):
            record = read_usable(path, RecordShape)
            if record is not None and record["id"].lower().startswith(prefix.lower()):
                path.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._root / f"{hashlib.sha256(key.lower().encode()).hexdigest()}.json"
