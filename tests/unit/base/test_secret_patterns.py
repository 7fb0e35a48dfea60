"""What makes the first search for secrets fast finds the same as the plain expressions."""

from __future__ import annotations

import random
import re

import pytest

from pipeline.base.secret_rules import rule_set
from pipeline.disk import encoded_runs, secret_search

RUN = re.compile(rb"[A-Za-z0-9+/]{%d,}(?=[^A-Za-z0-9+/])" % encoded_runs.RUN)


def plainly(data: bytes) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for match in RUN.finditer(data):
        done = found[-1][1] if found else 0
        if match.end() > done:
            found.append(encoded_runs._run(data, match.end(), done))
    return found


def buffer(seed: int) -> bytes:
    """Runs of base64 around the length that counts, alone, in lines, next to each other, and at both ends."""
    drawn = random.Random(seed)
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    parts = []
    for _ in range(drawn.randrange(1, 60)):
        parts.append(bytes(drawn.choices(letters, k=drawn.choice([0, 3, 39, 40, 41, 64, 76, 700]))))
        parts.append(drawn.choice([b"\n", b"\r\n", b" ", b"=", b"==\n", b"-", b"\0\0", b"", b"\n\n  "]))
    return b"".join(parts)


@pytest.mark.parametrize("leaps", [1, 3, 500])
def test_base64_by_leaps_is_the_same_as_by_its_ends(leaps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_runs, "_LEAPS", leaps)
    for seed in range(300):
        data = buffer(seed)
        assert list(encoded_runs.base64_runs(data)) == plainly(data), seed


def test_zlib_is_looked_for_at_the_beginnings_of_sectors() -> None:
    data = bytearray(6 * 512)
    for at in (0, 512, 1024, 1536, 2048, 700):
        data[at : at + 2] = b"\x78\x9c"
    data[1024 + 1] = 0x9D
    assert encoded_runs.zlib_heads(bytes(data), 512 * 7) == [0, 512, 1536, 2048]
    assert encoded_runs.zlib_heads(bytes(data[100:]), 512 * 7 + 100) == [412, 1436, 1948]
    assert encoded_runs.zlib_heads(b"\x78", 0) == []


@pytest.mark.parametrize("rule", sorted(secret_search.RARE))
def test_a_rule_that_is_searched_for_behind_its_keyword_has_only_long_ones(rule: str) -> None:
    """Without a keyword in what is judged such a rule finds nothing: `judge` asks for it first."""
    keywords = rule_set().by_id[rule].keywords
    assert keywords
    assert all(len(word) >= 4 for word in keywords)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"sourcegraph token " + b"0123456789abcdef" * 2 + b"01a4c6d9 ", {"sourcegraph-access-token"}),
        (b"another token " + b"0123456789abcdef" * 2 + b"01a4c6d9 ", set()),
        (b"FaceBook 123456789012345|abcdefgh-ijklmnopqrs_tuvw7xyz ", {"facebook-access-token"}),
        (b"someone 123456789012345|abcdefgh-ijklmnopqrs_tuvw7xyz ", set()),
        (b"my.Okta.key = '00a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0'", {"okta-access-token"}),
    ],
)
def test_rules_whose_expression_is_searched_for_in_another_way(text: bytes, found: set[str]) -> None:
    searching = secret_search.Search(None)
    searching.look(b"\0" * 900 + text + b"\n" * 900, lambda at: at, ("gzip",))
    assert {hit.rule for hit in searching.found.hits} == found
