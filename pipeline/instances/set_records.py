"""Sets: VMs that do the same work, dealt over fault domains and update domains as in Azure's availability sets.

`sets/NAME/record.json` says how the VMs of a set are made; the record of each VM names its set and its domains. Who
adds a VM to a set, removes a set or changes its record holds the budget of the instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pydantic import Field

from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import Shape, remove_tree
from pipeline.base.names import INSTANCE_NAME
from pipeline.instances.named_records import NamedRecords
from pipeline.instances.record import Record

#: Azure's numbers of domains: of the portal by default, and at most.
#: https://learn.microsoft.com/azure/virtual-machines/availability-set-overview
FAULT_DOMAINS, UPDATE_DOMAINS = 2, 5
MOST_FAULT_DOMAINS, MOST_UPDATE_DOMAINS = 3, 20


@dataclass(frozen=True)
class SetRecord:
    """One set: how its VMs are made. `image` is a reference; `memory`, `resource_size` and `os_disk_size` in bytes;
    the last is 0 where it is the master's.

    `prefix`: the beginning of the names of its VMs. `auto`: each refresh of its image upgrades them to golden.
    """

    name: str
    created: str
    prefix: str
    image: str
    user: str
    public_key: str
    size: str | None
    cpus: int
    memory: int
    generation: int
    secure: bool
    network: str | None
    outside: bool
    os_caching: str
    resource_size: int
    fault_domains: int = FAULT_DOMAINS
    update_domains: int = UPDATE_DOMAINS
    auto: bool = False
    os_disk_size: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetRecord:
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


class SetShape(Shape):
    """`SetRecord` as a file."""

    name: str = Field(pattern=f"^{INSTANCE_NAME.pattern}$")
    created: str
    prefix: str = Field(pattern=f"^{INSTANCE_NAME.pattern}$")
    image: str
    user: str
    public_key: str
    size: str | None
    cpus: int = Field(gt=0)
    memory: int = Field(gt=0)
    generation: int
    secure: bool
    network: str | None
    outside: bool
    os_caching: Literal["None", "ReadOnly", "ReadWrite"]
    resource_size: int = Field(ge=0)
    fault_domains: int = Field(gt=0, le=MOST_FAULT_DOMAINS)
    update_domains: int = Field(gt=0, le=MOST_UPDATE_DOMAINS)
    auto: bool = False
    os_disk_size: int = Field(default=0, ge=0)

    @classmethod
    def advice(cls) -> str:
        return "bring the record back from a backup; the VMs of the set run on, and can be deleted one by one"


def check_set_name(name: str) -> None:
    """Raise UsageError (set-name) for an invalid name of a set."""
    if not INSTANCE_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a set",
            name="set-name",
            hint="lower case letters, digits and hyphens, at most 63, neither first nor last a hyphen",
        )


def least_used(taken: Iterable[int], count: int) -> int:
    """The domain, of `count`, that has the fewest VMs; of equals the first. Pure."""
    used = list(taken)
    return min(range(count), key=lambda domain: (used.count(domain), domain))


def number_of(record: Record) -> tuple[int, str]:
    """The order of VMs in a set: web-2 comes before web-10."""
    digits = record.name.rpartition("-")[2]
    return (int(digits) if digits.isdecimal() else -1, record.name)


def members_of(name: str, records: Iterable[Record]) -> list[Record]:
    """The VMs of a set, in their order. Pure."""
    return sorted((record for record in records if record.set == name), key=number_of)


class Sets(NamedRecords[SetRecord]):
    """The folder of sets of a store. Who holds the budget of the instances holds every set."""

    shape = SetShape

    def from_json(self, data: Mapping[str, Any]) -> SetRecord:
        return SetRecord.from_json(data)

    def check_name(self, name: str) -> None:
        check_set_name(name)

    def unknown(self, name: str, meant: str) -> NotFound:
        return NotFound(
            f"there is no set {name}",
            name="set-unknown",
            hint=f"{meant}goldsmith set list shows all; goldsmith vm create NAME --set {name} --count N makes it",
        )

    def add(self, record: SetRecord, files: Mapping[str, bytes] | None = None) -> SetRecord:
        """Make a new set's folder with its record and these files, 0600, in one rename."""
        return self.finish(self.draft(record, files), record)

    def remove(self, name: str) -> None:
        """Remove a set's record; its VMs are removed before. What an interrupted removal left is removed, too."""
        remove_tree(self.unname(name))
        self.sweep()

    def deal_domains(self, record: Record, others: Iterable[Record]) -> Record:
        """The record with its domains in its set, if it is in one: those with the fewest VMs.

        Raises NotFound (set-unknown): the set may have been deleted meanwhile.
        """
        if record.set is None:
            return record
        found = self.get(record.set)
        members = members_of(record.set, others)
        return replace(
            record,
            fault_domain=least_used((each.fault_domain for each in members), found.fault_domains),
            update_domain=least_used((each.update_domain for each in members), found.update_domains),
        )
