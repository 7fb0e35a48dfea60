# ruff: noqa: E501  a line of the output is a line here
"""What a definition needs of the store, this host and the archive is a fault at its line, before anything starts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import BuildError, UsageError
from pipeline.base.store import Store
from pipeline.cli.build import _image_name
from pipeline.definition import DefinitionError, load, load_all, load_named, load_sound_part
from pipeline.definition.composition import image_names
from pipeline.engine import preconditions
from pipeline.engine.image_plan import plan_images
from pipeline.engine.preconditions import check_preconditions, require_buildable
from pipeline.gallery import DISK, Gallery
from pipeline.systems.debian import apt
from tests.unit.gallery.test_gallery import least_manifest

GIB = 1 << 30
NAMES = frozenset({"less", "nginx", "tree", "jq", "default-mta", "libc6"})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    def known(suite: str, _cache: Path) -> apt.PackageNames | None:
        if suite == "bokworm":
            raise BuildError(f"the mirror has no suite {suite}", name="suite-missing", hint="a code name: bookworm")
        return apt.PackageNames.of(NAMES) if suite == "bookworm" else None

    monkeypatch.setattr(apt, "known_packages", known)
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
        (f"{DEBIAN}\nwaive: {{serial-consol: none here}}", ["3:9: waive.serial-consol: the check serial-consol does not exist (serial-console?)"]),
        (
            f"{DEBIAN}\nwaive: {{win-rdp: none here}}",
            ["3:9: waive.win-rdp: the check win-rdp does not apply to this image (remove the line; goldsmith checks --profile azure-linux lists the checks for this image)"],
        ),
        ("source: {debian: {suite: bookworm, packages: [ngnix, jq]}}", ["2:47: source.debian.packages[0]: bookworm has no package ngnix (nginx?)"]),
        ("source: {debian: {suite: bokworm}}", ["2:26: source.debian.suite: the mirror has no suite bokworm (a code name: bookworm)"]),
        # an archive that does not answer says nothing of its packages
        ("source: {debian: {suite: trixie, packages: [ngnix]}}", []),
        ("source: {master: base@golden}", []),
        ("source: {master: base@stable}", []),
        ("source: {master: base@stabel}", ["2:18: source.master: base@stabel is not in the gallery {gallery} (stable?)"]),
        ("source: {master: bas@golden}", ["2:18: source.master: bas@golden is not in the gallery {gallery} (base?)"]),
        ("source: {master: base@golden}\ndisk: 4 GiB", ["3:7: disk: 4 GiB are less than the 8 GiB of base@golden (write disk: 8 GiB or more, or omit it)"]),
        ("source: {master: base@golden}\ndisk: 9 GiB", []),
        ("source: {master: parent@golden}\ndisk: 9 GiB", ["3:7: disk: 9 GiB are less than the 12 GiB of parent@golden (write disk: 12 GiB or more, or omit it)"]),
        ("source: {master: parent@candidate}", ["2:18: source.master: parent@candidate is not in the gallery {gallery} (write parent: a build makes only golden parents)"]),
    ],
)  # fmt: skip
def test_faults(store: Store, text: str, expected: list[str]) -> None:
    assert faults(store, text, parent=f"{DEBIAN}\ndisk: 12 GiB") == [
        line.replace("{gallery}", str(store.gallery)) for line in expected
    ]


def test_more_than_this_host_has(store: Store) -> None:
    found = faults(store, f"{DEBIAN}\nmachine: {{cpus: 64, memory: 9000 GiB}}")
    assert len(found) == 2
    assert found[0].startswith("3:17: machine.cpus: this host has only")
    assert found[1].startswith("3:29: machine.memory: 9000 GiB of memory is more than this host has")


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
        "3:7: disk: 4 GiB are less than the 8 GiB of x.img (write disk: 8 GiB or more, or omit it)"
    ]


def test_without_a_store_nothing_is_said_of_masters(store: Store, tmp_path: Path) -> None:
    text = "source: {master: nobody@golden}"
    assert faults(store, text) != []
    definition = load(tmp_path / "project/images/site.yaml", tmp_path / "project")
    assert check_preconditions([definition], Store(tmp_path / "none")) == {}
    with pytest.raises(DefinitionError, match="nobody@golden is not in the gallery"):
        require_buildable([definition], store)


def test_names_of_packages_come_from_the_hosts_own_lists_or_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "_host_packages", lambda _suite: None)
    monkeypatch.setattr(apt, "_ask_packages", lambda _suite: NAMES)
    known = apt.known_packages("bookworm", tmp_path / "cache")
    assert known is not None
    assert set(known) == NAMES
    monkeypatch.setattr(apt, "_ask_packages", lambda _suite: None)
    kept = apt.known_packages("bookworm", tmp_path / "cache")
    assert kept is not None
    assert set(kept) == NAMES
    assert all(name in kept for name in NAMES)
    assert not any(part in kept for part in ("les", "ess", "default", "mta"))
    assert apt.known_packages("trixie", tmp_path / "cache") is None
    lines = "Package: nginx\nVersion: 1\nProvides: httpd, httpd-cgi (= 1)\n".splitlines()
    assert apt._names(lines) == {"nginx", "httpd", "httpd-cgi"}


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
    rows = plan_images([parent, child], store)[-1].rows
    assert {row["action"] for row in rows} == {"run"}
    assert {row["why"] for row in rows} == {"parent is built first"}


def test_a_disk_with_another_checksum(store: Store) -> None:
    disks = store.root.parent / "project/disks"
    disks.mkdir(parents=True)
    disk = disks / "x.raw"
    disk.write_bytes(b"a disk" * 1000)
    right, wrong = hashlib.sha256(disk.read_bytes()).hexdigest(), "a" * 64
    source = "source: {disk: {path: disks/x.raw, sha256: %s}}"
    assert faults(store, source % right) == []
    expected = f"source.disk.sha256: the sha256 of x.raw is {right} (copy the file again, or correct the digits)"
    assert faults(store, source % wrong) == [f"2:44: {expected}"]
    # what is remembered is not believed of a file that has changed
    disk.write_bytes(b"a disc" * 1000)
    assert len(faults(store, source % right)) == 1


@pytest.mark.parametrize(
    ("waived", "data_disks", "expected"),
    [
        ("data-disk-1", "[{lun: 1, size: 1 GiB}]", []),
        ("data-disk-2", "[{lun: 1, size: 1 GiB}]", ["4:9: waive.data-disk-2: the check data-disk-2 does not exist (similar checks: data-disk-1)"]),
        ("data-disk-x", "[]", ["4:9: waive.data-disk-x: the check data-disk-x does not exist (remove the line; this image has no data disks)"]),
    ],
)  # fmt: skip
def test_a_waiver_of_a_data_disk(store: Store, waived: str, data_disks: str, expected: list[str]) -> None:
    assert faults(store, f"{DEBIAN}\ndata_disks: {data_disks}\nwaive: {{{waived}: a reason}}") == expected


def validate(store: Store, text: str) -> list[str]:
    """What `goldsmith validate` prints of one definition; the archive is not asked."""
    project = store.root.parent / "project"
    (project / "images").mkdir(parents=True)
    (project / "images/site.yaml").write_text(text)
    (store.root / "packages").mkdir()
    (store.root / "packages/bookworm.txt").write_text("\n".join(NAMES))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--project", project, "validate"],
        env={**os.environ, "GOLDSMITH_HOME": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return [line.removeprefix("images/site.yaml:").split(" (")[0] for line in done.stderr.splitlines()]


def test_a_fault_of_the_text_hides_none_of_these(store: Store) -> None:
    text = """\
