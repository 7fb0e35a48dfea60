"""Records of goldsmith's own that were cut short, swapped or made by others: each is named, none stops the rest."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.files import AnyObject, RecordDamaged, parse_json, read_json, sweep_unfinished, write_json
from pipeline.base.runs import list_runs
from pipeline.cache.layers import Layers
from pipeline.gallery import Gallery
from pipeline.gallery.manifest import ManifestShape
from pipeline.gallery.retention import leases, withdrawn
from tests.campaigns import records
from tests.campaigns.records import KINDS, MUTATIONS, Bench, bench, call, cases, verbs, wrong_with


@pytest.fixture(scope="module")
def made() -> Iterator[Bench]:
    with bench() as first:
        yield first


@pytest.fixture(autouse=True)
def home(no_store: None, made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench's store, which the fixture of all unit tests has put aside."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(made.store.root))


def test_a_part_of_the_campaign(made: Bench) -> None:
    """Twelve cases of `make campaign-records`, the same in every run."""
    wrong = {case: found for case in cases(12, 1) if (found := wrong_with(made, *case))}
    assert wrong == {}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_record_is_named_where_it_is_damaged(made: Bench, kind: str) -> None:
    """By the verb that reads it."""
    verb = {
        "run": "runs list",
        "layer": "doctor",
        "layer above": "doctor",
        "lease": "gallery prune",
        "withdrawn": "gallery rollback",
        "refused": "gallery list",
        "disk": "gallery list",
        "channel": "gallery verify",
    }.get(kind, "gallery list")
    assert wrong_with(made, kind, "a list", verb) == ""
    if kind in ("tombstone", "truth", "index", "accelerator"):
        return  # no verb here needs it
    made.reset()
    path = KINDS[kind](made)
    MUTATIONS["a pipe" if kind != "channel" else "a folder"](path)
    from pipeline.cli.show import show_damage

    show_damage()
    text = "".join(call(*words)[0] for words in (("gallery", "list"), ("gallery", "verify"), ("runs", "list")))
    if verb in ("gallery list", "gallery verify", "runs list"):
        assert path.name in text


def test_a_damaged_manifest_leaves_the_others_and_says_so(made: Bench) -> None:
    """The case as it was reported: nothing was printed, exit 0."""
    made.reset()
    path = KINDS["manifest"](made)
    path.chmod(0o644)
    path.write_text(path.read_text()[:100])
    text, code, _ = call("gallery", "list")
    assert code == 1
    assert f"goldsmith: skipped {path}: it is not JSON" in text
    assert "db" in text and text.count("web  ") == 2
    text, code, _ = call("gallery", "show", f"web@{path.parent.name}")
    assert code == 2 and f"{path}: it is not JSON" in text


def test_golden_that_is_a_folder_is_not_good(made: Bench) -> None:
    made.reset()
    golden = made.store.gallery / "web/golden"
    golden.unlink()
    golden.mkdir()
    text, code, _ = call("gallery", "verify", "web")
    assert code == 1 and "BAD      web/golden  it is a folder, but neither a version nor a channel" in text
    for words, wanted in ((("show", "web"), 2), (("promote", "web@2026.1.1"), 1), (("rollback", "web"), 2)):
        text, code, trace = call("gallery", *words)
        assert code == wanted and not trace, text
    version = Gallery(made.store.gallery).versions("web")[0]
    text, code, _ = call("gallery", "promote", f"web@{version.version}")
    assert code == 2 and "it has a channel's name, but is not a link" in text


def test_what_cannot_be_read_still_holds(made: Bench) -> None:
    """A lease and a withdrawal that were damaged protect all the same."""
    made.reset()
    gallery = Gallery(made.store.gallery)
    before = {lease.version for lease in leases(gallery, "web")}, set(withdrawn(gallery, "web"))
    for kind in ("lease", "withdrawn"):
        KINDS[kind](made).write_text("{")
    assert ({lease.version for lease in leases(gallery, "web")}, set(withdrawn(gallery, "web"))) == before


def test_a_damaged_layer_is_no_layer_and_can_be_made_anew(made: Bench) -> None:
    made.reset()
    layers = Layers(made.store.layers)
    MUTATIONS["a folder"](KINDS["layer"](made))
    assert layers.get("a" * 32) is None
    draft = layers.begin("a" * 32)
    assert not hasattr(draft, "record")
    draft.discard()  # type: ignore[union-attr]


def test_a_run_of_another_name_is_not_believed(made: Bench) -> None:
    made.reset()
    (made.store.runs / "R1/run.json").write_text((made.store.runs / "R2/run.json").read_text())
    assert [run["outcome"] for run in list_runs(made.store.runs)] == ["failed", "unreadable"]
    (made.store.runs / "R³").mkdir()
    (made.store.runs / "R٣").mkdir()
    assert len(list_runs(made.store.runs)) == 2


# ---- the reader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", [name for name in MUTATIONS if not name.startswith(("all", "without"))])
def test_the_reader_names_what_is_wrong(tmp_path: Path, mutation: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"a": "x" * 50}))
    MUTATIONS[mutation](path)
    if mutation in ("missing", "an empty object"):
        assert read_json(path, AnyObject) == (None if mutation == "missing" else {})
        return
    with pytest.raises(RecordDamaged) as caught:
        read_json(path, AnyObject)
    assert caught.value.message.startswith(f"{path}: it ") and caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["[" * 90_000_000, "[" + "[]," * 30_000_000, '{"a":' * 18_000_000], ids=len)
def test_a_hostile_record_takes_no_more_memory_than_its_text(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"nested too deeply|more than"):
            parse_json(text, AnyObject)
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    data = {"text": "ä€😀", "list": [1, 2.5, None, True], "deep": {"a": [{"b": []}]}}
    write_json(tmp_path / "r.json", data)
    assert read_json(tmp_path / "r.json", AnyObject) == data
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_what_a_dead_writer_left_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    import fcntl

    dead, living = tmp_path / ".run.json.12.34", tmp_path / ".run.json.56.78"
    dead.write_text("{")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".hidden").write_text("mine")
    with living.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert sweep_unfinished(tmp_path) == [dead]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", living.name, "run.json"]


def test_a_manifest_that_could_not_be_read_again_is_not_captured(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "gallery")
    disk = tmp_path / "d.vhd"
    disk.write_bytes(b"x")
    with pytest.raises(RecordDamaged):
        gallery.capture("web", {"disk.vhd": disk}, [], lambda version: {"version": version})
    assert [path.name for path in (tmp_path / "gallery/web").iterdir()] == [".lock"]


def test_the_largest_vhds_manifest_fits() -> None:
    from pipeline.gallery.manifest import LIMIT

    chunks = (2040 << 30) // (2 << 20) + 1
    line = len(json.dumps({"disk": {"chunks": ["0" * 64, "0" * 64]}}, indent=1)) - len(
        json.dumps({"disk": {"chunks": ["0" * 64]}}, indent=1)
    )
    assert chunks * line < LIMIT
    assert ManifestShape.advice()


def test_verbs_of_the_campaign_work_on_a_good_store(made: Bench) -> None:
    """Else the campaign would show nothing."""
    for name in verbs(made):
        made.reset()
        records.shutil.rmtree(made.root / "parcel", ignore_errors=True)
        text, code, trace = verbs(made)[name]()
        expected = {"shell": 2}
        assert (code, trace) == (expected.get(name, 0), ""), f"{name}: {text}"
    assert os.environ["GOLDSMITH_HOME"] == str(made.store.root)
