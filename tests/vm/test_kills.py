"""A part of `make campaign-kills`: each day other moments."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.campaigns.kills import run


def test_a_process_killed_at_any_moment_leaves_nothing_after_clean() -> None:
    day = datetime.now(UTC).toordinal()
    assert [row for row in run(1, first=day) if not row["ok"]] == []
