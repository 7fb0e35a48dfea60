"""Every error name has its row in docs/errors.md, with a cause and a remedy, and a test that names it."""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.base import process
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.definition import Definition
from pipeline.evidence import signing
from pipeline.gallery import Version
from pipeline.hypervisor.finding import Finding
from pipeline.nightly.refresh import FAILED, UNCHANGED, ImageResult
from pipeline.systems import registry
from pipeline.vhd.sparse import open_sparse
from tests.errors_page import PAGE, Entry, entries, page
from tests.unit.base.test_hints import GENERIC
from tests.unit.cli.test_command_line import masters, store

__all__ = ["masters", "store"]  # fixtures

TESTS = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(?P<name>[a-z0-9-]+)` \| (?P<code>[0-9, ]+) \| (?P<cause>.+) \| (?P<cure>.+) \|$", re.MULTILINE
)
MISSING = "no/such/file"
URL = "https://account.blob.core.windows.net/images"

Make = Callable[[Path], None]
Prepare = Callable[[pytest.MonkeyPatch, Store], None]


def write(name: str, content: str | bytes) -> Make:
    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def nothing(_folder: Path) -> None:
    """The command needs no file."""


def roll_back(_folder: Path) -> None:
    """Golden is the oldest version, which has none before it."""
    assert CliRunner().invoke(app, ["gallery", "rollback", "web"]).exit_code == 0


def make_pipe(folder: Path) -> None:
    os.mkfifo(folder / "a.vhd")


def break_store(folder: Path) -> None:
    """A file lies where the store should be."""
    shutil.move(folder.parent / "store", folder.parent / "elsewhere")
    (folder.parent / "store").write_text("")


#: A command line that ends with the error, run in a project with the image `x`, and what it needs.
COMMANDS: dict[str, tuple[tuple[str, ...], Make]] = {
    "bad-size": (("vhd", "create", "a.vhd", "--size", "20"), nothing),
    "channel-name": (("gallery", "promote", "web", "1x", "--create"), nothing),
    "channel-protected": (("gallery", "channel", "remove", "web", "golden"), nothing),
    "credential-missing": (("publish", "show", "web", URL, "--key-from", f"file:{MISSING}"), nothing),
    "credential-source": (("publish", "show", "web", URL, "--key-from", "abc"), nothing),
    "exists": (("init", "x"), nothing),
    "image-defined": (("capture", "d.img", "--as", "x"), write("d.img", bytes(1 << 20))),
    "image-name": (("init", "X y"), nothing),
    "lease-unknown": (("gallery", "lease", "web", "--release", "nope"), nothing),
    "medium-missing": (("iso", MISSING), nothing),
    "no-medium": (("iso", "d.iso"), write("d.iso", bytes(1 << 16))),
    "no-such-file": (("validate", f"{MISSING}.yaml"), nothing),
    "no-such-image": (("plan", "y"), nothing),
    "no-target": (("vhd", "diff", "a.vhd", "b.vhd"), write("a.vhd", b"x")),
    "no-parcel": (("gallery", "import", f"{URL}/x.vhd"), nothing),
    "nothing-to-roll-back-to": (("gallery", "rollback", "web"), roll_back),
    "other-project": (("plan", "../other/images/y.yaml"), write("../other/images/y.yaml", "goldsmith: 1\n")),
    "store-missing": (("runs", "list"), break_store),
    "target-not-a-file": (("vhd", "create", "a.vhd", "--size", "8 MiB", "--force"), make_pipe),
    "refusal-unknown": (("gallery", "dismiss", "web"), nothing),
    "run-unknown": (("runs", "show", "R99"), nothing),
    "secret-in-url": (("publish", "show", "web", f"{URL}?sig=abc"), nothing),
    "target-unknown": (("publish", "show", "web", "nowhere"), nothing),
    "target-url": (("publish", "show", "web", "http://example.org/c"), nothing),
    "two-outputs": (("inspect", "d.img", "--json", "--html"), write("d.img", bytes(512))),
    "unknown-generation": (("inspect", "d.img", "--generation", "3"), write("d.img", bytes(512))),
    "unknown-list": (("inspect", "d.img", "--list", "all"), write("d.img", bytes(1 << 20))),
    "unknown-kind": (("vhd", "create", "a.vhd", "--size", "8 MiB", "--to", "raw"), nothing),
    "usage": (("build", "x", "--all"), nothing),
    "version-unnamed": (("gallery", "remove", "web@golden", "--why", "x"), nothing),
    "vhd-not-right": (("vhd", "verify", "a.vhd"), write("a.vhd", bytes(1024))),
}


def make_two_keys(folder: Path) -> None:
    signing.make(folder / "k")
    signing.make(folder / "k")


def load_open_key(folder: Path) -> None:
    signing.make(folder / "k")
    (folder / "k").chmod(0o644)
    signing.load(folder / "k", folder / "store")


def load_key_of_the_store(folder: Path) -> None:
    signing.make(folder / "k")
    signing.load(folder / "k", folder)


def load_what_is_not_a_key(folder: Path) -> None:
    (folder / "k").write_text("no key")
    signing.load_public(folder / "k")


#: A call that raises the error, in an empty folder.
CALLS: dict[str, Callable[[Path], object]] = {
    "command-failed": lambda _: process.run(["false"], deadline=60),
    "key-exists": make_two_keys,
    "key-in-store": load_key_of_the_store,
    "key-readable": load_open_key,
    "key-unreadable": load_what_is_not_a_key,
    "system-unknown": lambda _: registry.get("plan9"),
    "tool-missing": lambda _: process.run(["no-such-program-of-goldsmith"], deadline=60),
    "vhd-not-sparse": lambda folder: sparse_of_fixed(folder),
}


def sparse_of_fixed(folder: Path) -> None:
    assert CliRunner().invoke(app, ["vhd", "create", str(folder / "a.vhd"), "--size", "8 MiB"]).exit_code == 0
    open_sparse(folder / "a.vhd")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_raises_the_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(GoldsmithError) as caught:
        CALLS[name](tmp_path)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)


# ---- commands on a host, in a store or in a night that fails -------------------------------------------------------


def build_that_fails(patch: pytest.MonkeyPatch, _store: Store) -> None:
    def build(definition: Definition, _store: Store, **_more: object) -> None:
        raise BuildError(f"{definition.name} does not boot", name="guest-no-boot")

    patch.setattr("pipeline.engine.runner.build", build)
    patch.setattr("pipeline.cli.build.need_root_to_build", lambda *_: None)


def night(**fields: str | int) -> Prepare:
    """A night in which each image ends so."""

    def prepare(patch: pytest.MonkeyPatch, _store: Store) -> None:
        def refresh(definition: Definition, _store: Store, **_more: object) -> ImageResult:
            return replace(ImageResult(definition.name, UNCHANGED, None, None, 0.0), **fields)  # type: ignore[arg-type]

        patch.setattr("pipeline.nightly.refresh.refresh_image", refresh)
        patch.setattr("pipeline.cli.refresh.need_root", lambda _verb: None)

    return prepare


def unfit_host(patch: pytest.MonkeyPatch, _store: Store) -> None:
    found = [Finding("memory", "fail", "1 GiB is free", "stop other programs")]
    patch.setattr("pipeline.hypervisor.host.examine", lambda _find_store, *, refresh: found)


def end_a_run(_patch: pytest.MonkeyPatch, store: Store) -> None:
    Run.start(store.runs, "x", "goldsmith build x").finish("failed")


#: A command line that ends with the error, and what is prepared for it.
PREPARED: dict[str, tuple[tuple[str, ...], Prepare]] = {
    "guest-gone": (("shell", "R1"), end_a_run),
    "host-unfit": (("doctor",), unfit_host),
    "images-failed": (("build", "--all"), build_that_fails),
    "publish-incomplete": (("refresh", "x"), night(unpublished="the target does not answer")),
    "refresh-failed": (("refresh", "x"), night(outcome=FAILED, why="x does not boot", exit_code=4)),
}


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_command_ends_with_the_error(
    name: str, store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, prepare = PREPARED[name]
    write("images/y.yaml", "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n")(project)
    prepare(monkeypatch, store)
    raised = CliRunner().invoke(app, list(words)).exception
    assert isinstance(raised, GoldsmithError), raised
    assert (raised.name, bool(raised.hint)) == (name, True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    write("images/x.yaml", "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n")(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_with_the_error(name: str, store: Store, masters: list[Version], project: Path) -> None:
    words, make = COMMANDS[name]
    make(project)
    raised = CliRunner().invoke(app, list(words)).exception
    assert isinstance(raised, GoldsmithError), raised
    assert (raised.name, bool(raised.hint)) == (name, True)


def rows() -> dict[str, re.Match[str]]:
    return {row["name"]: row for row in ROW.finditer(PAGE.read_text())}


def test_every_error_name_has_a_row_with_its_cause_and_remedy() -> None:
    """`python -m tests.errors_page > docs/errors.md` writes the page; see also tests/errors_written.py."""
    found = rows()
    assert sorted(found) == sorted(entries())
    assert [name for name, row in found.items() if GENERIC.search(row["cure"]) or len(row["cure"]) < 8] == []


def test_a_name_without_a_cause_or_a_remedy_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry()
    entry.add("it is broken", "")
    monkeypatch.setattr("tests.errors_page.entries", lambda: {"new-error": entry})
    assert "`new-error`" in page() and not ROW.search(page())


def test_every_error_name_is_named_by_a_test() -> None:
    """A new name needs a test that produces it: see the files *_errors_by_name.py beside this one."""
    words = set()
    for path in TESTS.rglob("*.py"):
        if path.name not in ("errors_page.py", "errors_written.py"):
            words |= {each.value for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Constant)}
    assert {name for name in entries() if name not in words} == set()