goldsmith: 1
source: {debian: {suite: bookworm, packages: [ngnix, jq]}}
disk: 8 GB
machine: {cpus: 99, memory: 9000 GiB}
waive: {serial-consol: none here}
steps:
  - script: scripts/none.sh
colour: red
"""
    assert validate(store, text)[:-1] == [
        "2:47: source.debian.packages[0]: bookworm has no package ngnix",
        "3:7: disk: GB is not a unit of size; the units are B, KiB, MiB, GiB, TiB",
        "4:17: machine.cpus: must be at most 64, not 99",
        "4:29: machine.memory: 9000 GiB of memory is more than this host has",
        "5:9: waive.serial-consol: the check serial-consol does not exist",
        "7:13: steps[0].script: scripts/none.sh not found",
        "8:1: colour: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("goldsmith: 1\nsource: {master: 5}\nwaive: {x: y}\n", {"source"}),
        ("goldsmith: 1\nsource: {debian: {suit: bookworm}}\n", {"source"}),
        ("goldsmith: 1\nwaive: [x]\n", {"source", "waive"}),
        ("goldsmith: 1\nos: beos\nsource: {debian: {suite: bookworm}}\nsteps: [{nothing: 1}, {script: x}]\n", {"os", "steps"}),
        ("goldsmith: 1\nsource: {debian: {suite: bookworm, packages: [less, 7]}}\n", {"source"}),
    ],
)  # fmt: skip
def test_the_part_that_can_be_read(tmp_path: Path, text: str, left_out: set[str]) -> None:
    path = tmp_path / "images/site.yaml"
    path.parent.mkdir()
    path.write_text(text)
    part = load_sound_part(path, tmp_path)
    assert part is not None and part.left_out == left_out
    for other in ("", "- a\n", "a: [\n", "\0"):
        path.write_text(other)
        assert load_sound_part(path, tmp_path) is None


def test_what_could_not_be_looked_at_is_noted_once(store: Store, tmp_path: Path) -> None:
    faults(store, "source: {debian: {suite: trixie, packages: [less]}}", other="source: {master: nobody@golden}")
    project = tmp_path / "project"
    notes: list[str] = []
    definitions = [load(project / f"images/{name}.yaml", project) for name in ("site", "other", "site")]
    nowhere = Store(tmp_path / "none")
    assert check_preconditions(definitions, nowhere, on_note=notes.append) == {}
    assert notes == [
        "the names of packages could not be looked up: no list of trixie is at hand",
        f"nobody@golden was not checked, because {nowhere.root} has no gallery",
    ]


def test_the_names_of_a_project_are_read_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project may have 2,000 images: once each child read the names of all others."""
    images = tmp_path / "many/images"
    images.mkdir(parents=True)
    (images / "mother.yaml").write_text("goldsmith: 1\nsource: {debian: {suite: bookworm}}\n")
    for number in range(3):
        (images / f"child{number}.yaml").write_text("goldsmith: 1\nsource: {master: mother@golden}\n")
    asked: list[Path] = []

    def names(project: Path) -> dict[str, Path]:
        asked.append(project)
        return image_names(project)

    monkeypatch.setattr(preconditions, "image_names", names)
    assert check_preconditions(load_all(images.parent), store) == {}
    assert len(asked) == 1
