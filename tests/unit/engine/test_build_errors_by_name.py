"""Each name of an error about a build, the gallery or the nightly refresh is raised by the code that does it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from pipeline.base import process
from pipeline.base.disk_format import VHD
from pipeline.base.errors import GoldsmithError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.project import find_project
from pipeline.base.runs import Run, Stopwatch, list_runs
from pipeline.base.store import Store
from pipeline.cache.layers import Image
from pipeline.checks.model import CheckResult
from pipeline.checks.run import prepare
from pipeline.cli.door import GuardedStream
from pipeline.context import BuildContext
from pipeline.definition import DataDisk
from pipeline.engine import runner
from pipeline.engine.plan import check_word
from pipeline.evidence import signing
from pipeline.evidence.version_diff import delta
from pipeline.gallery import Gallery
from pipeline.gallery.archive import _judge_members
from pipeline.gallery.export_import import export, import_version
from pipeline.gallery.retention import delete_version, promote
from pipeline.gallery.verdict import count
from pipeline.guest.secret_values import SecretValues
from pipeline.maintenance.retention import remove_master
from pipeline.nightly import refresh as night
from pipeline.prove import _judged, _trees
from pipeline.stages import acquire, inspect
from pipeline.stages import capture as capture_stage
from tests.unit.gallery.test_retention import capture

Patch = pytest.MonkeyPatch
Call = Callable[[Path, Patch], object]


# ---- the host ----------------------------------------------------------------------------------------------------


def write_to_a_full_device(*_: object) -> None:
    stream = GuardedStream(Path("/dev/full").open("wb", buffering=0), encoding="utf-8")  # noqa: SIM115  it ends here
    try:
        stream.write("a line\n")
        stream.flush()
    finally:
        stream.detach()


def without_memory(*_: object) -> None:
    raise describe_os_error(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "disk.raw"))


HOST: dict[str, Call] = {
    "command-timeout": lambda *_: process.run(["sleep", "600"], deadline=0.1),
    "no-project": lambda folder, _: find_project(folder),
    "out-of-memory": without_memory,
    "output-not-written": write_to_a_full_device,
}


# ---- stages ------------------------------------------------------------------------------------------------------


def differing_data_disk(*_: object) -> None:
    disk = DataDisk(0, 1 << 30)
    definition = SimpleNamespace(name="web", source=None, data_disks=[disk, DataDisk(0, 2 << 30)])
    BuildContext.data_disks.func(SimpleNamespace(definition=definition))  # type: ignore[attr-defined]


def without_its_disk(folder: Path, _patch: Patch) -> None:
    version = SimpleNamespace(disk=folder / "disk.vhd")
    acquire._master(version, None, None, None)  # type: ignore[arg-type]  it looks for the disk first


def vhd(folder: Path) -> Image:
    path = folder / "disk.vhd"
    path.write_bytes(bytes(2 << 20) + b"conectix".ljust(512, b"\0"))
    return Image(path, VHD)


def change_while_it_is_proven(folder: Path, _patch: Patch) -> None:
    master = vhd(folder)
    build: Any = SimpleNamespace(progress=lambda _text: None)
    before = _trees(build, master)
    with master.path.open("r+b") as file:
        file.write(b"changed")
    _judged(build, master, before, [])


#: Of a definition that names none.
NO_SECRETS = SecretValues(None, Path("/nonexistent"))  # type: ignore[arg-type]


def run_capture(folder: Path, trees: dict[str, str]) -> None:
    image = vhd(folder)
    store = SimpleNamespace(root=folder, host=SimpleNamespace(key=folder / "none"))
    context: Any = SimpleNamespace(
        progress=lambda _text: None,
        store=store,
        flat_digest=lambda _path, _tree: "0" * 64,
        made=[],
        definition=SimpleNamespace(name="web"),
        secrets=NO_SECRETS,
        mask_logs=lambda: None,
    )
    source: Any = SimpleNamespace(image=image, facts={"trees": trees})
    capture_stage._run(context, source, SimpleNamespace(path=folder))  # type: ignore[arg-type]


def refuse_what_nothing_looked_at(folder: Path, _patch: Patch) -> None:
    results = [CheckResult(name, "A title", "unchecked", "fail", "no reader", "Mend it") for name in ("a", "b")]
    raise inspect._refusal(results, count([each.to_json() for each in results]), folder / "inspect.log")


STAGES: dict[str, Call] = {
    "checks-unchecked": refuse_what_nothing_looked_at,
    "data-disk-differs": differing_data_disk,
    "master-changed": change_while_it_is_proven,
    "master-missing": without_its_disk,
    "master-not-inspected": lambda folder, _: run_capture(folder, {}),
    "stage-unknown": lambda *_: check_word(
        SimpleNamespace(steps=[], updates=None),
        "no-such-stage",  # type: ignore[arg-type]
    ),
    "unknown-check": lambda *_: prepare(None, {"no-such-check": "why"}),
}
STAGES_TOO: list[tuple[str, Call]] = [
    ("master-changed", lambda folder, _: run_capture(folder, {"disk.vhd": "0" * 64})),
]


# ---- the gallery -------------------------------------------------------------------------------------------------


def lose_what_was_captured(folder: Path, patch: Patch) -> None:
    patch.setattr(Gallery, "find", lambda _gallery, _name, _which: None)
    capture(Gallery(folder / "gallery"))


def import_what_was_deleted(folder: Path, _patch: Patch) -> None:
    gallery = Gallery(folder / "gallery")
    made = capture(gallery)
    export(made, folder / "exported")
    with gallery.hold("web") as image:
        delete_version(image, made, "test")
    import_version(gallery, folder / "exported")


def remove_golden(folder: Path, _patch: Patch) -> None:
    store = Store(folder / "store").ensure()
    gallery = Gallery(store.gallery)
    made = capture(gallery)
    gallery.promote(made)
    remove_master(store, "web", made.version, "test")


def promote_what_was_not_proven(folder: Path, _patch: Patch) -> None:
    gallery = Gallery(folder / "gallery")
    promote(gallery, capture(gallery, state="captured"), "golden")


def delta_of_two_disks(folder: Path, _patch: Patch) -> None:
    gallery = Gallery(folder / "gallery")
    old = capture(gallery)
    new = capture(gallery)
    new.manifest["data_disks"] = [{"lun": 0, "file": "data-0.vhd", "size": 512}]  # type: ignore[index]
    delta(old, new, folder / "delta.vhd", timestamp=0)


GALLERY: dict[str, Call] = {
    "archive-damaged": lambda *_: _judge_members("archive::web", '{"path": "/etc/passwd", "type": "-"}\n'),
    "capture-failed": lose_what_was_captured,
    "data-disks": delta_of_two_disks,
    "gate-shut": promote_what_was_not_proven,
    "signature-bad": lambda *_: signing.verified("{}", []),
    "version-gone": import_what_was_deleted,
    "version-protected": remove_golden,
}


# ---- the nightly refresh -----------------------------------------------------------------------------------------


def refresh_twice(folder: Path, _patch: Patch) -> None:
    store = Store(folder / "store").ensure()
    with FileLock(store.tmp / night.LOCK):
        night.refresh([], store, command="goldsmith refresh")


NIGHT: dict[str, Call] = {
    "refresh-locked": refresh_twice,
    "refresh-without-result": lambda folder, _: night.read_result(folder / "result.json"),
}


CASES = [*HOST.items(), *STAGES.items(), *STAGES_TOO, *GALLERY.items(), *NIGHT.items()]


@pytest.mark.parametrize(("name", "call"), CASES, ids=[name for name, _ in CASES])
def test_a_build_that_fails_has_the_name_of_its_failure(
    name: str, call: Call, tmp_path: Path, monkeypatch: Patch
) -> None:
    with pytest.raises(GoldsmithError) as caught:
        call(tmp_path, monkeypatch)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)


def test_a_bug_is_recorded_under_a_name_and_is_raised_as_it_is(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(runner, "write_page", lambda _context, _outcome: None)
    run = Run.start(tmp_path / "runs", "web", "goldsmith build web")
    context: Any = SimpleNamespace(
        run=run, stage="", watch=Stopwatch(), session=None, made=[], secrets=NO_SECRETS, mask_logs=lambda: None
    )
    with pytest.raises(ZeroDivisionError), runner._recorded(context):
        _ = 1 // 0
    (record,) = list_runs(tmp_path / "runs")
    assert record["error"]["name"] == "internal" and "report it" in record["error"]["hint"]
