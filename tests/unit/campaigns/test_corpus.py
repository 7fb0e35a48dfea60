"""The rules of `make campaign-corpus`, on the cases of strangers and on files made here; a tenth of them a turn."""

from __future__ import annotations

import gzip
import random
import subprocess
from pathlib import Path

import pytest

from tests.campaigns import corpus
from tests.cases import CASES
from tests.harness import tenth

#: Format and options of disks that qemu-img makes here, with data in them.
DISKS = {
    "fixed.vhd": ("vpc", "subformat=fixed,force_size=on"),
    "fixed-of-a-geometry.vhd": ("vpc", "subformat=fixed"),
    "dynamic.vhd": ("vpc", "subformat=dynamic"),
    "disk.qcow2": ("qcow2", "cluster_size=64k"),
    "small-clusters.qcow2": ("qcow2", "cluster_size=512"),
    "old.qcow2": ("qcow2", "compat=0.10"),
    "packed.qcow2": ("qcow2", "compression_type=zstd"),
    "disk.vhdx": ("vhdx", "subformat=dynamic"),
    "disk.vmdk": ("vmdk", "subformat=monolithicSparse"),
    "stream.vmdk": ("vmdk", "subformat=streamOptimized"),
    "disk.vdi": ("vdi", ""),
    "disk.qed": ("qed", ""),
    "disk.parallels": ("parallels", ""),
    "disk.raw": ("raw", ""),
}
STRANGERS = sorted(path.name for path in (CASES / "files").glob("*.*z*")) if CASES.is_dir() else []
ALL = [*DISKS, *STRANGERS, "disk.raw.gz", "text.img", "nothing.vhd"]


def made(folder: Path, name: str) -> Path:
    path = folder / name
    if name == "text.img":
        path.write_bytes(b"no disk\n" * 1000)
    elif name == "nothing.vhd":
        path.write_bytes(b"")
    elif name == "disk.raw.gz":
        path.write_bytes(gzip.compress(bytes(4 << 20)))
    else:
        fmt, options = DISKS[name]
        raw = folder / "source"
        with raw.open("wb") as file:
            for at in (0, 1 << 20, 9 << 20):
                file.seek(at)
                file.write(random.randbytes(70_000))
            file.truncate(12 << 20)
        packed = ["-c"] if name.startswith("packed") else []
        words = ["convert", "-f", "raw", "-O", fmt, *packed, *(["-o", options] if options else []), raw, path]
        subprocess.run(["qemu-img", *words], check=True)
        raw.unlink()
    return path


@pytest.mark.parametrize("name", tenth(ALL))
def test_rules(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    (tmp_path / "in").mkdir()
    (tmp_path / "unpacked").mkdir()
    if name in STRANGERS:
        (tmp_path / "in" / name).write_bytes((CASES / "files" / name).read_bytes())
    else:
        made(tmp_path / "in", name)
    seen = [(case, corpus.judged(path)) for case, path in corpus.cases(tmp_path / "in", tmp_path / "unpacked")]
    assert seen and [(case, verdict) for case, verdict in seen if verdict.broken] == []
    if DISKS.get(name, ("",))[0] in corpus.READ:
        assert seen[0][1].equal is True


def test_the_rules_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A goldsmith that takes a VDI for a raw disk, and one that loses a byte, are seen."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    vdi = made(tmp_path, "disk.vdi")
    verdict = corpus.Verdict({"info": "vhd-no-footer", "inspect": "0", "volumes": "0", "convert": "0"}, "raw")
    target = tmp_path / "out.raw"
    target.write_bytes(vdi.read_bytes())
    folder = tmp_path / "other"
    folder.mkdir()
    assert "taken for raw, qemu-img knows vdi" in list(corpus._broken(vdi, target, verdict, folder))
    qcow2 = made(tmp_path, "disk.qcow2")
    verdict = corpus.Verdict(dict.fromkeys(verdict.answer, "0") | {"info": "vhd-no-footer"}, "qcow2")
    assert list(corpus._broken(qcow2, target, verdict, folder)) == ["other bytes than qemu-img's"]
    verdict.answer["convert"] = "TRACEBACK"
    assert len(list(corpus._broken(qcow2, target, verdict, folder))) == 3
