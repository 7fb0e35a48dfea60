"""Every check of a Windows disk finds its defect, on fixed and dynamic VHDs; another reader sees what it sees."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dissect.ntfs import NTFS
from dissect.regf import RegistryHive

from pipeline.base.disk_format import VHD
from pipeline.cache.layers import Image
from pipeline.checks import inspect_disk, run, run_checks
from pipeline.checks.model import REGISTRY
from pipeline.disk import open_disk
from pipeline.disk.registry import Hive
from pipeline.disk.windows import HIVES
from pipeline.evidence.checksum import Contents
from pipeline.evidence.sbom import bill
from pipeline.systems.questions import list_disk
from pipeline.vhd.chain import vhd_extents
from pipeline.vhd.write import write_dynamic
from tests.fakes import fake_windows_disk
from tests.fakes.fake_windows_disk import NTFS_AT, PORT, PORT_NAME, PORT_RULE, Model
from tests.fakes.seeded_windows_defects import DEFECTS, GOOD
from tests.harness import tenth

PROFILE = "azure-windows"
#: What a dynamic VHD is told in any case: Azure takes none.
DYNAMIC = {"vhd-footer", "vhd-size"}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    fake_windows_disk.need_tools()


def disks(model: Model, folder: Path) -> dict[str, Path]:
    fixed = fake_windows_disk.as_vhd(fake_windows_disk.build(model, folder), folder / "fixed.vhd")
    dynamic = folder / "dynamic.vhd"
    with vhd_extents(fixed) as source:
        write_dynamic(source, dynamic, unique_id=uuid.UUID(int=9), timestamp=1_700_000_000)
    return {"fixed": fixed, "dynamic": dynamic}


def findings(disk: Path, **options: Any) -> dict[str, str]:
    with open_disk(disk) as opened:
        results = run_checks(opened, profile=PROFILE, **{"ports": [PORT], **options})
    assert all(result.status in ("pass", "warn", "fail") for result in results), [
        (result.id, result.evidence) for result in results if result.status == "skip"
    ]
    return {result.id: result.evidence for result in results if result.status != "pass"}


def test_the_good_disk_has_no_finding(tmp_path: Path) -> None:
    made = disks(Model(), tmp_path)
    assert findings(made["fixed"]) == {}
    assert set(findings(made["dynamic"])) == DYNAMIC
    # the same through the child that has no rights
    results = inspect_disk(made["fixed"], profile=PROFILE, ports=[PORT])
    assert {result.status for result in results} == {"pass"}
    assert len([result for result in results if result.id.startswith("win-")]) >= 25


@pytest.mark.parametrize("name", tenth(DEFECTS))
def test_a_defect_is_named(name: str, tmp_path: Path) -> None:
    want, change = DEFECTS[name]
    model = Model()
    change(model)
    made = disks(model, tmp_path)
    found = findings(made["fixed"])
    assert list(found) == [want], found
    assert set(findings(made["dynamic"])) == {want} | DYNAMIC


@pytest.mark.parametrize("name", tenth(GOOD))
def test_other_good_disks(name: str, tmp_path: Path) -> None:
    model = Model()
    GOOD[name](model)
    assert findings(disks(model, tmp_path)["fixed"]) == {}


@pytest.mark.parametrize(
    ("log", "status", "evidence"),
    [
        # real lines, by the report of first contact
        ("SYSPRP SysprepSession::CreateSession: ... and mode <null>", "pass", "setupact.log: mode <null>"),
        ("SYSPRP SysprepSession::CreateSession: ... and mode VM", "fail", "setupact.log: mode VM"),
        ("SYSPRP ParseCommands:Found supported command line option 'OOBE'", "unchecked", "could not be run: "),
        ("", "unchecked", "could not be run: "),
        (None, "unchecked", "could not be run: "),
    ],
)
def test_the_mode_of_sysprep(log: str | None, status: str, evidence: str) -> None:
    read = SimpleNamespace(read=lambda _path, _limit: None if log is None else f"Info {log}\r\n".encode())
    subject = SimpleNamespace(
        windows=SimpleNamespace(root=read, stale={}), notes=[], note=lambda text: subject.notes.append(text)
    )
    result = run._run(REGISTRY["win-mode-vm"], subject, None)  # type: ignore[arg-type]  # a likeness
    assert (result.status, result.evidence[: len(evidence)]) == (status, evidence)


def test_declared_accounts(tmp_path: Path) -> None:
    model = Model()
    DEFECTS["the profile of the build's user"][1](model)
    DEFECTS["an account of the build's"][1](model)
    disk = disks(model, tmp_path)["fixed"]
    assert set(findings(disk)) == {"win-users", "win-guest-account"}
    assert findings(disk, accounts=["packer"]) == {}


def test_declared_ports(tmp_path: Path) -> None:
    """Without a definition a rule of ours is held to its own name; with one, to what it declares."""
    model = Model()
    disk = disks(model, tmp_path / "one")["fixed"]
    assert findings(disk, ports=None) == {}
    assert findings(disk, ports=[]) == {
        "win-ports": f"ControlSet001: {PORT_NAME} exists, but is not declared; "
        f"ControlSet002: {PORT_NAME} exists, but is not declared"
    }
    by_id = {result.id: result for result in inspect_disk(disk, profile=PROFILE, ports=[PORT, ("udp", 53)])}
    assert (
        by_id["win-ports"].evidence
        == "ControlSet001: no rule goldsmith-udp-53; ControlSet002: no rule goldsmith-udp-53"
    )
    for control in (1, 2):
        rules = model.control(control)["Services"]["SharedAccess"]["Parameters"]["FirewallPolicy"]["FirewallRules"]
        rules[PORT_NAME] = PORT_RULE.replace("TRUE", "FALSE")
    evidence = findings(disks(model, tmp_path / "two")["fixed"], ports=None)["win-ports"]
    assert evidence.startswith(
        f"ControlSet001: {PORT_NAME} differs from the rule that goldsmith made: Active=FALSE, Active=TRUE"
    )


def test_what_is_installed(tmp_path: Path) -> None:
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(Model(), tmp_path), tmp_path / "disk.vhd")
    assert list_disk(disk, what="packages") == [
        ["QEMU guest agent", "107.0.1", "amd64"],
        ["KB5034439", "20348.2201.1.0", "amd64"],
    ]
    contents = Contents.of(Image(disk, VHD))
    assert contents is not None and contents.system["VERSION_ID"] == "20348.2201"
    text = bill("w", "1", created="2026-11-22T00:00:00+00:00", sha256=None, tree="0" * 64, system=contents.system,
                packages=contents.packages)  # fmt: skip
    by_id = json.loads(text)
    assert [part["purl"] for part in by_id["components"]] == [
        "pkg:generic/KB5034439@20348.2201.1.0?arch=amd64",
        "pkg:generic/QEMU%20guest%20agent@107.0.1?arch=amd64",
    ]
    assert by_id["metadata"]["component"]["description"].startswith("NOT WINDOWS")


# ---- a second reader ---------------------------------------------------------------------------------------------


def by_id(hive: Hive, path: str = "") -> Iterator[tuple[str, str, object]]:
    for name, value in (hive.values(path) or {}).items():
        yield path, name, value
    for key in hive.keys(path) or []:
        yield from by_id(hive, f"{path}\\{key}".lstrip("\\"))


def read_by_dissect(key: Any, path: str = "") -> Iterator[tuple[str, str, object]]:
    for value in key.values():
        yield path, "" if value.name == "(Default)" else value.name, value.value
    for below in key.subkeys():
        yield from read_by_dissect(below, f"{path}\\{below.name}".lstrip("\\"))


def test_a_second_reader_agrees_on_every_value(tmp_path: Path) -> None:
    model = Model()
    disk = disks(model, tmp_path)["fixed"]
    count = 0
    with open_disk(disk) as opened, disk.open("rb") as file:
        volume = NTFS(_Window(file, NTFS_AT))
        for name in HIVES:
            data = volume.mft.get(f"Windows/System32/config/{name}").open().read()
            assert data == opened.windows.read(f"/Windows/System32/config/{name}", 256 << 20)
            mine = sorted(by_id(Hive(data)), key=repr)
            other = sorted(read_by_dissect(RegistryHive(io.BytesIO(data)).root()), key=repr)
            assert mine == other
            count += len(mine)
    assert count > 200


class _Window:
    """A file from `start` on, as the other reader wants a volume."""

    def __init__(self, file: Any, start: int) -> None:
        self._file, self._start = file, start
        file.seek(start)

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence in (0, 1)
        return int(self._file.seek(offset + self._start if whence == 0 else offset, whence)) - self._start

    def tell(self) -> int:
        return int(self._file.tell()) - self._start

    def read(self, size: int = -1) -> bytes:
        return bytes(self._file.read(size))
