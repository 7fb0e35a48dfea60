"""How large the root of a clone must be on a larger disk."""

from __future__ import annotations

import pytest

from pipeline.prove.result import CloneResult
from pipeline.systems.linux.assertions import see_growth

GIB = 1 << 30


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        ({"root": 8.8 * GIB, "others": 0.12 * GIB}, True),
        ({"root": 7.8 * GIB, "others": 0.12 * GIB}, False),  # as large as in the shipped file
        ({"root": 7.3 * GIB, "others": 1.5 * GIB}, True),  # a /boot and a /var of their own
        ({"root": 6.4 * GIB, "others": 1.5 * GIB}, False),
        ({"root": 3 * GIB, "root-on": "a logical volume"}, True),
        ({"root-on": "a logical volume"}, False),
        ({}, False),
    ],
)
def test_a_root_takes_what_other_partitions_leave(seen: dict[str, float | str], good: bool) -> None:
    result = CloneResult("gen1")
    values = {name: value if isinstance(value, str) else str(int(value)) for name, value in seen.items()}
    see_growth(result, values, size=9 * GIB, growth=GIB)
    assert (not result.failures) == good
