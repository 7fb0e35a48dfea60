"""Registry hives: values of every type, and a dirty or damaged hive named before anything is believed."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import phony_hive
import pytest

from pipeline.command import find
from pipeline.errors import DiskError
from pipeline.offline.registry import Hive, read_header

TREE = {
    "Setup": {"SetupType": 2, "CmdLine": "oobe\\windeploy.exe", "": "default"},
    "ControlSet001": {
        "Services": {
            "storvsc": {"Start": 0, "Tag": 0x80000001, "Owners": ["wstorvsc.inf", "other.inf"]},
            **{f"service{number:03}": {"Start": 3} for number in range(700)},
        },
        "Control": {"Blob": bytes(range(256)), "Long": "x" * 3000},
    },
    "Empty": {},
}


def test_keys_and_values() -> None:
    hive = Hive(phony_hive.build(TREE))
    assert hive.keys() == ["ControlSet001", "Empty", "Setup"] and hive.keys("Empty") == []
    assert hive.values("setup") == {"SetupType": 2, "CmdLine": "oobe\\windeploy.exe", "": "default"}
    services = "ControlSet001\\Services"
    assert len(hive.keys(services) or ()) == 701
    assert hive.value(f"{services}\\STORVSC", "start") == 0
    assert hive.values(f"{services}\\storvsc") == TREE["ControlSet001"]["Services"]["storvsc"]  # type: ignore[index]
    control = hive.values("ControlSet001\\Control")
    assert control == {"Blob": bytes(range(256)), "Long": "x" * 3000}
    assert hive.keys("No\\such") is None and hive.values("No") is None and hive.value("Setup", "no") is None


def test_hivex_reads_the_same(tmp_path: Path) -> None:
    if not find("hivexget"):
        pytest.skip("hivexget is not installed")
    (tmp_path / "hive").write_bytes(phony_hive.build(TREE))
    words = ["hivexget", str(tmp_path / "hive"), "\\Setup", "CmdLine"]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip() == "oobe\\windeploy.exe"


def test_a_dirty_hive_is_an_error_of_its_own() -> None:
    data = bytearray(phony_hive.build(TREE))
    struct.pack_into("<I", data, 4, 7)
    dirty = phony_hive.seal(bytes(data))
    with pytest.raises(DiskError, match="sequences 7 and 1") as caught:
        Hive(dirty)
    assert caught.value.name == "hive-dirty"
    assert read_header(dirty).dirty and Hive(dirty, allow_dirty=True).value("Setup", "SetupType") == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"x" * 9000,
        lambda data: data[:5000],
        lambda data: data[:508] + b"\0\0\0\0" + data[512:],
        lambda data: phony_hive.seal(data[:36] + b"\xff\xff\xff\x7f" + data[40:]),
        lambda data: phony_hive.seal(data[:36] + b"\x20\0\0\0" + data[40:]),
        lambda data: phony_hive.seal(data[:20] + b"\x02\0\0\0" + data[24:]),
    ],
)
def test_damage_has_a_name(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DiskError) as caught:
        Hive(change(phony_hive.build(TREE)))
    assert caught.value.name == "hive-damaged"


def test_a_value_that_cannot_be_parsed_is_not_left_out() -> None:
    """regipy logs such a value and ends the list there, which would pass for a key without it."""
    data = phony_hive.build({"Setup": {"First": 1, "Second": 2}})
    broken = data.replace(b"vk\x06\0", b"xx\x06\0", 1)
    assert broken != data
    with pytest.raises(DiskError) as caught:
        Hive(broken).values("Setup")
    assert caught.value.name == "hive-damaged"
