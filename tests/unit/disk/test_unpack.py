"""--unpack: streams of every kind, holes kept, within bounds; nothing is left, and the process has no rights."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

import pipeline
from pipeline.base import scratch
from pipeline.base.errors import GoldsmithError
from pipeline.cli.app import app
from pipeline.disk import unpack
from pipeline.disk.unpack import packed_kind, unpacked
from pipeline.vhd.footer import MIB

SIZE = 8 * MIB
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lambda data: lzma.compress(data, preset=0),
    "gz": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "zst": zstandard.ZstdCompressor(level=1, write_checksum=True).compress,
    "lz4": lambda data: bytes(lz4.frame.compress(data, content_checksum=True)),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.randbytes(MIB // 4) + bytes(SIZE - MIB // 2) + random.randbytes(MIB // 4 - 5000) + bytes(5000)


def call(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


def fault(path: Path, **options: int) -> str:
    with pytest.raises(GoldsmithError) as caught, unpacked(path, **options):
        pass
    assert caught.value.hint
    return caught.value.name


@pytest.mark.parametrize("kind", PACKERS)
def test_bytes_and_holes(tmp_path: Path, data: bytes, kind: str) -> None:
    packed = tmp_path / f"disk.raw.{kind}"
    packed.write_bytes(PACKERS[kind](data))
    assert packed_kind(packed) == kind
    with unpacked(packed, tmp_path) as plain:
        assert plain.name == "disk.raw" and plain.read_bytes() == data
        assert plain.stat().st_blocks * 512 < 2 * MIB
    with pytest.raises(GoldsmithError) as caught:
        call("vhd", "convert", packed, tmp_path / "out.vhd")
    assert caught.value.name == "disk-packed" and "--unpack" in str(caught.value.hint)
    call("vhd", "convert", packed, tmp_path / "out.vhd", "--unpack")
    with (tmp_path / "out.vhd").open("rb") as file:
        assert file.read(SIZE) == data
    # half of it, a byte too many, a byte of another value: never a shorter disk
    whole = packed.read_bytes()
    for torn in (whole[: len(whole) // 2], whole[:-1], whole + b"garbage", whole[:40] + b"\xff" * 40 + whole[80:]):
        packed.write_bytes(torn)
        if kind == "lzma" and torn == whole[:-1]:
            continue  # its last byte holds nothing of the data
        assert fault(packed) == "packed-damaged", (kind, len(torn))
    assert {path.name for path in tmp_path.iterdir()} <= {packed.name, "out.vhd", "store", "tmp"}
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", ["xz", "gz", "bz2", "zst", "lz4"])
def test_several_members_one_after_the_other(tmp_path: Path, kind: str) -> None:
    packed = tmp_path / f"disk.{kind}"
    first, second = random.randbytes(3000), random.randbytes(5000)
    packed.write_bytes(PACKERS[kind](first) + PACKERS[kind](b"") + PACKERS[kind](second) + bytes(512))
    with unpacked(packed) as plain:
        assert plain.read_bytes() == first + second and plain.name == "disk"


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "bomb.gz"
    packed.write_bytes(gzip.compress(bytes(16 * MIB)) * 4)
    assert fault(packed, limit=50 * MIB) == "packed-too-large"
    with unpacked(packed, limit=64 * MIB) as plain:
        assert plain.stat().st_size == 64 * MIB and plain.stat().st_blocks < 2048
    # as on a host whose space is as good as used up
    packed.write_bytes(gzip.compress(b"x" * MIB))
    monkeypatch.setattr(unpack, "RESERVE", 1 << 62)
    assert fault(packed) == "no-space"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_window_that_takes_all_memory(tmp_path: Path) -> None:
    """A few bytes that ask for a dictionary of gigabytes."""
    packed = tmp_path / "disk.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    small = lzma.compress(b"x" * 1000, filters=filters)
    packed.write_bytes(small)
    assert fault(packed) == "packed-damaged"


def test_names_after_unpacking_promise_too(tmp_path: Path) -> None:
    packed = tmp_path / "disk.vhd.gz"
    packed.write_bytes(gzip.compress(bytes(MIB)))
    with pytest.raises(GoldsmithError) as caught:
        call("vhd", "convert", packed, tmp_path / "out.raw", "--unpack")
    assert caught.value.name == "vhd-no-footer"
    # packed twice: one layer is taken off, the other is named
    packed.write_bytes(gzip.compress(lzma.compress(bytes(MIB))))
    with pytest.raises(GoldsmithError) as caught:
        call("vhd", "convert", packed, tmp_path / "out.raw", "--unpack")
    assert caught.value.name == "disk-packed"


def test_inspect_unpacks_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.fakes import fake_disk

    folder = tmp_path / "made"
    folder.mkdir()
    packed = tmp_path / "disk.raw.zst"
    packed.write_bytes(zstandard.compress(fake_disk.build(folder).read_bytes(), 1))
    call("inspect", packed, "--unpack", "--list", "os")
    assert "debian" in capsys.readouterr().out.lower()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_not_packed_is_itself(tmp_path: Path) -> None:
    plain = tmp_path / "disk.raw"
    plain.write_bytes(bytes(MIB))
    with unpacked(plain) as same:
        assert same == plain
    assert scratch.PREFIX == ".goldsmith-"


#: A decompressor that was taken over: what it could do is what comes out of the file.
ATTACK = """
import json, mmap, os, socket, sys
from pipeline.disk import unpack_worker as worker
low_open, other, order = os.open, sys.argv[1], json.loads(sys.argv[2])

