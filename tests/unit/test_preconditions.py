# ruff: noqa: E501  a line of the output is a line here
"""What a definition needs of the store, this host and the archive is a fault at its line, before anything starts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.build import _explained, _image_name
from pipeline.definition import DefinitionError, load, load_named
from pipeline.errors import BuildError, UsageError
from pipeline.gallery import DISK, Gallery
from pipeline.guests import archive
from pipeline.preconditions import check_preconditions, require_preconditions
from pipeline.store import Store
from tests.unit.test_gallery import least_manifest

GIB = 1 << 30
NAMES = frozenset({"less", "nginx", "tree", "jq", "default-mta", "libc6"})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    def known(suite: str, _cache: Path) -> frozenset[str] | None:
        if suite == "bokworm":
            raise BuildError(f"the mirror has no suite {suite}", name="suite-missing", hint="a code name: bookworm")
        return NAMES if suite == "bookworm" else None

    monkeypatch.setattr(archive, "known_packages", known)
    store = Store(tmp_path / "store").ensure()
    gallery = Gallery(store.gallery)
    disk = tmp_path / "base.vhd"
    disk.write_bytes(b"x" * 4096)

    def manifest(version: str) -> dict[str, Any]:
        least = least_manifest("base", version, disk)
        shape = least["disk"]
        assert isinstance(shape, dict)
        return {**least, "disk": {**shape, "virtual_size": 8 * GIB}}

    made = gallery.capture("base", {DISK: disk}, [], manifest)
    gallery.promote(made)
    gallery.promote(made, "stable")
    return store


def faults(store: Store, text: str, **others: str) -> list[str]:
    project = store.root.parent / "project"
    for name, content in {"site": text, **others}.items():
        path = project / f"images/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"goldsmith: 1\n{content}\n")
    found = check_preconditions([load(project / "images/site.yaml", project)], store)
    return [str(fault).removeprefix("images/site.yaml:") for of in found.values() for fault in of]


DEBIAN = "source: {debian: {suite: bookworm, packages: [less]}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEBIAN, []),
        (f"{DEBIAN}\nwaive: {{serial-consol: none here}}", ["3:9: waive.serial-consol: there is no check serial-consol (serial-console?)"]),
        (
            f"{DEBIAN}\nwaive: {{win-rdp: none here}}",
            ["3:9: waive.win-rdp: the check win-rdp does not look at this image (goldsmith checks --profile azure-linux lists those that look at it; remove the line)"],
        ),
        ("source: {debian: {suite: bookworm, packages: [ngnix, jq]}}", ["2:47: source.debian.packages[0]: bookworm has no package ngnix (nginx?)"]),
        ("source: {debian: {suite: bokworm}}", ["2:26: source.debian.suite: the mirror has no suite bokworm (a code name: bookworm)"]),
        # an archive that does not answer says nothing of its packages
        ("source: {debian: {suite: trixie, packages: [ngnix]}}", []),
        ("source: {master: base@golden}", []),
        ("source: {master: base@stable}", []),
        ("source: {master: base@stabel}", ["2:18: source.master: base@stabel is not in the gallery {gallery} (stable?)"]),
        ("source: {master: bas@golden}", ["2:18: source.master: bas@golden is not in the gallery {gallery} (base?)"]),
        ("source: {master: base@golden}\ndisk: 4 GiB", ["3:7: disk: 4 GiB are less than the 8 GiB of base@golden (write disk: 8 GiB or more, or leave it out)"]),
        ("source: {master: base@golden}\ndisk: 9 GiB", []),
        ("source: {master: parent@golden}\ndisk: 9 GiB", ["3:7: disk: 9 GiB are less than the 12 GiB of parent@golden (write disk: 12 GiB or more, or leave it out)"]),
        ("source: {master: parent@candidate}", ["2:18: source.master: parent@candidate is not in the gallery {gallery} (write parent: only golden is built on the way)"]),
    ],
)  # fmt: skip
def test_faults(store: Store, text: str, expected: list[str]) -> None:
    assert faults(store, text, parent=f"{DEBIAN}\ndisk: 12 GiB") == [
        line.replace("{gallery}", str(store.gallery)) for line in expected
    ]


def test_more_than_this_host_has(store: Store) -> None:
    found = faults(store, f"{DEBIAN}\nmachine: {{cpus: 64, memory: 9000 GiB}}")
    assert len(found) == 2
    assert found[0].startswith("3:17: machine.cpus: 64 processors are more than this host has")
    assert found[1].startswith("3:29: machine.memory: 9000 GiB of memory are more than this host has")


def test_a_disk_of_another_format_or_of_another_size(store: Store) -> None:
    disks = store.root.parent / "project/disks"
    disks.mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disks / "x.img", "8G"], check=True)
    source = "source: {disk: {path: disks/x.img, format: %s}}"
    assert faults(store, source % "qcow2") == []
    assert faults(store, source % "raw") == [
        "2:44: source.disk.format: x.img is a qcow2 disk, not raw (write format: qcow2)"
    ]
    assert faults(store, f"{source % 'qcow2'}\ndisk: 4 GiB") == [
        "3:7: disk: 4 GiB are less than the 8 GiB of x.img (write disk: 8 GiB or more, or leave it out)"
    ]


def test_without_a_store_nothing_is_said_of_masters(store: Store, tmp_path: Path) -> None:
    text = "source: {master: nobody@golden}"
    assert faults(store, text) != []
    definition = load(tmp_path / "project/images/site.yaml", tmp_path / "project")
    assert check_preconditions([definition], Store(tmp_path / "none")) == {}
    with pytest.raises(DefinitionError, match="nobody@golden is not in the gallery"):
        require_preconditions([definition], store)


def test_names_of_packages_come_from_the_hosts_own_lists_or_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_host_packages", lambda _suite: None)
    monkeypatch.setattr(archive, "_ask_packages", lambda _suite: NAMES)
    assert archive.known_packages("bookworm", tmp_path / "cache") == NAMES
    monkeypatch.setattr(archive, "_ask_packages", lambda _suite: None)
    assert archive.known_packages("bookworm", tmp_path / "cache") == NAMES
    assert archive.known_packages("trixie", tmp_path / "cache") is None
    lines = "Package: nginx\nVersion: 1\nProvides: httpd, httpd-cgi (= 1)\n".splitlines()
    assert archive._names(lines) == {"nginx", "httpd", "httpd-cgi"}


def test_a_definitions_path_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/site.yaml").write_text("goldsmith: 1\n")
    assert _image_name(str(tmp_path / "images/site.yaml"), tmp_path) == "site"
    assert _image_name("site.yaml", tmp_path) == _image_name("images/site.yaml", tmp_path) == "site"
    assert _image_name("site", tmp_path) == "site"
    with pytest.raises(UsageError, match="is not a definition of the project"):
        _image_name(str(tmp_path / "images/site.yaml"), tmp_path / "elsewhere")


def test_a_plan_on_a_parent_that_is_still_to_be_built(store: Store) -> None:
    faults(store, "source: {master: parent@golden}", parent=DEBIAN)
    project = store.root.parent / "project"
    parent, child = (load_named(project, name) for name in ("parent", "site"))
    rows = _explained(child, [parent], store, False, None)
    assert {row["action"] for row in rows} == {"run"}
    assert {row["why"] for row in rows} == {"parent is built first"}
