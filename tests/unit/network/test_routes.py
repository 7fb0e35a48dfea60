"""Who reaches whom between wires, as rules and routes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.network.routes import Member, changes, present_routes, present_rules, wanted_routes, wanted_rules

WEB, DB = Member(0, "10.83.0.2", "shop"), Member(1, "10.83.0.10", "shop")
ALONE, LAB = Member(2, "10.83.0.18"), Member(3, "10.83.0.26", "lab")
ALL = [WEB, DB, ALONE, LAB]


def test_members_have_routes_to_each_other_and_everybody_a_refusal() -> None:
    assert wanted_routes(ALL) == {(1000, "10.83.0.10", "c1"), (1001, "10.83.0.2", "c0")}
    rules = wanted_rules(ALL)
    assert {card for pref, card, action in rules if (pref, action) == (100, "prohibit")} == {"c0", "c1", "c2", "c3"}
    assert (50, "c2", "lookup 1002") not in rules


def test_refusals_come_first_and_openings_last() -> None:
    lines = changes(ALL, set(), set())
    kinds = ["prohibit" in line or line.startswith(("rule del", "route del")) for line in lines]
    assert kinds == sorted(kinds, reverse=True)
    assert lines[-1].startswith("rule add pref 50")


def test_what_the_kernel_shows_is_read_and_needs_no_change() -> None:
    shown = [
        {"priority": 0, "src": "all", "table": "local"},
        {"priority": 50, "src": "all", "iif": "c0", "iif_detached": None, "table": "1000"},
        {"priority": 50, "src": "all", "iif": "c1", "table": "1001"},
        {"priority": 100, "src": "all", "iif": "c0", "action": "prohibit"},
        {"priority": 100, "src": "all", "iif": "c1", "action": "prohibit"},
        {"priority": 32766, "src": "all", "table": "main"},
    ]
    routes = [
        {"dst": "10.83.0.10", "dev": "c1", "table": "1000", "scope": "link", "flags": []},
        {"dst": "10.83.0.2", "dev": "c0", "table": "1001", "scope": "link", "flags": []},
        {"dst": "10.83.0.0/29", "dev": "c0", "protocol": "kernel", "scope": "link"},
    ]
    assert changes([WEB, DB], present_rules(shown), present_routes(routes)) == []
    gone = changes([WEB], present_rules(shown), present_routes(routes))
    assert "route del 10.83.0.10/32 dev c1 table 1000" in gone
    assert "rule del pref 100 iif c1 prohibit" in gone


MEMBERS = st.lists(st.sampled_from([None, "a", "b"]), max_size=6)


@given(MEMBERS, MEMBERS)
def test_changes_lead_from_any_state_to_any_other(before: list[str | None], after: list[str | None]) -> None:
    def members(networks: list[str | None]) -> list[Member]:
        return [Member(number, f"10.83.0.{number * 8 + 2}", network) for number, network in enumerate(networks)]

    rules, routes = wanted_rules(members(before)), wanted_routes(members(before))
    for line in changes(members(after), set(rules), set(routes)):
        words = line.split()
        if words[0] == "rule":
            entry = (int(words[3]), words[5], " ".join(words[6:]))
            (rules.add if words[1] == "add" else rules.remove)(entry)
        else:
            way = (int(words[6]), words[2].removesuffix("/32"), words[4])
            (routes.add if words[1] == "replace" else routes.remove)(way)
    assert rules == wanted_rules(members(after))
    assert routes == wanted_routes(members(after))
