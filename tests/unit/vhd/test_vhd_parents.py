"""A differencing VHD leads to no file outside its folder, whatever its locators say."""

from __future__ import annotations

import os
import random
import struct
import uuid
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.cli.app import app
from pipeline.vhd.chain import vhd_extents
from pipeline.vhd.extents import file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import MIB, checksum
from pipeline.vhd.write import write_differencing

WHEN = 1_700_000_000


def pair(folder: Path, place: str) -> tuple[Path, Path]:
    """A parent at `place` below `folder`, and an empty child of it in folder/here."""
    (folder / "here").mkdir()
    raw, parent, child = folder / "parent.raw", folder / place, folder / "here" / "child.vhd"
    raw.write_bytes(random.randbytes(MIB))
    parent.parent.mkdir(exist_ok=True, parents=True)
    write_fixed(file_extents(raw), parent, unique_id=uuid.UUID(int=1), timestamp=WHEN)
    source = file_extents(parent, MIB)
    write_differencing(source, source, parent, child, unique_id=uuid.UUID(int=2), timestamp=WHEN)
    return parent, child


def rename(child: Path, locators: list[tuple[bytes, str]], parent_name: str = "") -> None:
    """Write other locators and another parent's name into a child, its checksum right."""
    data = bytearray(child.read_bytes())
    header = bytearray(data[512:1536])
    header[64:576] = parent_name.encode("utf-16-be").ljust(512, b"\0")
    for number in range(8):
        header[576 + 24 * number : 600 + 24 * number] = bytes(24)
    at = len(data) - 512
    for number, (code, text) in enumerate(locators):
        raw = text.encode("utf-16-le", "surrogatepass")
        room = raw.ljust(-(-len(raw) // 512) * 512 or 512, b"\0")
        struct.pack_into(">4sIIIQ", header, 576 + 24 * number, code, len(room), len(raw), 0, at)
        data[at:at] = room
        at += len(room)
    header[36:40] = struct.pack(">I", checksum(bytes(header), 36))
    data[512:1536] = header
    child.write_bytes(data)


def fault(child: Path) -> GoldsmithError:
    with pytest.raises(GoldsmithError) as caught:
        vhd_extents(child)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "..\\parent.vhd",
        ".\\..\\parent.vhd",
        "below\\..\\..\\parent.vhd",
        "../parent.vhd",
        "..\\here\\..\\parent.vhd",
        "...\\..\\..\\parent.vhd",
    ],
)
def test_no_way_up(tmp_path: Path, name: str) -> None:
    parent, child = pair(tmp_path, "parent.vhd")
    rename(child, [(b"W2ru", name)])
    error = fault(child)
    assert error.name == "vhd-parent-outside" and "--parent" in str(error.hint)
    out = tmp_path / "out.raw"
    app(["vhd", "apply", str(child), str(out), "--parent", str(parent)], standalone_mode=False)
    assert out.read_bytes() == parent.read_bytes()[:MIB]


def test_the_folder_and_below(tmp_path: Path) -> None:
    parent, child = pair(tmp_path, "here/below/parent.vhd")
    for name in (".\\below\\parent.vhd", "below\\parent.vhd", "below/../below/parent.vhd"):
        rename(child, [(b"W2ru", name)])
        assert vhd_extents(child).extents[0].path == parent
    # without the folder the name alone is looked for beside the child
    rename(child, [(b"W2ru", ".\\parent.vhd")])
    assert fault(child).name == "vhd-parent-missing"


def test_a_link_that_leads_out(tmp_path: Path) -> None:
    parent, child = pair(tmp_path, "secret/parent.vhd")
    (child.parent / "link.vhd").symlink_to(parent)
    (child.parent / "folder").symlink_to(parent.parent)
    for name in ("link.vhd", "folder\\parent.vhd"):
        rename(child, [(b"W2ru", name)])
        assert fault(child).name == "vhd-parent-outside"


@pytest.mark.parametrize(
    "name",
    [
        "/{parent}",
        "C:\\vms\\nothing.vhd",
        "C:nothing.vhd",
        "\\\\server\\share\\nothing.vhd",
        "\\\\.\\PhysicalDrive0",
        "\\\\?\\C:\\nothing.vhd",
        "\\\\.\\pipe\\nothing",
        "\\nothing.vhd",
        "..",
        ".",
        "",
        "\0",
        "a\ud800.vhd",
        "x" * 4000,
        "\x1b[2J\n.vhd",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("code", [b"W2ru", b"W2ku"])
def test_paths_of_other_machines_open_nothing(tmp_path: Path, name: str, code: bytes) -> None:
    parent, child = pair(tmp_path, "parent.vhd")
    rename(child, [(code, name.replace("{parent}", str(parent)))], "..\\..\\etc\\passwd")
    error = fault(child)
    assert error.name in ("vhd-parent-outside", "vhd-parent-missing", "vhd-locator") and error.hint
    assert error.message.isprintable()


def test_an_absolute_path_counts_by_its_last_part(tmp_path: Path) -> None:
    parent, child = pair(tmp_path, "here/parent.vhd")
    for name in ("C:\\vms\\parent.vhd", "\\\\server\\share\\parent.vhd", "C:parent.vhd"):
        rename(child, [(b"W2ku", name)])
        assert vhd_extents(child).extents[0].path == parent
    rename(child, [], "D:\\x\\parent.vhd")
    assert vhd_extents(child).extents[0].path == parent


def test_a_parent_that_is_no_file(tmp_path: Path) -> None:
    _, child = pair(tmp_path, "parent.vhd")
    os.mkfifo(child.parent / "pipe.vhd")
    rename(child, [(b"W2ru", "pipe.vhd")])
    assert fault(child).name == "vhd-parent-missing"
