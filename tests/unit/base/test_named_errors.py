"""Each of these ends in an error of its own, the source untouched, nothing under the final name.

A dirty hive, the last of the list, is in test_registry and test_listing.
"""

from __future__ import annotations

import hashlib
import random
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.cli.app import app
from pipeline.vhd.extents import ExtentSource, file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import EPOCH, MIB, checksum
from pipeline.vhd.write import write_differencing, write_dynamic

SIZE = 8 * MIB
WHEN = EPOCH + 1000


def raw(folder: Path) -> Path:
    path = folder / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(3 * MIB)
        file.write(random.randbytes(MIB))
    return path


def fixed(folder: Path, name: str = "fixed.vhd", number: int = 1) -> Path:
    path = folder / name
    write_fixed(file_extents(raw(folder)), path, unique_id=uuid.UUID(int=number), timestamp=WHEN)
    return path


def dynamic(folder: Path) -> Path:
    path = folder / "dynamic.vhd"
    write_dynamic(file_extents(raw(folder)), path, unique_id=uuid.UUID(int=2), timestamp=WHEN)
    return path


def child(folder: Path, parent: Path, name: str, number: int) -> Path:
    path = folder / name
    nothing = ExtentSource(SIZE, ())
    write_differencing(nothing, nothing, parent, path, unique_id=uuid.UUID(int=number), timestamp=WHEN)
    return path


def patch(path: Path, at: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at, 0 if at >= 0 else 2)
        file.write(data)
    return path


def torn_footer(folder: Path) -> Path:
    return patch(fixed(folder), -450, b"torn")


def wrong_parent(folder: Path) -> Path:
    path = child(folder, fixed(folder), "child.vhd", 3)
    fixed(folder, number=9)
    return path


def circular_chain(folder: Path) -> Path:
    """Two children that name each other, ids and checksums right."""
    first = child(folder, fixed(folder), "one.vhd", 3)
    two = child(folder, first, "two.vhd", 4)
    header = bytearray(first.read_bytes()[512:1536])
    header[40:56] = uuid.UUID(int=4).bytes
    header[56:60] = bytes(4)
    relative, absolute = (struct.unpack_from(">Q", header, 576 + 24 * each + 16)[0] for each in (0, 1))
    name = ".\\two.vhd".encode("utf-16-le")
    for each in (0, 1):
        struct.pack_into(">I", header, 576 + 24 * each + 8, len(name))
    header[36:40] = struct.pack(">I", checksum(bytes(header), 36))
    patch(first, 512, bytes(header))
    patch(first, relative, name)
    patch(first, absolute, name)
    return two


def entry_past_the_end(folder: Path) -> Path:
    return patch(dynamic(folder), 1536, struct.pack(">I", 0x00FFFFFF))


def too_large(folder: Path) -> Path:
    path = folder / "large.raw"
    with path.open("wb") as file:
        file.truncate(2041 << 30)
    return path


CASES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "vhd-checksum": (torn_footer, []),
    "vhd-wrong-parent": (wrong_parent, ["--any-time"]),
    "vhd-chain-cycle": (circular_chain, ["--any-time"]),
    "vhd-block-outside": (entry_past_the_end, []),
    "vhd-too-large": (too_large, ["--format", "raw"]),
}


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        data = file_extents(path)
        seen = hashlib.sha256(f"{data.size}".encode())
        for extent in data.extents:
            with path.open("rb") as file:
                file.seek(extent.start)
                seen.update(file.read(extent.length))
        found[path.name] = seen.hexdigest()
    return found


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
@pytest.mark.parametrize("name", CASES)
def test_named(tmp_path: Path, name: str, kind: str) -> None:
    make, options = CASES[name]
    source = make(tmp_path)
    before = digests(tmp_path)
    words = ["vhd", "convert", str(source), str(tmp_path / "out.vhd"), "--to", kind, *options]
    with pytest.raises(GoldsmithError) as caught:
        app(words, standalone_mode=False)
    assert caught.value.name == name and caught.value.exit_code == 2
    assert digests(tmp_path) == before


def test_a_torn_footer_of_a_dynamic_disk_is_recovered(tmp_path: Path) -> None:
    source, target = patch(dynamic(tmp_path), -450, b"torn"), tmp_path / "out.raw"
    before = digests(tmp_path)
    app(["vhd", "convert", str(source), str(target)], standalone_mode=False)
    assert target.read_bytes() == (tmp_path / "disk.raw").read_bytes()
    target.unlink()
    assert digests(tmp_path) == before


def test_a_full_disk_in_the_middle(tmp_path: Path) -> None:
    """By the command line itself; a limit on file sizes stands for the end of the space."""
    source = raw(tmp_path)
    script = (
        "import resource, signal, sys; from pipeline.__main__ import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))\n"
        "sys.argv = ['goldsmith', 'vhd', 'convert', *sys.argv[1:]]; main()\n"
    )
    patch(source, 20 * MIB, b"x" * MIB)
    before = digests(tmp_path)
    words = [sys.executable, "-c", script, str(source), str(tmp_path / "out.vhd"), "--format", "raw"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 3 and "no space" in done.stderr and "Traceback" not in done.stderr
    assert digests(tmp_path) == before
