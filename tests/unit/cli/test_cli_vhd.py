"""goldsmith vhd: what each verb does, and that nothing half-written stays."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed, DiskError, GoldsmithError, UsageError
from pipeline.cli import vhd
from pipeline.vhd.footer import MIB, verify_fixed
from tests.fakes import fake_disk

app = typer.Typer()
vhd.register(app)
SIZE = 20 * MIB


def call(*words: object) -> str:
    result = CliRunner().invoke(app, ["vhd", *map(str, words)])
    if result.exception:
        raise result.exception
    return result.stdout


def run_json(*words: object) -> Any:
    return json.loads(call(*words, "--json"))


def fault(*words: object) -> GoldsmithError:
    with pytest.raises(GoldsmithError) as caught:
        call(*words)
    return caught.value


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for at, data in {0: b"first", 5 * MIB: random.randbytes(MIB), SIZE - 1: b"z"}.items():
            file.seek(at)
            file.write(data)
    return path


@pytest.mark.parametrize("kind", ["fixed", "dynamic", "qcow2", "vhdx", "vmdk", "raw"])
def test_convert_there_and_back(raw: Path, tmp_path: Path, kind: str) -> None:
    there, back = tmp_path / "there", tmp_path / "back.raw"
    assert run_json("convert", raw, there, "--to", kind)["size"] == SIZE
    call("convert", there, back, *(["--format", "raw"] if kind == "raw" else []))
    assert back.read_bytes() == raw.read_bytes()
    assert run_json("compare", raw, there)["same"]
    assert {path.name for path in tmp_path.iterdir()} == {"disk.raw", "there", "back.raw"}


def test_info_and_verify(raw: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.vhd"
    call("convert", raw, disk)
    seen = run_json("info", disk)
    assert (seen["type"], seen["size"], seen["creator"], seen["saved_state"]) == ("fixed", SIZE, "qem2", 0)
    assert "right" in call("verify", disk)
    with disk.open("r+b") as file:
        file.truncate(SIZE + 100)
    error = fault("verify", disk)
    assert isinstance(error, CheckFailed) and error.exit_code == 1
    assert isinstance(fault("info", raw), DiskError)


@pytest.mark.slow
def test_diff_apply_merge(raw: Path, tmp_path: Path) -> None:
    old, new, child = tmp_path / "old.vhd", tmp_path / "new.raw", tmp_path / "child.vhd"
    call("convert", raw, old)
    shutil.copy(raw, new)
    with new.open("r+b") as file:
        file.seek(7 * MIB)
        file.write(b"new")
    listed = run_json("diff", old, new, "--format", "raw")
    assert listed["blocks"] == [{"start": 7 * MIB, "length": 512}] and listed["bytes"] == 512
    call("diff", old, new, child)
    assert child.stat().st_size < 3 * MIB and run_json("info", child)["type"] == "differencing"
    for verb in ("apply", "merge"):
        whole = tmp_path / f"{verb}.raw"
        call(verb, child, whole)
        assert whole.read_bytes() == new.read_bytes()
    assert fault("compare", old, child).name == "disks-differ"
    # a fixed VHD comes back with its footer: its sha256 is that of the new one, not only its content
    fixed, again = tmp_path / "new.vhd", tmp_path / "again.vhd"
    call("convert", new, fixed)
    call("diff", old, fixed, child, "--force")
    time.sleep(1.1)
    call("apply", child, again, "--to", "fixed")
    assert again.read_bytes() == fixed.read_bytes()
    call("create", tmp_path / "empty-child.vhd", "--parent", old)
    assert run_json("compare", tmp_path / "empty-child.vhd", old)["same"]


def test_create_and_refusals(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vhd"
    assert run_json("create", disk, "--size", "30 MiB")["size"] == 30 * MIB == verify_fixed(disk).current_size
    assert fault("create", disk, "--size", "30 MiB").name == "target-exists"
    call("create", disk, "--size", "31 MiB", "--to", "dynamic", "--force")
    subprocess.run(["qemu-img", "info", "-f", "vpc", str(disk)], check=True, capture_output=True)
    assert fault("create", tmp_path / "x.vhd", "--size", "2041 GiB").name == "vhd-too-large"
    assert fault("create", tmp_path / "x.vhd", "--size", "100B").name == "vhd-not-whole-mib"
    assert fault("create", tmp_path / "x.vhd", "--size", "100").name == "bad-size"
    assert isinstance(fault("create", tmp_path / "x.vhd", "--size", "many"), UsageError)
    assert fault("convert", disk, tmp_path / "x.iso").name == "unknown-kind"
    assert [path.name for path in tmp_path.iterdir()] == ["disk.vhd"]


@pytest.mark.parametrize("kind", ["fixed", "dynamic", "raw"])
def test_a_full_disk_in_the_middle(raw: Path, tmp_path: Path, kind: str) -> None:
    """A limit on file sizes stands for a full disk: the write fails in the same place."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from pipeline.disk import transfer\n"
        "from pipeline.base.errors import HostError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "source, target, kind = sys.argv[1:]\n"
        "try:\n    transfer.convert(transfer.open_source(Path(source)), Path(target), kind, timestamp=946684800)\n"
        "except HostError as error:\n    print(error.name)\n"
    )
    words = [sys.executable, "-c", script, str(raw), str(tmp_path / "out.vhd"), kind]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "no-space"
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]


def test_resize_grows_and_says_what_to_do(tmp_path: Path) -> None:
    disk = fake_disk.as_vhd(fake_disk.build(tmp_path), tmp_path / "disk.vhd")
    before = verify_fixed(disk)
    out = run_json("resize", disk, "96 MiB")
    after = verify_fixed(disk)
    assert after.current_size == 96 * MIB and after.unique_id == before.unique_id
    assert any("resize2fs" in line for line in out["inside"]) and any("--move-gpt" in line for line in out["inside"])
    assert fault("resize", disk, "64 MiB").name == "vhd-shrink"
    assert verify_fixed(disk) == after