def can(what):
    try:
        what()
        return True
    except (OSError, MemoryError):
        return False

def connect():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))

class Attack:
    ended, rest = True, b""
    def feed(self, data):
        yield json.dumps({
            "source": data[:2] == b"\\x1f\\x8b",
            "file": can(lambda: low_open(other, os.O_RDONLY)),
            "folder": can(lambda: os.listdir("/")),
            "new file": can(lambda: low_open("/tmp/x", os.O_WRONLY | os.O_CREAT)),
            "network": can(connect),
            "process": can(lambda: os.fork() or os._exit(0)),
            "program": can(lambda: os.execv("/bin/true", ["true"])),
            "signal": can(lambda: os.kill(1, 0)),
            "executable memory": can(lambda: mmap.mmap(-1, 4096, prot=7)),
            "much memory": can(lambda: bytearray(400 << 20)),
            "root": os.getuid() == 0,
        }).encode()

worker._DECODERS["gz"] = Attack
print(worker._run(order), flush=True)
os._exit(0)
"""


def test_a_decompressor_that_was_taken_over_has_no_rights(tmp_path: Path) -> None:
    packed, out, secret = tmp_path / "x.gz", tmp_path / "x", tmp_path / "secret"
    packed.write_bytes(gzip.compress(b"x"))
    secret.write_text("x")
    order = {"kind": "gz", "source": str(packed), "target": str(out), "limit": MIB, "budget": MIB, "seconds": 300}
    done = subprocess.run(
        [sys.executable, "-c", ATTACK, secret, json.dumps(order)],
        env={**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.strip() == "done", done.stderr
    assert [what for what, could in json.loads(out.read_text()).items() if could] == ["source"]


def test_nothing_is_unpacked_where_it_cannot_be_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a host without libseccomp: the worker, which inherits only Python's path, cannot load it."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text(
        "import ctypes\n\n\nclass Without(ctypes.CDLL):\n    def __init__(self, name, *more, **words):\n"
        "        if name and 'libseccomp' in name:\n            raise OSError('no such library')\n"
        "        super().__init__(name, *more, **words)\n\n\n"
        "ctypes.CDLL = Without\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(bytes(MIB)))
    assert fault(packed) == "sandbox-unavailable"
    assert list((tmp_path / "tmp").iterdir()) == []
