"""The page that a campaign writes as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns import __main__ as campaigns
from tests.harness import PART


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docs/reports").mkdir(parents=True)
    monkeypatch.setattr(campaigns, "ROOT", tmp_path)
    monkeypatch.delenv(PART, raising=False)


def test_names_of_earlier_versions_name_a_campaign() -> None:
    folder = Path(campaigns.__file__).parent
    for name in (*campaigns.ALIASES, *map(campaigns.shown, campaigns.GUESTS + campaigns.NO_GUESTS)):
        module = campaigns.module_name(name)
        assert module in campaigns.GUESTS + campaigns.NO_GUESTS
        assert (folder / f"{module}.py").is_file()


def test_a_campaign_that_is_stopped_keeps_its_rows() -> None:
    page = campaigns.Page("x")
    page.say({"what": "a", "ok": True, "told": "one|two\nthree"})
    page.say("words for anyone who watches")
    text = page.path.read_text()
    assert "1 cases, not ended; load" in text
    assert text.endswith("| what | ok | told |\n|---|---|---|\n| a | True | one\\|two three |\n")


def test_a_part_takes_its_places_among_the_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = campaigns.Page("x")
    whole.write([{"what": "a", "ok": False, "told": "x|y"}, {"what": "b", "ok": True}], "9 s")
    monkeypatch.setenv(PART, "a")
    part = campaigns.Page("x")
    part.say({"what": "a", "ok": True})
    part.write(part.come, "1 s")
    text = part.path.read_text()
    assert "2 cases, 1 of them run again: 1 s" in text
    assert "| b | True |  |\n| a | True |  |\n" in text
    assert "False" not in text
