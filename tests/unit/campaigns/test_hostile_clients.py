"""The attacks of the campaign on hostile clients, for a moment each; and that a server which breaks a bound fails."""

from __future__ import annotations

import pytest

from tests.campaigns import hostile_clients


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("flood", "1000 connections, 0 refused"),
        ("binary", "3 connections with noise, 3 answered"),
    ],
)
def test_an_attack_from_many_processes_is_survived(name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_clients, "FLOOD", 1000)
    row = hostile_clients.run_attack(name)
    assert row["ok"], row
    assert row["what"] == what


def test_a_broken_bound_fails_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_clients, "FLOOD", 100)
    monkeypatch.setattr(hostile_clients, "MOST", 1 << 20)
    monkeypatch.setattr(hostile_clients, "SOON", 0.0)
    row = hostile_clients.run_attack("flood")
    assert not row["ok"]
    assert "MiB of memory" in str(row["why"]) and "an honest client was answered after" in str(row["why"])
