"""A part of `make campaign-kills`: the same moments in every run."""

from __future__ import annotations

from tests.campaigns.kills import run


def test_a_process_killed_at_any_moment_leaves_nothing_after_clean() -> None:
    assert [row for row in run(1, first=0) if not row["ok"]] == []
