"""Compiled patterns come from their cache only where they are the same patterns, whole and of this version."""

from __future__ import annotations

from pathlib import Path

import hyperscan
import pytest

from pipeline.checks.sandbox import INSPECT
from pipeline.disk.pattern_cache import Expressions, compile_patterns

PATTERNS: Expressions = [(b"AKIA[A-Z]{4}", 0), (b"token", hyperscan.HS_FLAG_CASELESS)]
TWO: Expressions = [(b"token", 0), (b"AKIA[A-Z]{4}", 0)]


def found(database: hyperscan.Database) -> list[int]:
    """The numbers of the expressions that match a text with one of each."""
    numbers: list[int] = []

    def on_match(number: int, *_: object) -> None:
        numbers.append(number)

    database.scan(b"AKIAABCD TOKEN", match_event_handler=on_match, scratch=hyperscan.Scratch(database))
    return numbers


def test_the_same_patterns_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "new" / "patterns"
    assert found(compile_patterns(PATTERNS, kept)) == [0, 1]
    written = kept.stat().st_mtime_ns
    loaded: list[int] = []
    load = hyperscan.loadb
    monkeypatch.setattr(hyperscan, "loadb", lambda *words: loaded.append(1) or load(*words))
    assert found(compile_patterns(PATTERNS, kept)) == [0, 1]
    assert loaded == [1]
    assert kept.stat().st_mtime_ns == written


def test_other_patterns_are_compiled_again(tmp_path: Path) -> None:
    kept = tmp_path / "patterns"
    compile_patterns(PATTERNS, kept)
    assert found(compile_patterns(TWO, kept)) == [1]
    assert found(compile_patterns(PATTERNS, kept)) == [0, 1]


@pytest.mark.parametrize("cut", [0, 10, 64, 1000])
def test_a_torn_cache_is_not_used(cut: int, tmp_path: Path) -> None:
    kept = tmp_path / "patterns"
    compile_patterns(PATTERNS, kept)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:cut])
    assert found(compile_patterns(PATTERNS, kept)) == [0, 1]
    assert kept.read_bytes() == whole


def test_a_flipped_bit_is_not_loaded(tmp_path: Path) -> None:
    kept = tmp_path / "patterns"
    compile_patterns(PATTERNS, kept)
    data = bytearray(kept.read_bytes())
    data[-20] ^= 1
    kept.write_bytes(data)
    assert found(compile_patterns(PATTERNS, kept)) == [0, 1]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert found(compile_patterns(PATTERNS, tmp_path / "file" / "patterns")) == [0, 1]


def test_inspect_reads_the_cache_before_its_rights_go() -> None:
    assert "pipeline.disk.secret_search:matcher" in INSPECT.prepare
