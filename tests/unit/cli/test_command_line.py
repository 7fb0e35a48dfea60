"""The command line keeps its word: names of errors, exit codes, pipes, JSON alone, sizes, help, completion."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import pipeline
from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import GoldsmithError, HostError, UsageError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cli import context
from pipeline.cli.app import _name_of, app
from pipeline.cli.removals import Row, print_removals
from pipeline.cli.runs import describe_shell
from pipeline.cli.show import print_error, table
from pipeline.definition import DefinitionError, Fault
from pipeline.gallery import Gallery, Version
from tests.unit.gallery.test_retention import capture

ROOT = Path(pipeline.__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    return Store(tmp_path / "store").ensure()


def call(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a verb, as `__main__` makes them of its outcome."""
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, GoldsmithError):
        return result.exception.exit_code, result.stdout, f"{result.stderr}{result.exception.message}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# ---- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20G", 20 << 30),
        ("20 GiB", 20 << 30),
        ("1.5g", 3 << 29),
        ("512 MB", 512 << 20),
        ("4096B", 4096),
        ("2t", 2 << 40),
    ],
)
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert context.to_bytes(text) == size


@pytest.mark.parametrize("text", ["20", " 8589934592 ", "20X", "-1G", "1e3G", "", "G", "0.1B", "\u0662G", "1.2.3G"])
def test_a_number_alone_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        context.to_bytes(text)
    assert caught.value.name == "bad-size" and caught.value.hint


@pytest.mark.parametrize("option", ["--keep", "--max-size"])
@pytest.mark.parametrize("verb", ["clean", "refresh"])
def test_verbs_refuse_a_number_alone_before_anything_goes(store: Store, verb: str, option: str) -> None:
    layer = store.layers / "abc"
    layer.mkdir()
    code, _, errors = call(verb, option, "20")
    assert code == 2 and "has no unit" in errors and layer.exists()


# ---- verbs that delete -------------------------------------------------------------------------------------------


