"""An output format comes from one folder, this one.

A master is built, inspected, listed, verified and exported in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy_disk

from pipeline.base import disk_format
from pipeline.base.disk_format import RAW, VHD, DiskFormat
from pipeline.base.errors import DiskError
from pipeline.base.files import RecordDamaged
from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import Image, Layer, Layers, PendingLayer, layer_key
from pipeline.cache.units import StageResult
from pipeline.checks import inspect_disk
from pipeline.context import BuildContext
from pipeline.definition import DefinitionError, load
from pipeline.disk import mapping
from pipeline.gallery import Gallery
from pipeline.gallery.export_import import export
from pipeline.gallery.integrity import verify
from pipeline.gallery.manifest import manifest_of
from pipeline.hypervisor.domain import libvirt_format
from pipeline.stages.capture import Capture
from pipeline.stages.convert import Convert
from pipeline.stages.inspect import Inspect
from pipeline.systems.questions import list_disk
from pipeline.vhd.output import writer_of
from tests.fakes import fake_disk

# the import registered it, but only the tests that ask for it should see it
disk_format.unregister(toy_disk.TOY)

DEFINITION = """\
goldsmith: 1
source: {debian: {suite: bookworm}}
generations: [1]
output: toy
"""


@pytest.fixture
def toy() -> Iterator[DiskFormat]:
    disk_format.register(toy_disk.TOY)
    yield toy_disk.TOY
    disk_format.unregister(toy_disk.TOY)


class _Build:
    """The stages behind a guest's shutdown, run one after the other on a disk that looks like a Debian's."""

    def __init__(self, home: Path, text: str) -> None:
        project = home / "project"
        path = project / "images" / "web.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        self.store = Store(home / "store").ensure()
        run = Run.start(self.store.runs, "web", "goldsmith build web")
        self.context = BuildContext(
            load(path, project), self.store, run, Layers(self.store.layers), Gallery(self.store.gallery)
        )
        vars(self.context).update(
            accelerator=SimpleNamespace(kind="tcg"),
            connection=SimpleNamespace(version="9.0.0", qemu_version="7.2.0"),
        )
        draft = self._begin("acquire", {})
        raw = fake_disk.copy(fake_disk.build(home), draft.path / "disk.raw")
        self._commit("acquire", draft, {}, StageResult(Image(raw, RAW), {"suite": "bookworm"}))

    def _begin(self, stage: str, inputs: dict[str, Any]) -> PendingLayer:
        made = self.context.made
        draft = self.context.layers.begin(layer_key(stage, 1, inputs, made[-1][1].key if made else None))
        assert isinstance(draft, PendingLayer)
        return draft

    def _commit(self, stage: str, draft: PendingLayer, inputs: dict[str, Any], result: StageResult) -> Layer:
        made = self.context.made
        source = made[-1][1].key if made else None
        layer = draft.commit(
            stage=stage,
            inputs=inputs,
            source=source,
            image=result.image,
            title=stage,
            facts=result.facts,
            seconds=1.0,
        )
        made.append((stage, layer))
        return layer

    def run(self, stage: Convert | Inspect | Capture) -> Layer:
        (unit,) = stage.units(self.context)
        inputs = dict(unit.inputs)
        draft = self._begin(stage.name, inputs)
        return self._commit(stage.name, draft, inputs, unit.run(self.context, self.context.made[-1][1], draft))

    def prove_without_a_guest(self) -> None:
        image = self.context.made[-1][1].image
        facts = {"trees": {image.path.name: chunk_digests(image.path).tree}, "cells": {}}
        self._commit("prove", self._begin("prove", {}), {}, StageResult(image, facts))


def test_a_master_is_built_inspected_listed_verified_and_exported(toy: DiskFormat, tmp_path: Path) -> None:
    build = _Build(tmp_path, DEFINITION)
    shipped = build.run(Convert()).image
    assert (shipped.path.name, shipped.format, shipped.size) == ("disk.toy", toy, fake_disk.SIZE)
    assert shipped.path.stat().st_size == fake_disk.SIZE + toy_disk.TRAILING
    # the layer's record brings the format back
    assert build.context.made[-1][1].image.format == toy
    checks = {item["id"]: item for item in build.run(Inspect()).facts["checks"]}
    assert checks["linux-root"]["status"] == "pass"
    assert (checks["vhd-footer"]["status"], checks["vhd-footer"]["evidence"]) == ("skip", "not a VHD (toy)")
    build.prove_without_a_guest()
    build.run(Capture())

    gallery = build.context.gallery
    (version,) = gallery.versions("web")
    manifest = manifest_of(version.path)["disk"]
    assert (manifest["file"], manifest["format"], manifest["virtual_size"]) == (
        "disk.toy",
        "toy disk",
        fake_disk.SIZE,
    )
    assert version.channels == ("golden",)
    assert [Path(disk["path"]).name for disk in version.summary()["disks"]] == ["disk.toy"]
    assert {finding.wrong for finding in verify(gallery, "web")} == {""}
    assert not inspection_fails(version.disk)
    assert ["openssl", "3.0.15-1~deb12u1", "amd64"] in list_disk(version.disk, what="packages")

    page = (version.path / "report.html").read_text()
    assert "passed all checks; no clone was tested" in page and "openssl" in page
    assert "  report.html\n" in (version.path / "SHA256SUMS").read_text()

    parcel = export(version, tmp_path / "parcel")
    assert (parcel / "report.html").read_text() == page
    assert (parcel / "disk.toy").stat().st_size == version.disk.stat().st_size
    with version.disk.open("rb") as item, (parcel / "disk.toy").open("rb") as other:
        assert item.read() == other.read()
    # as a parent it is a slice of a raw file, like a fixed VHD
    assert (libvirt_format(version.image), version.image.size) == ("raw", fake_disk.SIZE)


def inspection_fails(disk: Path) -> bool:
    return any(result.status == "fail" for result in inspect_disk(disk, generations=[1]))


def test_its_file_is_known_by_name_and_trailer(toy: DiskFormat, tmp_path: Path) -> None:
    raw, disk = fake_disk.build(tmp_path), tmp_path / "own.toy"
    with mapping.open_source(raw, "raw") as source:
        writer_of(toy)(source, disk, unique_id=uuid.UUID(int=1), timestamp=0)
    assert mapping.detect(disk) == "toy"
    with mapping.open_source(disk) as found:
        assert found.size == fake_disk.SIZE
    with disk.open("r+b") as file:
        file.seek(fake_disk.SIZE)
        file.write(b"x")
    with pytest.raises(DiskError) as caught:
        mapping.detect(disk)
    assert caught.value.name == "toy-damaged"


def test_without_its_module_nothing_is_mistaken(toy: DiskFormat, tmp_path: Path) -> None:
    build = _Build(tmp_path, DEFINITION)
    converted = build.run(Convert())
    build.run(Inspect())
    build.prove_without_a_guest()
    build.run(Capture())
    disk_format.unregister(toy)
    try:
        # the layer is not used, the master is named as damaged, and the definition's fault is shown
        assert build.context.layers.get(converted.key) is None
        assert build.context.gallery.versions("web") == []
        (damaged,) = build.context.gallery.damaged("web")
        assert isinstance(damaged, RecordDamaged) and "not a format that this goldsmith ships" in str(damaged)
        with pytest.raises(DefinitionError) as caught:
            load(tmp_path / "project" / "images" / "web.yaml", tmp_path / "project")
        assert "one of vhd" in str(caught.value)
    finally:
        disk_format.register(toy)


def test_the_default_is_a_fixed_vhd_under_the_key_of_older_versions(tmp_path: Path) -> None:
    build = _Build(tmp_path, DEFINITION.replace("output: toy\n", ""))
    (unit,) = Convert().units(build.context)
    assert (unit.title, unit.inputs) == ("fixed VHD", {"subformat": "fixed"})
    assert build.context.definition.output == VHD
    (tmp_path / "said").mkdir()
    result = _Build(tmp_path / "said", DEFINITION.replace("toy", "vhd"))
    assert Convert().units(result.context)[0].inputs == unit.inputs


def test_two_formats_do_not_share_a_name(toy: DiskFormat) -> None:
    with pytest.raises(ValueError, match="vhd"):
        disk_format.register(DiskFormat("vhd", driver="raw", suffix=".other"))
    with pytest.raises(ValueError, match=r"\.toy"):
        disk_format.register(DiskFormat("another", driver="raw", suffix=".toy"))
    assert disk_format.register(toy) is toy


@pytest.mark.parametrize("row", disk_format.output_formats(), ids=lambda row: row.name)
def test_every_row_that_ships_names_functions_that_are_there(row: DiskFormat) -> None:
    assert callable(writer_of(row)) and callable(disk_format.load(row.verifier))
