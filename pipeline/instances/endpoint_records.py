"""Endpoints: a port of this host that leads to the VMs of a set. `endpoints/NAME/record.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pydantic import Field

from pipeline.base.errors import NotFound
from pipeline.base.files import Shape, remove_tree
from pipeline.base.names import INSTANCE_NAME
from pipeline.instances.named_records import NamedRecords
from pipeline.network.balancer import Rules

#: The path of an HTTP probe: what a line of HAProxy's configuration and a request may have.
PROBE_PATH = r"/[A-Za-z0-9._~/?=&%+-]{0,200}"


@dataclass(frozen=True)
class EndpointRecord:
    """One endpoint. `address`: of this host. `probe`: the path of an HTTP probe, None for a connection alone.

    `serving`: whether its HAProxy should run; it does while a VM of its set has an address.
    """

    name: str
    created: str
    protocol: str
    address: str
    public: int
    private: int
    set: str
    probe: str | None = None
    serving: bool = False

    @property
    def rules(self) -> Rules:
        return Rules(self.protocol, self.private, self.probe)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EndpointRecord:
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


class EndpointShape(Shape):
    """`EndpointRecord` as a file."""

    name: str = Field(pattern=f"^{INSTANCE_NAME.pattern}$")
    created: str
    protocol: Literal["tcp", "http"]
    address: str
    public: int = Field(gt=0, lt=65536)
    private: int = Field(gt=0, lt=65536)
    set: str = Field(pattern=f"^{INSTANCE_NAME.pattern}$")
    probe: str | None = Field(default=None, pattern=f"^{PROBE_PATH}$")
    serving: bool = False

    @classmethod
    def advice(cls) -> str:
        return "goldsmith endpoint remove NAME, then goldsmith endpoint add makes it again"


class Endpoints(NamedRecords[EndpointRecord]):
    """The folder of endpoints of a store. Who changes one holds all of them."""

    shape = EndpointShape

    def from_json(self, data: Mapping[str, Any]) -> EndpointRecord:
        return EndpointRecord.from_json(data)

    def unknown(self, name: str, meant: str) -> NotFound:
        return NotFound(
            f"there is no endpoint {name}",
            name="endpoint-unknown",
            hint=f"{meant}goldsmith endpoint list shows all",
        )

    def add(self, record: EndpointRecord) -> EndpointRecord:
        """Make a new endpoint's folder with its record; HAProxy's user may search it."""
        return self.finish(self.draft(record, mode=0o711), record)

    def remove(self, name: str) -> None:
        """Remove an endpoint's folder, and what interrupted commands left."""
        remove_tree(self.unname(name))
        self.sweep()