def test_removals_have_a_total(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("layer", "a", 1 << 20, "old"), Row("layer", "b", 3 << 20, "old"), Row("layer", "c", 7, "", "in use")]
    print_removals(rows, dry=True, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "would remove 2 items, 4.0 MiB"
    print_removals(rows, dry=False, as_json=True)
    seen = json.loads(capsys.readouterr().out)
    assert (seen["dry_run"], seen["count"], seen["bytes"]) == (False, 2, 4 << 20)
    assert [row["name"] for row in seen["kept"]] == ["c"]


def commands(
    group: typer.core.TyperGroup | None = None, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every verb with its words."""
    for name, verb in (group or typer.main.get_command(app)).commands.items():  # type: ignore[union-attr]
        if hasattr(verb, "commands"):
            yield from commands(verb, (*words, name))
        else:
            yield (*words, name), verb


#: The verbs that delete what somebody may miss.
DELETING = {
    ("publish", "clean"),
    ("clean",),
    ("runs", "prune"),
    ("gallery", "prune"),
    ("gallery", "remove"),
    ("gallery", "dismiss"),
    ("gallery", "channel", "remove"),
    ("endpoint", "remove"),
}


def test_every_deleting_verb_has_a_dry_run_and_json() -> None:
    verbs = dict(commands())
    assert {words for words in verbs if words[-1] in ("clean", "prune", "remove", "dismiss")} == DELETING
    for words in DELETING:
        options = {name for parameter in verbs[words].params for name in parameter.opts}  # type: ignore[attr-defined]
        assert {"--dry-run", "--json"} <= options, words


def test_an_option_has_one_meaning() -> None:
    """The same option names the same kind of value everywhere; what had another meaning is hidden."""
    kinds: dict[str, dict[str, set[str]]] = {}
    for words, verb in commands():
        for parameter in verb.params:  # type: ignore[attr-defined]
            if getattr(parameter, "hidden", False) or parameter.param_type_name != "option":
                continue
            kind = "flag" if parameter.is_flag else str(parameter.metavar or "value")
            kinds.setdefault(parameter.opts[0], {}).setdefault(kind, set()).add(" ".join(words))
    for option in ("--keep", "--key", "--from", "--max-size", "--dry-run", "--json", "--force", "--why"):
        assert len(kinds[option]) == 1, (option, kinds[option])
    assert kinds["--keep"] == {"N": {"runs prune", "gallery prune"}}


# ---- the gallery -------------------------------------------------------------------------------------------------


@pytest.fixture
def masters(store: Store) -> list[Version]:
    """Two versions of web, the newer one golden, and an app built on it."""
    gallery = Gallery(store.gallery)
    old, new = capture(gallery), capture(gallery)
    gallery.promote(new)
    source = {"source": "master", "image": "web", "version": new.version, "sha256": "0" * 64}
    child = capture(gallery, name="app", inputs=[{"stage": "acquire", "title": "web", "key": "x", "inputs": source}])
    return [old, new, child]


def test_a_version_is_removed_and_leaves_a_tombstone(store: Store, masters: list[Version]) -> None:
    old = masters[0]
    code, out, _ = call("gallery", "remove", f"web@{old.version}", "--why", "a token leaked", "--dry-run")
    assert code == 0 and "would remove 1 item" in out and old.path.exists()
    code, out, _ = call("gallery", "remove", f"web@{old.version}", "--why", "a token leaked", "--json")
    seen = json.loads(out)
    assert code == 0 and not old.path.exists() and seen["bytes"] > 0
    assert seen["removed"][0]["name"] == f"web {old.version}" and seen["removed"][0]["why"] == "a token leaked"
    word = json.loads((store.gallery / "web/.tombstones" / f"{old.version}.json").read_text())
    assert word["why"] == "a token leaked" and word["digest"] == old.digest


def test_what_is_kept_is_removed_by_force_only(store: Store, masters: list[Version]) -> None:
    _, new, _ = masters
    code, lease, _ = call("gallery", "lease", f"web@{new.version}", "--why", "an upload")
    code, _, errors = call("gallery", "remove", f"web@{new.version}", "--why", "x")
    assert code == 1 and new.path.exists()
    for why in (
        "it is web@golden",
        f"leased ({lease.strip()}): an upload",
        f"the parent of app {masters[2].version}",
    ):
        assert why in errors
    code, _, _ = call("gallery", "remove", f"web@{new.version}", "--why", "x", "--force")
    assert code == 0 and not new.path.exists()
    assert not os.path.lexists(store.gallery / "web" / "golden")  # no channel points at nothing


def test_a_damaged_version_can_be_removed(store: Store, masters: list[Version]) -> None:
    manifest = masters[0].path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    code, _, _ = call("gallery", "remove", f"web@{masters[0].version}", "--why", "damaged")
    assert code == 0 and not masters[0].path.exists()


def test_what_a_build_stands_on_is_never_removed(store: Store, masters: list[Version]) -> None:
    from pipeline.cache.layers import Image, Layers, PendingLayer

    old = masters[0]
    draft = Layers(store.layers).begin("ab" * 16)
    assert isinstance(draft, PendingLayer)
    (draft.path / "disk.qcow2").write_bytes(b"overlay")
    draft.commit(stage="acquire", inputs={}, source=None, image=Image(draft.path / "disk.qcow2", QCOW2, old.image))
    run = Run.start(store.runs, "app", "goldsmith build app")
    run.note(layers=["ab" * 16])
    code, _, errors = call("gallery", "remove", f"web@{old.version}", "--why", "x", "--force")
    assert code == 1 and "in use" in errors and old.path.exists()
    run.finish("done")
    assert call("gallery", "remove", f"web@{old.version}", "--why", "x")[0] == 0
    assert not draft.path.exists()  # nothing can use what stood on it


def test_a_new_channel_is_asked_for(store: Store, masters: list[Version]) -> None:
    reference = f"web@{masters[1].version}"
    for typed, meant in (("gold", "golden"), ("goldne", "golden"), ("candidat", "candidate")):
        result = CliRunner().invoke(app, ["gallery", "promote", reference, typed])
        assert isinstance(result.exception, UsageError) and result.exception.name == "channel-unknown"
        assert f"did you mean {meant}?" in str(result.exception.hint)
        assert not os.path.lexists(store.gallery / "web" / typed)
    assert call("gallery", "promote", reference, "candidate")[0] == 0
    assert call("gallery", "promote", reference, "stable", "--create")[0] == 0
    assert call("gallery", "promote", f"app@{masters[2].version}", "stable")[0] == 0  # known now
    rows = json.loads(call("gallery", "channel", "list", "--json")[1])
    assert [(r["image"], r["channel"]) for r in rows] == [
        ("app", "stable"),
        ("web", "candidate"),
        ("web", "golden"),
        ("web", "stable"),
    ]


def test_a_channel_goes_and_its_version_stays(store: Store, masters: list[Version]) -> None:
    assert call("gallery", "promote", f"web@{masters[1].version}", "stable", "--create")[0] == 0
    assert call("gallery", "channel", "remove", "web", "stable", "--dry-run")[0] == 0
    assert os.path.lexists(store.gallery / "web/stable")
    assert call("gallery", "channel", "remove", "web@stable")[0] == 0
    assert not os.path.lexists(store.gallery / "web/stable") and masters[1].path.exists()
    assert call("gallery", "channel", "remove", "web", "stable")[0] == 1  # no such channel
    assert call("gallery", "channel", "remove", "web", "golden")[0] == 1
    assert call("gallery", "channel", "remove", "web", "golden", "--force")[0] == 0
    assert call("gallery", "channel", "remove", "web")[0] == 2


def test_refusals_are_one_line_and_can_be_dismissed(store: Store, masters: list[Version]) -> None:
    gallery = Gallery(store.gallery)
    for name in ("web", "new"):
        gallery.refuse(name, {"gate": "inspect", "why": "checks failed: host-keys", "run": "R7", "when": "today"})
    code, out, errors = call("gallery", "list")
    assert code == 0 and "host-keys" not in out and len(errors.splitlines()) == 1 and "new, web" in errors
    assert "web: refused by inspect on today (R7): checks failed: host-keys" in call("gallery", "list", "--all")[1]
    assert call("gallery", "dismiss", "app")[0] == 1  # it has none
    assert "would remove 2 items" in call("gallery", "dismiss", "--dry-run")[1]
    assert call("gallery", "dismiss", "web")[0] == 0 and gallery.refused("web") is None and gallery.refused("new")
    assert call("gallery", "dismiss")[0] == 0
    assert not (store.gallery / "new").exists() and masters[1].path.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("gallery", "list", "wbe"),
        ("gallery", "show", "wbe"),
        ("gallery", "show", "web@2020.101.0"),
        ("gallery", "prune", "wbe"),
        ("gallery", "verify", "wbe"),
        ("gallery", "rollback", "wbe"),
        ("gallery", "dismiss", "wbe"),
        ("gallery", "remove", "wbe@2020.101.0", "--why", "x"),
        ("gallery", "remove", "web@2020.101.0", "--why", "x"),
        ("gallery", "channel", "list", "wbe"),
        ("gallery", "channel", "remove", "wbe", "golden"),
        ("gallery", "lease", "web", "--release", "nope"),
        ("runs", "prune", "wbe"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_exit_1(store: Store, masters: list[Version], words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, GoldsmithError), result.output
    assert result.exception.exit_code == 1 and result.exception.hint
    if "wbe" in words and words[0] == "gallery":
        assert "did you mean web?" in result.exception.hint


# ---- runs --------------------------------------------------------------------------------------------------------


def finished(store: Store, image: str, version: str = "") -> str:
    run = Run.start(store.runs, image, f"goldsmith build {image}")
    run.stage("provision", "new", seconds=1.0, detail="site.yml", title="site.yml")
    if version:
        run.stage("capture", "new", seconds=1.0, detail=f"{image} {version}", title="golden")
    run.finish("done")
    return run.id


def test_old_runs_go_but_those_that_somebody_needs(store: Store, masters: list[Version]) -> None:
    made = finished(store, "web", masters[0].version)
    gone = finished(store, "web", "2020.101.0")
    refused = finished(store, "web")
    Gallery(store.gallery).refuse("web", {"gate": "prove", "why": "no", "run": refused, "when": "today"})
    kept = Run.start(store.runs, "web", "goldsmith build web")
    kept.note(kept_guest={"folder": str(store.root)})
    kept.finish("failed")
    running = Run.start(store.runs, "web", "goldsmith build web")
    other = finished(store, "app")
    newest = finished(store, "web")
    code, out, _ = call("runs", "prune", "--keep", "1", "--dry-run")
    assert code == 0 and gone in out and "would remove 1 item" in out
    code, out, _ = call("runs", "prune", "--keep", "1", "--json")
    assert [row["name"] for row in json.loads(out)["removed"]] == [gone]
    left = {path.name for path in store.runs.iterdir()}
    assert left == {made, refused, kept.id, running.id, other, newest}
    running.finish("done")


def test_runs_are_bounded_without_being_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.maintenance import gc

    ids = [finished(store, "web") for _ in range(4)]
    assert gc.KEPT_RUNS == 100 and gc.prune_runs(store) == []
    monkeypatch.setattr(gc.prune_runs, "__defaults__", (2, ()))
    assert [each.name for each in gc.prune_runs(store)] == [ids[1], ids[0]]


def test_titles_are_not_doubled(store: Store) -> None:
    out = call("runs", "show", finished(store, "web", "2020.101.0"))[1]
    assert out.count("site.yml") == 1 and "golden web 2020.101.0" in out


def test_whoever_enters_a_guest_is_told_who_they_are() -> None:
    run = {"id": "R7", "image": "web"}
    building = describe_shell(run, "goldsmith-build")
    kept = describe_shell({**run, "kept_guest": {"folder": "/x"}}, "goldsmith-build")
    for text in (building, kept):
        assert "you are goldsmith-build" in text and "sudo -i makes you root" in text
    assert "the build continues and ends the guest" in building and "the guest runs until `goldsmith clean`" in kept


# ---- errors of the file system -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [
        (errno.EACCES, "permission-denied", 3),
        (errno.EPERM, "permission-denied", 3),
        (errno.EROFS, "read-only", 3),
        (errno.ENOSPC, "disk-full", 3),
        (errno.EDQUOT, "disk-full", 3),
        (errno.ENAMETOOLONG, "name-too-long", 2),
        (errno.ENOTDIR, "not-a-folder", 2),
        (errno.EISDIR, "is-a-folder", 2),
        (errno.EEXIST, "file-exists", 2),
        (errno.ENOENT, "file-missing", 2),
        (errno.ELOOP, "link-loop", 2),
        (errno.EMFILE, "too-many-files", 3),
        (errno.EIO, "input-output", 3),
        (errno.ENOTTY, "host-file-error", 3),
    ],
)
@pytest.mark.parametrize("with_path", [True, False])
def test_every_number_has_a_name_and_a_hint(
    tmp_path: Path, number: int, name: str, code: int, with_path: bool
) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "x" / "y")) if with_path else OSError(number, "words")
    named = describe_os_error(error)
    assert (named.name, named.exit_code) == (name, code) and named.hint and named.message


def test_an_error_without_a_number_is_named_too() -> None:
    named = describe_os_error(shutil.Error([("a", "b", "no")]))
    assert isinstance(named, HostError) and named.hint and named.message


def test_the_component_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        (tmp_path / "file" / "x" / "y").read_text()
    assert str(tmp_path / "file") + " is a file" in str(describe_os_error(caught.value).hint)
    with pytest.raises(OSError) as caught:
        (tmp_path / "no" / "x").write_text("")
    assert f"create the folder {tmp_path / 'no'}" in str(describe_os_error(caught.value).hint)
    with pytest.raises(OSError) as caught:
        (tmp_path / ("n" * 300)).write_text("")
    assert "300 bytes" in describe_os_error(caught.value).message


_AS_NOBODY = """
import contextlib, io, json, os, pwd, sys
nobody = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
from pipeline.__main__ import _guarded
found = []
for words in json.load(sys.stdin):
    sys.argv = ["goldsmith", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _guarded()
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def as_nobody(folder: Path, *verbs: tuple[str, ...]) -> dict[tuple[str, ...], tuple[int, str, str]]:
    """What each verb ends in for a user without rights; a traceback of any of them fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        input=json.dumps(verbs),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    return {words: tuple(each) for words, each in zip(verbs, json.loads(done.stdout), strict=True)}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter; pytest's own are the user's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_user_without_rights_gets_named_errors(
    store: Store, masters: list[Version], open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store.root, open_folder / "store", symlinks=True)
    monkeypatch.setenv("GOLDSMITH_HOME", str(open_folder / "store"))
    store = Store(open_folder / "store")
    (open_folder / "images").mkdir()
    old, before = masters[0], sorted(str(path) for path in store.root.rglob("*"))
    place, first = open_folder / "new", f"web@{old.version}"
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    private = open_folder / "private.vhd"
    private.touch(mode=0o600)
    refused = [
        ("gallery", "promote", first),
        ("gallery", "promote", first, "stable", "--create"),
        ("gallery", "rollback", "web"),
        ("gallery", "prune", "web", "--keep", "1"),
        ("gallery", "remove", first, "--why", "x"),
        ("gallery", "lease", first),
        ("gallery", "export", first, str(place)),
        ("gallery", "archive", first),
        ("gallery", "import", str(closed)),
        ("inspect", str(private)),
        ("vhd", "convert", str(private), str(open_folder / "y.vhd")),
        ("gallery", "channel", "remove", "web", "golden", "--force"),
        ("gallery", "delta", first, "web", str(open_folder / "d.vhd")),
        ("vhd", "create", str(open_folder / "x.vhd"), "--size", "8M"),
        ("vhd", "create", "/root/x.vhd", "--size", "8M"),
        ("clean",),
        ("clean", "--layers"),
        ("build", "web"),
        ("refresh", "--all"),
        ("prove", "web"),
    ]
    read = [
        ("gallery", "list"),
        ("gallery", "show", "web"),
        ("gallery", "channel", "list"),
        ("gallery", "prune", "web", "--keep", "1", "--dry-run"),
        ("gallery", "remove", first, "--why", "x", "--dry-run"),
        ("gallery", "channel", "remove", "web", "golden", "--force", "--dry-run"),
        ("runs", "list"),
        ("runs", "prune", "--dry-run"),
    ]
    seen = as_nobody(open_folder, *refused, *read)
    for words in refused:
        code, _, errors = seen[words]
        assert code in (2, 3) and errors.startswith("goldsmith: ") and "  hint   " in errors, (words, seen[words])
        assert "Errno" not in errors and "mend the cause" not in errors, errors
    for words in read:
        assert seen[words][0] == 0, (words, seen[words])
    assert f"{private} belongs to root:" in seen["inspect", str(private)][2] and seen["inspect", str(private)][0] == 2
    assert f"{closed} belongs to root:" in seen["gallery", "import", str(closed)][2]
    # whose it is, and how it can be had
    errors = seen["gallery", "promote", first][2]
    assert "you are nobody" in errors and "belongs to root:" in errors and "sudo" in errors
    assert sorted(str(path) for path in store.root.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_store_and_a_full_one(tmp_path: Path) -> None:
    """In a mount namespace of the test's own; nothing half-written stays."""
    script = """
set -e
mount -t tmpfs -o size=8m tmpfs "$1"
export GOLDSMITH_HOME="$1/store"
cp -a "$2/." "$1/store"
dd if=/dev/zero of="$1/store/fill" bs=64k 2>/dev/null || true
echo "== full"; "$3" -m pipeline gallery lease web 2>&1 || echo "code $?"
ls -A "$1/store/gallery/web/.leases" 2>/dev/null || true
rm "$1/store/fill"; mount -o remount,ro "$1"
echo "== read-only"; "$3" -m pipeline gallery lease web 2>&1 || echo "code $?"
"""
    gallery = Gallery(Store(tmp_path / "store").ensure().gallery)
    made = capture(gallery)
    gallery.promote(made)
    (tmp_path / "mount").mkdir()
    words = [str(tmp_path / "mount"), str(tmp_path / "store"), sys.executable]
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", *words], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode and "mount" in done.stderr:
        pytest.skip("this host lets nobody mount")
    full, _, read_only = done.stdout.partition("== read-only")
    assert "No space left on device" in full and "code 3" in full and "free space" in full, done.stdout
    assert ".json" not in full.partition("code 3")[2]
    assert "Read-only file system" in read_only and "code 3" in read_only, done.stdout


def test_no_error_of_the_command_line_and_the_store_is_without_a_hint() -> None:
    kinds = {"GoldsmithError", "UsageError", "NotFound", "CheckFailed", "HostError", "BuildError", "DiskError"}
    rooms = ("cli", "nightly", "maintenance", "gallery", "cache", "base")
    for path in sorted(path for name in rooms for path in (ROOT / "pipeline" / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                hint = next((each.value for each in node.keywords if each.arg == "hint"), None)
                empty = hint is None or (isinstance(hint, ast.Constant) and not hint.value)
                assert not empty, f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


# ---- pipes, JSON, lines ------------------------------------------------------------------------------------------


def shell(line: str, store: Store) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GOLDSMITH_HOME": str(store.root), "G": f"{sys.executable} -m pipeline"}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)


def test_a_reader_that_goes_away_ends_it_quietly(store: Store) -> None:
    line = "$G checks --json | head -c 1; echo ${PIPESTATUS[0]}; $G checks --json 2>&1 | true; echo ${PIPESTATUS[0]}"
    done = shell(line, store)
    assert done.stderr == "" and done.stdout.splitlines()[0].startswith("[") and "Traceback" not in done.stdout
    assert {done.stdout.splitlines()[0][1:], done.stdout.splitlines()[1]} <= {"0", "141"}, done.stdout


def test_a_build_without_a_reader_is_interrupted(tmp_path: Path) -> None:
    """The listener writes from another thread; the main one is interrupted as by a signal."""
    script = (
        "import sys, threading, time\n"
        "import pipeline.cli.app as root\n"
        "from pipeline.base.errors import Interrupted\n"
        "def app(**_):\n"
        "    def write():\n"
        "        for _ in range(300): print('x' * 999, flush=True); time.sleep(0.01)\n"
        "    threading.Thread(target=write, daemon=True).start()\n"
        "    try: time.sleep(600)\n"
        "    except Interrupted as error:\n"
        "        open(sys.argv[1], 'w').write(str(error.exit_code)); raise\n"
        "root.app = app\n"
        "from pipeline.__main__ import main; main()\n"
    )
    line = f'{sys.executable} -c "$SCRIPT" {tmp_path / "seen"} | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SCRIPT": script},
        timeout=300,
    )
    assert done.stdout.splitlines()[-1] == "141" and done.stderr == "" and (tmp_path / "seen").read_text() == "141"


def test_a_full_disk_behind_the_output_is_named(store: Store) -> None:
    done = shell("$G schema > /dev/full; echo $?; $G --version >&-; echo $?; $G runs list >&- 2>&-; echo $?", store)
    assert done.stdout.splitlines()[0] == "3" and "the output could not be written" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_json_is_alone_on_stdout(store: Store, masters: list[Version], tmp_path: Path) -> None:
    """Every verb with --json that needs no guest and no host: prose goes to stderr, also an error's."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.yaml").write_text("goldsmith: 2\n")
    finished(store, "web")
    (store.gallery / "web" / masters[0].version / "manifest.json").unlink()
    lines = {
        ("gallery", "list"): 1,
        ("gallery", "list", "nosuch"): 1,
        ("gallery", "show", "web"): 0,
        ("gallery", "prune"): 0,
        ("gallery", "prune", "--keep", "1", "--dry-run"): 0,
        ("gallery", "verify", "web"): 1,
        ("gallery", "channel", "list"): 0,
        ("gallery", "dismiss"): 0,
        ("runs", "list"): 0,
        ("runs", "show", "R1"): 0,
        ("runs", "prune"): 0,
        ("checks",): 0,
        ("validate",): 2,
        ("vhd", "info", str(masters[1].disk)): 2,
        ("vhd", "verify", str(masters[1].disk)): 1,
    }
    for words, wanted in lines.items():
        code, out, _ = call("--project", str(tmp_path), *words, "--json")
        assert code == wanted, (words, code, out)
        if out or code == 0:
            json.loads(out)


def test_prose_of_a_verb_does_not_reach_a_document() -> None:
    """Whatever a verb prints beside its document."""
    from pipeline.cli import door
    from pipeline.cli.show import print_json

    @app.command("chatty", hidden=True)
    def chatty(as_json: bool = next(p for p in dict(commands())["runs", "list"].params).default) -> None:  # type: ignore[attr-defined]
        with door.document_only():
            print("prose")
            print_json({"a": 1})

    try:
        assert json.loads(call("chatty")[1]) == {"a": 1}
    finally:
        app.registered_commands.pop()


def test_fault_lines_have_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [
        Fault("images/a.yaml", 3, 5, "os", "unknown", "linux?"),
        Fault("images/a.yaml", 9, 1, "steps", "empty", ""),
    ]
    print_error(DefinitionError(faults))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [str(fault) for fault in faults] and lines[2] == "goldsmith: 2 faults"


def test_empty_lists_say_so_on_stderr(store: Store) -> None:
    for words in (("gallery", "list"), ("runs", "list"), ("gallery", "channel", "list"), ("gallery", "prune")):
        code, out, errors = call(*words)
        assert (code, out) == (0, "") and errors, words


def test_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    table([("x" * 400, "y")], ("a", "b"))
    print_error(UsageError("z" * 400, hint="h" * 400))
    seen = capsys.readouterr()
    assert "x" * 400 in seen.out and "z" * 400 in seen.err and "h" * 400 in seen.err


@pytest.mark.parametrize(
    "words", [("-h",), ("gallery", "-h"), ("gallery", "list", "-h"), ("help",), ("help", "gallery", "list")]
)
def test_help_is_where_people_look(words: tuple[str, ...]) -> None:
    code, out, _ = call(*words)
    assert (
        code == 0
        and "Usage:" in out
        and "..." not in out.replace("...]", "").replace("NAME...", "").replace("...", "", 2)
    )


def test_a_long_text_is_cut_between_words_and_marked() -> None:
    from pipeline.base.printable import shorten

    assert shorten("a b", 10) == "a b" and shorten("word " * 100, 20) == "word word word ..."
    assert shorten("x" * 50, 20) == f"{'x' * 16} ..."
    assert shorten("e" * 1999) == "e" * 1999


def test_a_store_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "file"))
    for words in (("gallery", "list"), ("runs", "list"), ("clean",)):
        code, out, errors = call(*words)
        assert (code, out) == (2, "") and "is not a folder" in errors
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "file" / "x"))
    code, _, answer = call("clean")
    assert code == 3 and "cannot be created" in answer


def test_every_verb_has_a_whole_sentence() -> None:
    for words, verb in commands():
        if verb.hidden:  # type: ignore[attr-defined]
            continue
        assert (verb.short_help or "").endswith((".", ")", "?", "not.")), words  # type: ignore[attr-defined]


def test_colours_are_the_owners_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli import door

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert door.has_colour(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not door.has_colour(Terminal())  # type: ignore[arg-type]


# ---- completion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("goldsmith gal", {"gallery"}),
        ("goldsmith gallery ch", {"channel"}),
        ("goldsmith gallery show w", {"web"}),
        ("goldsmith gallery show web@g", {"golden"}),
        ("goldsmith gallery prune --dr", {"--dry-run"}),
        ("goldsmith gallery promote web ca", {"candidate"}),
        ("goldsmith runs show R", {"R1"}),
        ("goldsmith build debian-12-we", {"debian-12-web"}),
        ("goldsmith build web --from conv", {"convert"}),
        ("goldsmith prove web --target gen2-s", {"gen2-secure"}),
        ("goldsmith prove web --cell gen2-s", {"gen2-secure"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bash_completes(store: Store, masters: list[Version], tmp_path: Path, line: str, wanted: set[str]) -> None:
    finished(store, "web")
    (tmp_path / "goldsmith").write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline "$@"\n')
    (tmp_path / "goldsmith").chmod(0o755)
    script = call("completion", "bash")[1]
    ask = f"{script}\nCOMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}; COMP_LINE='{line}'; COMP_POINT={len(line)}\n"
    ask += f"_goldsmith_completion {tmp_path / 'goldsmith'}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = shell(ask, store)
    assert set(done.stdout.split()) == wanted, (done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_have_scripts(name: str) -> None:
    code, out, _ = call("completion", name)
    assert code == 0 and "_GOLDSMITH_COMPLETE" in out and "goldsmith" in out


def test_the_parser_gets_the_verb_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are left out where the line begins with a verb, and none where it does not."""
    seen: list[set[str]] = []

    def note(self: typer.Typer, *_words: object, **_options: object) -> None:
        groups = {str(group.name) for group in self.registered_groups}
        seen.append(groups | {_name_of(command) for command in self.registered_commands})

    monkeypatch.setattr(typer.Typer, "__call__", note)
    every = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    lines = {verb: {verb} for verb in every - {"help"}} | dict.fromkeys(("help", "--help", "plann", "-V"), every)
    for first, expected in lines.items():
        for line in ([first], ["--project", "plan", first], ["--project=gallery", first, "plan"]):
            app(line)
            assert seen.pop() == expected, line
    for line in ([], ["--project"], ["--project", "plan"]):
        app(line)
        assert seen.pop() == every, line
