"""Commands whose things another command deletes while they look: a part of `make campaign-deletions`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.errors import NotFound
from pipeline.base.files import is_older, list_folder, walk, walk_files
from pipeline.gallery import Gallery
from pipeline.gallery.master import reading
from tests.campaigns import deletions
from tests.campaigns.deletions import Case, Trial, bench, delete, verbs
from tests.campaigns.records import Bench, Outcome, direct
from tests.harness import tenth


@pytest.fixture(scope="module")
def made() -> Iterator[Bench]:
    with bench() as first:
        yield first


@pytest.fixture(autouse=True)
def home(no_store: None, made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench's store, which the fixture of all unit tests has put aside."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(made.store.root))


def test_a_tenth_of_the_verbs_go_on(made: Bench) -> None:
    for verb in tenth(verbs(made)):
        trial = Trial(made, verb)
        wrong = {case: found for case in trial.cases if (found := trial.wrong(case))}
        assert wrong == {}


def test_the_campaign_sees_what_it_looks_for(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded: a verb that lists, and then reads what it has listed."""

    def careless() -> Outcome:
        return direct(lambda: [path.read_text() for path in made.store.gallery.glob("*/2*/manifest.json")])

    monkeypatch.setattr(deletions, "verbs", lambda _bench: {"careless": careless})
    trial = Trial(made, "careless")
    found = [trial.wrong(case) for case in trial.cases]
    assert [wrong for wrong in found if wrong.startswith("FileNotFoundError")]


def test_a_channel_that_moves_on_is_found(made: Bench) -> None:
    """The version that the channel pointed at is deleted between the look at the channel and the look at it."""
    trial = Trial(made, "gallery show golden")
    golden = [case for case in trial.cases if case.way == "replaced"]
    assert golden and [found for case in golden if (found := trial.wrong(case))] == []


def test_what_is_deleted_while_it_is_read_is_named(made: Bench) -> None:
    made.reset()
    version = Gallery(made.store.gallery).get("db")
    with pytest.raises(ValueError), reading(version):
        raise ValueError("a fault")
    with pytest.raises(FileNotFoundError), reading(version):
        (version.path / "none").read_bytes()
    with pytest.raises(NotFound, match="was deleted while it was read") as caught, reading(version):
        delete(made.store, f"gallery/db/{version.version}", "deleted")
        (version.path / "manifest.json").read_bytes()
    assert caught.value.name == "gallery-unknown" and "gallery list db" in str(caught.value.hint)


def test_verify_of_what_is_gone_is_no_pass(made: Bench) -> None:
    trial = Trial(made, "gallery verify golden")
    case = next(case for case in trial.cases if case.thing.count(".") == 2 and case.way == "deleted")
    for each in (case, Case(case.verb, trial.cases[-1].access, case.thing)):
        assert trial.wrong(each) == ""


def test_a_walk_leaves_out_what_goes(tmp_path: Path) -> None:
    for name in ("a/one", "b/two", "c/three"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "d").symlink_to("a")
    seen = []
    for path, _ in walk(tmp_path):
        seen.append(str(path.relative_to(tmp_path)))
        if seen == ["a"]:
            (tmp_path / "a/one").unlink()
            (tmp_path / "b/two").unlink()
            (tmp_path / "b").rmdir()
    assert seen == ["a", "c", "c/three", "d"]
    assert [path.name for path, _ in walk_files(tmp_path)] == ["three"]
    assert [path.name for path in list_folder(tmp_path, "[ac]")] == ["a", "c"]
    assert list_folder(tmp_path / "none") == [] == list_folder(tmp_path / "c/three")
    assert is_older(tmp_path / "c", 4e9) and not is_older(tmp_path / "c", 0) and not is_older(tmp_path / "none", 4e9)
