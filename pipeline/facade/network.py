"""Network interfaces, networks, addresses and filters: kept as records.

The fabric of this host plays their part: each VM has one card with one address. What a client writes into a record is
given back, and a card shows the address and the VM that it really has.
"""

from __future__ import annotations

from typing import Any

from pipeline.facade.errors import ArmError, not_found
from pipeline.facade.fields import Fields
from pipeline.facade.ids import (
    ADDRESSES,
    CARDS,
    FILTERS,
    LOCATION,
    MACHINES,
    NETWORKS,
    check_resource_name,
    group_id,
    resource_id,
)
from pipeline.facade.machines import address_of, cards_of, implied_card, list_machines
from pipeline.facade.routing import Answer, Request, Route
from pipeline.facade.session import Session

#: Records of one kind in a group, at most: a client that makes more has gone astray.
MOST = 1000
_BASE = "/subscriptions/{subscription}/resourceGroups/{group}/providers"
#: What a record's parts are called that have names and ids of their own.
_INNER = {
    NETWORKS.lower(): ("subnets",),
    FILTERS.lower(): ("securityRules",),
    CARDS.lower(): ("ipConfigurations",),
    ADDRESSES.lower(): (),
}
KINDS = (CARDS, NETWORKS, ADDRESSES, FILTERS)


def keep_record(session: Session, resource: dict[str, Any]) -> dict[str, Any]:
    """Write a record of a network's part. Raises ArmError (409)."""
    place, kind = resource["id"], resource["type"]
    group = place.split("/")[4]
    if (
        session.records.get(place) is None
        and len(session.records.below(f"{group_id(group)}/providers/{kind}/")) >= MOST
    ):
        raise ArmError(409, "ResourceCountExceedsLimit", f"{group} has {MOST} resources of the type {kind}")
    return session.records.put(place, resource)


