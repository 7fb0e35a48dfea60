"""Disks that refer to something outside themselves are refused before anything opens them."""

from __future__ import annotations

import os
import struct
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk.disk_formats import chain, detect, refuse_foreign_references
from pipeline.vhd.footer import MIB, DiskType, Footer

SECRET = "/etc/passwd"


def qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def refused(path: Path, **options: object) -> str:
    with pytest.raises(DiskError) as caught:
        refuse_foreign_references(path, **options)  # type: ignore[arg-type]
    return caught.value.name


def footer(kind: DiskType, size: int = MIB) -> bytes:
    return Footer.build(size, disk_type=kind, unique_id=uuid.UUID(int=1), timestamp=946684800).pack()


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("qcow2", ()),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "extended_l2=on")),
        ("vmdk", ()),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vhdx", ()),
        ("vpc", ("-o", "subformat=dynamic")),
        ("vpc", ("-o", "subformat=fixed,force_size=on")),
        ("raw", ()),
    ],
)
def test_whole_disks_pass_with_their_format(tmp_path: Path, fmt: str, options: tuple[str, ...]) -> None:
    path = tmp_path / "disk.img"
    qemu_img("create", "-q", "-f", fmt, *options, path, "8M")
    assert refuse_foreign_references(path) == detect(path) == fmt


def test_qcow2_backing_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", SECRET, "-F", "raw", path, "8M")
    assert refused(path) == "qcow2-backing-file"
    assert refused(path, allow_backing_within=tmp_path) == "backing-outside"


@pytest.mark.parametrize("name", ['json:{"driver":"file"}', "nbd:localhost:1", "ssh://host/x"])
def test_qcow2_backing_protocols(tmp_path: Path, name: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "x" * len(name), "-F", "raw", path, "8M")
    path.write_bytes(path.read_bytes().replace(b"x" * len(name), name.encode(), 1))
    assert refused(path, allow_backing_within=tmp_path) == "qcow2-backing-file"


def test_qcow2_data_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data.raw'}", path, "8M")
    assert refused(path) == "qcow2-data-file"
    # without the name, too: the bit alone makes qemu look for one
    raw = bytearray(path.read_bytes())
    at = raw.index(struct.pack(">I", 0x44415441))
    raw[at : at + 4] = struct.pack(">I", 0x12345678)
    path.write_bytes(raw)
    assert refused(path) == "qcow2-data-file"


def test_own_chain_passes_only_inside_its_folder(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    base, middle, top = (store / name for name in ("base.raw", "middle.qcow2", "top.qcow2"))
    qemu_img("create", "-q", "-f", "raw", base, "8M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", middle)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top)
    assert [(link.path, link.fmt) for link in chain(top, allow_backing_within=store)] == [
        (top, "qcow2"),
        (middle, "qcow2"),
        (base, "raw"),
    ]
    assert refused(top) == "qcow2-backing-file"
    sneaky = store / "sneaky.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "../outside.qcow2", "-F", "qcow2", sneaky, "8M")
    assert refused(sneaky, allow_backing_within=store) == "backing-outside"
    (store / "link.qcow2").symlink_to(SECRET)
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "link.qcow2", "-F", "raw", sneaky, "8M")
    assert refused(sneaky, allow_backing_within=store) == "backing-outside"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "sneaky.qcow2", "-F", "qcow2", sneaky, "8M")
    assert refused(sneaky, allow_backing_within=store) == "backing-cycle"
    subprocess.run(["qemu-img", "rebase", "-q", "-u", "-b", "", str(sneaky)], check=True)
    assert refuse_foreign_references(sneaky) == "qcow2"


def test_backing_without_format(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "base.raw", "-F", "raw", path, "8M")
    raw = path.read_bytes().replace(struct.pack(">I", 0xE2792ACA), struct.pack(">I", 0x11111111), 1)
    path.write_bytes(raw)
    assert refused(path, allow_backing_within=tmp_path) == "backing-format"


def test_vmdk_foreign_extents(tmp_path: Path) -> None:
    flat = tmp_path / "flat.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", flat, "8M")
    assert refused(flat) == "vmdk-foreign-extent"
    text = tmp_path / "text.vmdk"
    text.write_text(f'\n# a comment\nversion=1\nCID=12345678\nRW 16 FLAT "{SECRET}" 0\n')
    assert refused(text) == "vmdk-foreign-extent"


def test_vmdk_sparse_with_a_descriptor_that_lies(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", path, "8M")
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"disk.vmdk"', b'"../a.vmdk"', 1))
    assert refused(path) == "vmdk-foreign-extent"
    path.write_bytes(good.replace(b"parentCID=ffffffff", b"parentCID=12345678", 1))
    assert refused(path) == "vmdk-parent"
    # no capacity: qemu then opens what the embedded descriptor names
    path.write_bytes(good[:12] + bytes(8) + good[20:])
    assert refused(path) == "vmdk-foreign-extent"


def test_vhd_differencing(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    kind = footer(DiskType.DIFFERENCING)
    path.write_bytes(kind + bytes(MIB) + kind)
    assert refused(path) == "vhd-differencing"
    # only the copy at the start says so
    path.write_bytes(kind + bytes(MIB) + footer(DiskType.DYNAMIC))
    assert refused(path) == "vhd-differencing"
    # a guest may write what it likes into sector 0 of its fixed disk
    path.write_bytes(kind + bytes(MIB - 512) + footer(DiskType.FIXED))
    assert refuse_foreign_references(path) == "vpc"


def test_fixed_vhd_is_not_raw_whatever_sector_0_says(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    path.write_bytes(b"QFI\xfb" + bytes(MIB - 4) + footer(DiskType.FIXED))
    assert refuse_foreign_references(path) == "vpc"
    torn = bytearray(footer(DiskType.FIXED))
    torn[300] = 1
    path.write_bytes(bytes(MIB) + torn)
    assert refused(path) == "vhd-checksum"


def test_vhdx_parent(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    qemu_img("create", "-q", "-f", "vhdx", path, "8M")
    raw = bytearray(path.read_bytes())
    at = raw.index(uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le)
    region = raw.index(b"metadata")
    (offset,) = struct.unpack_from("<I", raw, at + 16)
    raw[region + offset + 4] |= 2
    path.write_bytes(raw)
    assert refused(path) == "vhdx-parent"


def test_names(tmp_path: Path) -> None:
    for name in ('json:{"driver":"raw"}', "nbd:localhost"):
        (tmp_path / name).write_bytes(bytes(512))
        assert refused(tmp_path / name) == "disk-name"
    assert refused(Path("json:{}")) == "disk-name"
    assert refused(tmp_path / "nothing") == "disk-missing"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "disk-not-a-file"
    assert refused(tmp_path) == "disk-not-a-file"


def test_backing_vhd_must_be_whole_to_every_qemu(tmp_path: Path) -> None:
    base, top = tmp_path / "base.vhd", tmp_path / "top.qcow2"
    good = Footer.build(5 * MIB, disk_type=DiskType.FIXED, unique_id=uuid.UUID(int=1), timestamp=946684800)
    base.write_bytes(bytes(5 * MIB) + good.pack())
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "vpc", top)
    assert [link.fmt for link in chain(top, allow_backing_within=tmp_path)] == ["qcow2", "vpc"]
    base.write_bytes(bytes(5 * MIB) + replace(good, creator=b"wa\0\0").pack())
    assert refused(top, allow_backing_within=tmp_path) == "backing-format"
