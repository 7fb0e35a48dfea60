"""The table of faults names only what exists: verbs, moments, ways to end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.campaigns import fault_bench, fault_vms
from tests.campaigns.fault_injection import GROUPS, fill
from tests.campaigns.fault_table import Case, damage, read_table
from tests.errors_page import entries

ENDS = {"done", "killed", "interrupted"}


def test_each_case_names_a_verb_and_ways_to_end_that_exist() -> None:
    known = ENDS | set(entries())
    for part, verbs in (("rows", fault_bench.VERBS), ("vms", fault_vms.VERBS)):
        cases = read_table(part)
        assert not {case.verb for case in cases} - set(verbs)
        assert not {case.group for case in cases if case.group} - set(GROUPS)
        assert not {end for case in cases for end in case.ends} - known
        assert [name for name, count in Counter(case.name for case in cases).items() if count > 1] == []


def test_a_killed_command_may_end_in_no_other_way() -> None:
    kills = [case for case in read_table() if case.do.get("signal") == "KILL" and case.group != "helper"]
    assert kills and {tuple(case.ends) for case in kills} == {("killed",)}


@pytest.mark.parametrize("how", ["flip", "cut", "edit"])
def test_damage_changes_a_file_and_keeps_its_mode(tmp_path: Path, how: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"version": "2026.1.0"}')
    path.chmod(0o444)
    damage(path, how)
    assert path.read_text(errors="replace") != '{"version": "2026.1.0"}'
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_row_is_run_for_each_verb_and_moment(tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    table.write_text(
        "sets: {two: [build, push]}\n"
        "rows:\n  - {fault: f, do: {signal: KILL}, verbs: two, at: {sync: 2, rename: 1}, ends: [killed]}\n"
    )
    cases = read_table(path=table)
    assert len(cases) == 6
    assert cases[1] == Case("f", "build", "ext4", {"signal": "KILL"}, ["killed"], "sync", 1, 2)


def test_a_file_system_is_filled_down_to_what_is_wanted(tmp_path: Path) -> None:
    """A file system with enough room is not touched: its filler stays empty."""
    fill(tmp_path, 1 << 62)
    assert (tmp_path / "filler").stat().st_size == 0
