"""Deployments: the sets and endpoints that one file describes. `deployments/NAME/record.json`.

The record names everything that the deployment may have made, before it is made: what an interrupted command leaves
is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from filelock import FileLock
from pydantic import Field

from pipeline.base import locks
from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import Shape, remove_tree
from pipeline.base.names import INSTANCE_NAME
from pipeline.instances.named_records import NamedRecords

#: Seconds to wait for another command that changes the same deployment: it may take long, and is named.
LOCK = 10.0

_Name = Annotated[str, Field(pattern=f"^{INSTANCE_NAME.pattern}$")]


@dataclass(frozen=True)
class DeploymentRecord:
    """One deployment. `sets`: the wanted number of VMs by the set's name. `file` and `digest`: of its file.

    `applied`: when everything was as the file says; None while a change of it is not finished.
    """

    name: str
    created: str
    file: str
    digest: str
    sets: Mapping[str, int]
    endpoints: tuple[str, ...]
    applied: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DeploymentRecord:
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        return cls(**{**values, "endpoints": tuple(values["endpoints"])})


class DeploymentShape(Shape):
    """`DeploymentRecord` as a file."""

    name: _Name
    created: str
    file: str
    digest: str
    sets: dict[_Name, int]
    endpoints: list[_Name]
    applied: str | None

    @classmethod
    def advice(cls) -> str:
        return "bring the record back from a backup; goldsmith set list and endpoint list show what there is"


class Deployments(NamedRecords[DeploymentRecord]):
    """The folder of deployments of a store."""

    shape = DeploymentShape

    def from_json(self, data: Mapping[str, Any]) -> DeploymentRecord:
        return DeploymentRecord.from_json(data)

    def check_name(self, name: str) -> None:
        if not INSTANCE_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be the name of a deployment",
                name="deploy-name",
                hint="lower case letters, digits and hyphens, at most 63, neither first nor last a hyphen",
            )

    def unknown(self, name: str, meant: str) -> NotFound:
        return NotFound(
            f"there is no deployment {name}",
            name="deploy-unknown",
            hint=f"{meant}goldsmith deploy list shows all; goldsmith deploy FILE makes one",
        )

    def acquire(self, lock: FileLock, name: str) -> None:
        locks.acquire(lock, f"the deployment {name}", deadline=LOCK, name="deploy-locked")

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Keep other commands from changing a deployment. Raises UsageError (deploy-name), BuildError
        (deploy-locked)."""
        with super().hold(name):
            self.sweep_own(name)
            yield

    def sweep_own(self, name: str) -> None:
        """Remove what interrupted commands left of this deployment. The caller holds it."""
        for path in self.leftovers():
            if path.name.split("-", 1)[1].rpartition("-")[0] == name:
                remove_tree(path)

    def put(self, record: DeploymentRecord) -> DeploymentRecord:
        """Write a record, new or not. The caller holds it."""
        if self.find(record.name) is not None:
            return self.save(record)
        return self.finish(self.draft(record), record)

    def remove(self, name: str) -> None:
        """Remove a record. The caller holds it, and has removed what it names."""
        remove_tree(self.unname(name))
