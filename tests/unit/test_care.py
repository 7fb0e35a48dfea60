"""Care of the store: what goes for a size, in which order, and what never goes."""

from __future__ import annotations

from pathlib import Path

from pipeline.care import Holding, surplus
from pipeline.layers import Layer


def holding(key: str, size: int, used: float, *below: str) -> Holding:
    return Holding(Layer(key, Path("/nowhere") / key, {"stage": "provision"}), size, used, frozenset(below))


#: base <- one <- two, base <- other, and a VHD that stands alone; used in the order of the numbers.
STORE = [
    holding("base", 50, 1.0),
    holding("one", 10, 2.0, "base"),
    holding("two", 10, 3.0, "one", "base"),
    holding("other", 10, 4.0, "base"),
    holding("vhd", 20, 5.0),
]


def gone(keep: int, *in_use: str, fresh_since: float = 99.0) -> list[str]:
    return [one.layer.key for one in surplus(STORE, keep, frozenset(in_use), fresh_since)]


def test_what_fits_stays() -> None:
    assert gone(100) == []


def test_the_longest_unused_goes_first_and_nothing_from_under_another() -> None:
    assert gone(90) == ["two"]
    assert gone(80) == ["two", "one"]
    assert gone(70) == ["two", "one", "other"]
    assert gone(0) == ["two", "one", "other", "base", "vhd"]


def test_what_a_build_uses_stays_with_all_below_it() -> None:
    assert gone(0, "two") == ["other", "vhd"]
    assert gone(0, "other") == ["two", "one", "vhd"]


def test_what_was_used_just_now_stays_with_all_below_it() -> None:
    assert gone(0, fresh_since=4.0) == ["two", "one"]
