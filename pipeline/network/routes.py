"""Who reaches whom between the wires of one namespace: a VM reaches the members of its private network, nobody else.

As on Azure a private network has no broadcasts: its members send through their gateway. Each wire has a table of its
own with a route to each other member, and a rule that refuses everything else, which is there before the wire is.
What a guest did not send from its own address is dropped before (`Namespace.lay`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base import process
from pipeline.network.namespaces import Namespace, run_batch, run_ip, write_sysctl

#: The preference of the rule that leads to a wire's table, and of the one that refuses the rest.
_ROUTED, _REFUSED = 50, 100
#: The table of wire 0; the tables of this host's own namespaces are elsewhere.
_FIRST_TABLE = 1000


@dataclass(frozen=True)
class Member:
    """A wire: its number, its guest's address, the guest's network if it is in one."""

    number: int
    address: str
    network: str | None = None

    @property
    def card(self) -> str:
        return f"c{self.number}"

    @property
    def table(self) -> int:
        return _FIRST_TABLE + self.number


def wanted_rules(members: list[Member]) -> set[tuple[int, str, str]]:
    """Preference, card, and what is done, for each wire. Pure."""
    rules = {(_REFUSED, member.card, "prohibit") for member in members}
    return rules | {
        (_ROUTED, member.card, f"lookup {member.table}") for member in members if member.network is not None
    }


def wanted_routes(members: list[Member]) -> set[tuple[int, str, str]]:
    """Table, address and card of each route: to each other member of the same network. Pure."""
    return {
        (member.table, peer.address, peer.card)
        for member in members
        for peer in members
        if member.network is not None and peer.network == member.network and peer != member
    }


def present_rules(shown: list[Mapping[str, Any]]) -> set[tuple[int, str, str]]:
    """Our rules among those that `ip -json rule show` shows. Pure."""
    found = set()
    for rule in shown:
        if rule.get("priority") in (_ROUTED, _REFUSED) and "iif" in rule:
            action = f"lookup {rule['table']}" if "table" in rule else str(rule.get("action"))
            found.add((int(rule["priority"]), str(rule["iif"]), action))
    return found


def present_routes(shown: list[Mapping[str, Any]]) -> set[tuple[int, str, str]]:
    """Our routes among those that `ip -json route show table all` shows. Pure."""
    return {
        (int(route["table"]), str(route["dst"]), str(route["dev"]))
        for route in shown
        if str(route.get("table", "")).isdigit() and int(route["table"]) >= _FIRST_TABLE and "dev" in route
    }


def changes(members: list[Member], rules: set[tuple[int, str, str]], routes: set[tuple[int, str, str]]) -> list[str]:
    """The lines for `ip -batch` from what is there to what is wanted: refusals first, openings last. Pure."""
    ways = wanted_routes(members)
    added, removed = sorted(wanted_rules(members) - rules), sorted(rules - wanted_rules(members))
    opened, closed = sorted(ways - routes), sorted(routes - ways)
    return [
        *(f"rule add pref {pref} iif {card} {action}" for pref, card, action in added if pref == _REFUSED),
        *(f"rule del pref {pref} iif {card} {action}" for pref, card, action in removed),
        *(f"route del {address}/32 dev {card} table {table}" for table, address, card in closed),
        *(f"route replace {address}/32 dev {card} table {table}" for table, address, card in opened),
        *(f"rule add pref {pref} iif {card} {action}" for pref, card, action in added if pref == _ROUTED),
    ]


def refuse_wire(namespace: Namespace, number: int) -> None:
    """Refuse what comes from a wire, before there is one. A rule that is there already stays."""
    with contextlib.suppress(process.CommandFailed):
        run_batch([f"rule add pref {_REFUSED} iif c{number} prohibit"], namespace.name)


def connect_members(namespace: Namespace, members: list[Member]) -> None:
    """Bring a namespace's rules and routes to what its members want."""
    rules = present_rules(json.loads(run_ip("-json", "-netns", namespace.name, "rule", "show") or "[]"))
    shown = run_ip("-json", "-netns", namespace.name, "route", "show", "table", "all", "type", "unicast")
    run_batch(changes(members, rules, present_routes(json.loads(shown or "[]"))), namespace.name)
    # last: until then nothing passes at all
    forwards = "1" if wanted_routes(members) else "0"
    namespace.run_inside(lambda: write_sysctl("ipv4/ip_forward", forwards))