def make_record(group: str, kind: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A network's part as it is answered. Nothing is written. Raises ArmError (400)."""
    place = resource_id(group, kind, check_resource_name(name))
    fields = Fields(body).part("properties")
    properties = dict(fields.values)
    for part in _INNER[kind.lower()]:
        properties[part] = [_name_inner(place, part, row) for row in fields.rows(part)]
    properties["provisioningState"] = "Succeeded"
    kept = {key: body[key] for key in ("sku", "zones", "tags", "extendedLocation") if body.get(key) is not None}
    return {
        "id": place,
        "name": name,
        "type": kind,
        "location": body.get("location") or LOCATION,
        **kept,
        "properties": properties,
    }


def _name_inner(place: str, part: str, row: Fields) -> dict[str, Any]:
    name, inner = check_resource_name(row.text("name")), row.part("properties").values
    return {**row.values, "id": f"{place}/{part}/{name}", "properties": {**inner, "provisioningState": "Succeeded"}}


# ---- records -------------------------------------------------------------------------------------------------------


def _kind(request: Request) -> str:
    wanted = f"Microsoft.Network/{request.parts['type']}".lower()
    found = next((kind for kind in KINDS if kind.lower() == wanted), None)
    if found is None:
        raise ArmError(
            501,
            "NotImplemented",
            f"goldsmith does not implement {wanted[:80]}; docs/az.md lists what it does",
        )
    return found


def put_record(session: Session, request: Request) -> Answer:
    kind, group = _kind(request), request.parts["group"]
    session.find_group(group)
    request.body.part("properties")
    tags, location = request.body.tags(), request.body.location()
    body = {**request.body.values, "tags": tags, "location": location}
    known = session.records.get(resource_id(group, kind, request.parts["name"])) is not None
    return Answer(200 if known else 201, keep_record(session, make_record(group, kind, request.parts["name"], body)))


def get_record(session: Session, request: Request) -> Answer:
    kind, group, name = _kind(request), request.parts["group"], request.parts["name"]
    place = resource_id(group, kind, name)
    found = session.records.get(place)
    if kind == CARDS:
        return Answer(body=_card(session, group, name, found))
    if found is None:
        raise not_found(f"{kind}/{name[:80]}")
    return Answer(body=found)


def get_subnet(session: Session, request: Request) -> Answer:
    place = resource_id(request.parts["group"], NETWORKS, request.parts["name"])
    network = session.records.get(place) or {}
    for row in network.get("properties", {}).get("subnets", ()):
        if row["name"].lower() == request.parts["subnet"].lower():
            return Answer(body=row)
    raise not_found(f"the subnet {request.parts['subnet'][:80]!r}")


def list_records(session: Session, request: Request) -> Answer:
    kind, group = _kind(request), request.parts.get("group")
    if group is not None:
        session.find_group(group)
    found = session.records.below("/subscriptions/" if group is None else f"{group_id(group)}/providers/")
    rows = [each for each in found if each.get("type", "").lower() == kind.lower()]
    if kind == CARDS:
        rows = [_with_machine(session, each) for each in rows]
        rows += [
            _with_machine(session, implied_card(record, placement))
            for record, placement in list_machines(session, group)
            if not placement.cards
        ]
    return Answer(body={"value": rows})


def delete_record(session: Session, request: Request) -> Answer:
    kind, group, name = _kind(request), request.parts["group"], request.parts["name"]
    place = resource_id(group, kind, name)
    if kind == CARDS and (owner := _owner(session, place)) is not None:
        raise ArmError(400, "NicInUse", f"the network interface {name} is used by the VM {owner}")
    return Answer(200 if session.records.remove(place) else 204)


def _card(session: Session, group: str, name: str, found: dict[str, Any] | None) -> dict[str, Any]:
    if found is not None:
        return _with_machine(session, found)
    for record, placement in list_machines(session, group):
        if not placement.cards and name.lower() == f"{record.name}-nic":
            return _with_machine(session, implied_card(record, placement))
    raise not_found(f"{CARDS}/{name[:80]}")


def _owner(session: Session, card: str) -> str | None:
    for record, placement in list_machines(session, None):
        if card.lower() in (each.lower() for each in placement.cards):
            return record.name
    return None


def _with_machine(session: Session, card: dict[str, Any]) -> dict[str, Any]:
    """A card with its VM and the address that the VM has."""
    for record, placement in list_machines(session, None):
        if card["id"].lower() not in (each.lower() for each in cards_of(record, placement)):
            continue
        properties = dict(card["properties"])
        properties["virtualMachine"] = {"id": resource_id(placement.group, MACHINES, record.name)}
        address = address_of(session, record)
        rows = [dict(row) for row in properties.get("ipConfigurations") or ()]
        if address is not None and rows:
            rows[0] = {**rows[0], "properties": {**rows[0].get("properties", {}), "privateIPAddress": address}}
        return {**card, "properties": {**properties, "ipConfigurations": rows}}
    return card


ROUTES = (
    Route(
        "PUT", f"{_BASE}/Microsoft.Network/{{type}}/{{name}}", "az network nic|vnet|public-ip|nsg create", put_record
    ),
    Route(
        "GET", f"{_BASE}/Microsoft.Network/{{type}}/{{name}}", "az network nic|vnet|public-ip|nsg show", get_record
    ),
    Route("GET", f"{_BASE}/Microsoft.Network/{{type}}", "az network nic|vnet|public-ip|nsg list -g", list_records),
    Route(
        "GET",
        "/subscriptions/{subscription}/providers/Microsoft.Network/{type}",
        "az network nic|vnet|public-ip|nsg list",
        list_records,
    ),
    Route(
        "GET",
        f"{_BASE}/Microsoft.Network/virtualNetworks/{{name}}/subnets/{{subnet}}",
        "az network vnet subnet show",
        get_subnet,
    ),
    Route(
        "DELETE",
        f"{_BASE}/Microsoft.Network/{{type}}/{{name}}",
        "az network nic|vnet|public-ip|nsg delete",
        delete_record,
    ),
)
