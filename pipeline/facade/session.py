"""What a request or a task works with: the VMs and disks of the store, the facade's own records, its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.base.errors import HostError
from pipeline.base.store import Store
from pipeline.facade.errors import not_found
from pipeline.facade.ids import GROUP, LOCATION, group_id
from pipeline.facade.records import Records
from pipeline.facade.tasks import Tasks
from pipeline.facade.tokens import Tokens
from pipeline.instances.fleet import Fleet

_PLACE = "/placement/"


@dataclass(frozen=True)
class Placement:
    """What a client gave for a VM or a disk, and goldsmith has no place for. `cards`: ids of network interfaces."""

    group: str = GROUP
    location: str = LOCATION
    tags: Mapping[str, str] | None = None
    cards: tuple[str, ...] = ()
    image: Mapping[str, Any] | None = None

    def is_in(self, group: str | None) -> bool:
        """Whether it belongs to a group; every placement belongs to None."""
        return group is None or self.group.lower() == group.lower()


@dataclass(frozen=True)
class Session:
    """`can_change`: whether this process may change VMs, which belong to root."""

    store: Store
    fleet: Fleet
    records: Records
    tasks: Tasks
    tokens: Tokens
    can_change: bool

    def need_root(self) -> None:
        """Raise HostError (root-needed) where VMs and disks cannot be changed."""
        if not self.can_change:
            raise HostError(
                "virtual machines, their networks and their disks belong to root",
                name="root-needed",
                hint="sudo goldsmith serve azure",
            )

    # ---- groups ----------------------------------------------------------------------------------------------------

    def find_group(self, name: str) -> dict[str, Any]:
        """A resource group. The group `goldsmith` has what was made without the facade. Raises ArmError (404)."""
        found = self.records.get(group_id(name))
        if found is None and name.lower() == GROUP:
            found = {
                "id": group_id(GROUP),
                "name": GROUP,
                "type": "Microsoft.Resources/resourceGroups",
                "location": LOCATION,
                "tags": {},
                "properties": {"provisioningState": "Succeeded"},
            }
        if found is None:
            error = not_found(f"the resource group {name[:80]!r}")
            error.code = "ResourceGroupNotFound"
            raise error
        return found

    # ---- placements ------------------------------------------------------------------------------------------------

    def placement(self, owner: str) -> Placement:
        """Where a VM or a disk was put, by its id."""
        found = self.records.get(f"{_PLACE}{owner}")
        if found is None:
            return Placement()
        return replace(
            Placement(**{key: found[key] for key in ("group", "location", "tags", "image") if key in found}),
            cards=tuple(str(each) for each in found.get("cards") or ()),
        )

    def place(self, owner: str, placement: Placement) -> None:
        fields = {key: getattr(placement, key) for key in ("group", "location", "tags", "image")}
        self.records.put(f"{_PLACE}{owner}", {**fields, "cards": list(placement.cards)})

    def displace(self, owner: str) -> None:
        self.records.remove(f"{_PLACE}{owner}")
