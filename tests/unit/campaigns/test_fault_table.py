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
    # a check that fails has an error by its own name
    known = ENDS | set(entries()) | {"check-gpt-backup"}
    for part, verbs in (("rows", fault_bench.VERBS), ("vms", fault_vms.VERBS)):
        cases = read_table(part)
        assert not {case.verb for case in cases} - set(verbs)
        assert not {case.group for case in cases if case.group} - set(GROUPS)
        assert not {end for case in cases for end in case.ends} - known
        assert [name for name, count in Counter(case.name for case in cases).items() if count > 1] == []


def test_a_killed_command_does_not_end_well() -> None:
    kills = [case for case in read_table() if case.do.get("signal") == "KILL" or "power" in case.do]
    assert kills and not [case.name for case in kills if "done" in case.ends]


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


def test_what_a_fault_leaves_is_named(tmp_path: Path) -> None:
    """The judge of all cases, with a leak of each kind that it can see in files."""
    bench = fault_bench.Bench(tmp_path, "ext4")
    verb = fault_bench.VERBS["export"]
    for name in ("project/page.txt", "targets/out/manifest.json", "store/gallery/drum/2026.1.0/disk.vhd"):
        (bench.root / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.root / name).touch()
    assert bench.left(verb) == []
    leaks = ("targets/.goldsmith-1", "store/gallery/drum/.new-2026.1.1", "store/scratch/ab.json", "tmp/x")
    for name in (*leaks, "store/gallery/drum/.refused.json.1.2", "store/archive/lock.roster"):
        (bench.root / name).parent.mkdir(parents=True, exist_ok=True)
        (bench.root / name).touch()
    (bench.store.layers / ("a" * 32)).mkdir(parents=True)
    found = bench.left(verb)
    assert {f"file {name}" for name in leaks} < set(found)
    assert "file store/archive/lock.roster" in found and "file store/gallery/drum/.refused.json.1.2" in found
    assert f"layer {'a' * 32} without a record" in found
    assert bench.left(fault_bench.VERBS["import"]) != found  # an export has no place in an import
