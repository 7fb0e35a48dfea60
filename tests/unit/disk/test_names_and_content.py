"""What a name promises and what the bytes are agree, or every verb refuses the disk, unless --format says which."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.cli.app import app
from pipeline.disk.disk_formats import detect
from pipeline.vhd.extents import file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import MIB, DiskType, Footer
from tests.cases import unpacked
from tests.fakes import fake_disk

SIZE = 8 * MIB


def call(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


def fault(*words: object) -> GoldsmithError:
    with pytest.raises(GoldsmithError) as caught:
        call(*words)
    assert caught.value.exit_code == 2 and caught.value.hint, caught.value
    return caught.value


def raw(folder: Path, name: str = "disk.raw") -> Path:
    path = folder / name
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(3 * MIB)
        file.write(random.randbytes(MIB))
        file.seek(SIZE - 4096)
        file.write(random.randbytes(4096))
    return path


def vhd(folder: Path, name: str = "disk.vhd") -> Path:
    path = folder / name
    write_fixed(file_extents(raw(folder)), path, unique_id=uuid.UUID(int=1), timestamp=1_700_000_000)
    return path


def changed(length: int, at: int = 0, data: bytes = b"") -> Callable[[Path], None]:
    """Give a file another length, `at` bytes of data at its end."""

    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(length)
            if data:
                file.seek(at)
                file.write(data)

    return change


def footer_again(length: int) -> Callable[[Path], None]:
    """Cut or grow the data, and put the footer at the end again."""

    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(-512, 2)
            footer = file.read()
            file.truncate(length)
            file.seek(length)
            file.write(footer)

    return change


TORN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no footer": (changed(SIZE), "vhd-no-footer"),
    "512 bytes short": (changed(SIZE), "vhd-no-footer"),
    "1512 bytes short": (changed(SIZE - 1000), "vhd-no-footer"),
    "one byte short of a footer": (changed(SIZE + 510), "vhd-no-footer"),
    "three quarters": (changed(SIZE * 3 // 4), "vhd-no-footer"),
    "one sector": (changed(512), "vhd-no-footer"),
    "the cookie is nothing": (changed(SIZE + 512, SIZE, bytes(8)), "vhd-no-footer"),
    "padded to 4 KiB": (changed(SIZE + 4096), "vhd-padded"),
    "padded to a MiB": (changed(SIZE + MIB), "vhd-padded"),
    "padded by odd bytes": (changed(SIZE + 700), "vhd-padded"),
    "far behind it": (changed(SIZE * 8), "vhd-no-footer"),
    "empty": (changed(0), "disk-empty"),
    "cut, its footer put back": (footer_again(SIZE - MIB), "vhd-file-size"),
    "cut by a sector, its footer put back": (footer_again(SIZE - 512), "vhd-file-size"),
    "grown before its footer": (footer_again(SIZE + MIB), "vhd-file-size"),
}


INSPECTED = ("no footer", "1512 bytes short", "padded to a MiB", "empty")


@pytest.mark.parametrize("what", TORN)
def test_torn_vhds_are_converted_by_no_verb(tmp_path: Path, what: str) -> None:
    change, name = TORN[what]
    disk, good = vhd(tmp_path), vhd(tmp_path, "good.vhd")
    change(disk)
    out = tmp_path / "out.vhd"
    assert fault("vhd", "convert", disk, out).name == name
    assert fault("vhd", "compare", disk, good).name == name
    assert fault("vhd", "diff", good, disk, out).name == name
    if what in INSPECTED:
        # each inspection starts a process
        assert fault("inspect", disk).name == name
    if name != "vhd-file-size":
        assert fault("vhd", "info", disk).exit_code == 2
    assert fault("vhd", "resize", disk, "64 MiB").exit_code == 2
    assert not out.exists()


def test_padding_is_found_without_a_name(tmp_path: Path) -> None:
    """By the footer near the end, or behind the end that a GPT names."""
    disk = vhd(tmp_path, "disk.img")
    changed(SIZE + 4096)(disk)
    assert fault("vhd", "convert", disk, tmp_path / "out.raw").name == "vhd-padded"
    far = fake_disk.as_vhd(fake_disk.build(tmp_path), tmp_path / "far")
    os.truncate(far, far.stat().st_size + 64 * MIB)
    found = fault("vhd", "convert", far, tmp_path / "out.raw")
    assert found.name == "vhd-padded"
    # the hint is right
    assert found.hint is not None
    os.truncate(far, int(found.hint.split("truncate -s ")[1].split()[0]))
    call("vhd", "convert", far, tmp_path / "out.raw")


def made(folder: Path, fmt: str, name: str) -> Path:
    path = folder / name
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, "8M"], check=True)
    return path


@pytest.mark.parametrize(
    ("fmt", "name"),
    [
        ("vhdx", "a.vhd"),
        ("qcow2", "a.vhd"),
        ("vmdk", "a.vhd"),
        ("vpc", "a.vhdx"),
        ("qcow2", "a.raw"),
        ("qcow2", "a.dd"),
        ("vpc", "a.raw"),
        ("vpc", "a.qcow2"),
        ("vhdx", "a.vmdk"),
        ("raw", "a.qcow2"),
        ("raw", "a.VHDX"),
        ("raw", "a.vmdk"),
        ("raw", "a.vdi"),
        ("raw", "a.dmg"),
        ("raw", "a.xz"),
        ("raw", "a.iso"),
        ("qcow2", "a.vdi"),
    ],
)
def test_a_name_that_denies_the_content(tmp_path: Path, fmt: str, name: str) -> None:
    disk = made(tmp_path, fmt, name)
    out = tmp_path / "out.vhd"
    inspection = [("inspect", disk, "--list", "volumes")] if name in ("a.vhd", "a.VHDX") else []
    for words in (("vhd", "convert", disk, out), *inspection):
        error = fault(*words)
        assert error.name == "disk-name-and-content" and f"--format {fmt}" in str(error.hint), error
    call("vhd", "convert", disk, out, "--format", fmt)
    if fmt == "vpc":
        call("vhd", "convert", disk, out, "--format", "vhd", "--force")


@pytest.mark.parametrize("fmt", ["raw", "qcow2", "vpc", "vhdx", "vmdk"])
@pytest.mark.parametrize("name", ["a.img", "a.bin", "a", "a.disk.1"])
def test_names_that_promise_nothing(tmp_path: Path, fmt: str, name: str) -> None:
    disk = made(tmp_path, fmt, name)
    assert detect(disk) == fmt
    call("vhd", "convert", disk, tmp_path / "out.vhd")


def test_a_dynamic_vhd_without_its_last_footer_is_read_by_the_copy(tmp_path: Path) -> None:
    call("vhd", "convert", raw(tmp_path), tmp_path / "d.vhd", "--to", "dynamic")
    disk = tmp_path / "d.vhd"
    os.truncate(disk, disk.stat().st_size - 512)
    call("vhd", "convert", disk, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == (tmp_path / "disk.raw").read_bytes()
    os.truncate(disk, disk.stat().st_size - MIB)
    assert fault("vhd", "convert", disk, tmp_path / "o.raw").name == "vhd-block-outside"


def test_files_that_are_no_disks(tmp_path: Path) -> None:
    assert fault("vhd", "convert", "/etc/passwd", tmp_path / "o.vhd").name in ("disk-size", "disk-format")
    (tmp_path / "text").write_text("x" * 1000)
    assert fault("inspect", tmp_path / "text").name == "disk-size"
    call("vhd", "convert", tmp_path / "text", tmp_path / "o.vhd", "--format", "raw")
    assert fault("vhd", "convert", tmp_path / "text", tmp_path / "x.vhd", "--format", "vdi").name == "unknown-format"


@pytest.mark.slow
def test_files_shorter_than_a_footer(tmp_path: Path) -> None:
    """Every length of a file that begins with a VHD's cookie: a named error, never a traceback."""
    footer = Footer.build(MIB, disk_type=DiskType.DYNAMIC, unique_id=uuid.UUID(int=1), timestamp=946684800).pack()
    disk = tmp_path / "tiny.vhd"
    for length in (8, 16, 63, 64, 510, 511, 512, 513, 1024, 1536):
        disk.write_bytes((footer * 3)[:length])
        for words in (("inspect", disk), ("vhd", "info", disk), ("vhd", "convert", disk, tmp_path / "o.raw")):
            assert fault(*words).name.startswith(("vhd-", "disk-")), (length, words)
    disk.write_bytes(footer[:16])
    assert fault("inspect", disk).name == "vhd-truncated"


@pytest.mark.parametrize("fmt", ["qcow2", "vpc", "vhdx", "vmdk"])
def test_containers_of_every_length(tmp_path: Path, fmt: str) -> None:
    whole = made(tmp_path, fmt, "whole").read_bytes()
    disk = tmp_path / "cut"
    lengths = sorted({4, 50, 75, 103, *(1 << bit for bit in (9, 12, 17, 20)), len(whole) - 1})
    for length in (each for each in lengths if each < len(whole)):
        disk.write_bytes(whole[:length])
        try:
            detect(disk)
            call("vhd", "convert", disk, tmp_path / "o.raw", "--force")
        except GoldsmithError as error:
            assert error.exit_code == 2, (length, error)


def test_info_of_a_good_and_a_bad_one(tmp_path: Path) -> None:
    """The good one's facts, and the bad one's fault with its name; no hint at a copy that is bad too."""
    good, bad = vhd(tmp_path, "good.vhd"), unpacked("files/image.vhd.xz", tmp_path)
    words = [sys.executable, "-m", "pipeline", "vhd", "info", str(good), str(bad)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 2
    assert f"size              {SIZE}" in done.stdout and "good.vhd" in done.stdout
    assert "image.vhd: " in done.stderr and "copy at its start" not in done.stderr and "hint" in done.stderr
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 2 and '"fault": "vhd-' in done.stdout and f'"size": {SIZE}' in done.stdout


def test_cases_of_containers(tmp_path: Path) -> None:
    for name, kind in (
        ("simple-dmg.dmg.bz2", "disk-format"),
        ("empty.bochs.bz2", "disk-format"),
        ("iotest-dirtylog-10G-4M.vhdx.bz2", "vhdx-log"),
        ("image.qcow.xz", "qcow2-version"),
        ("tiny.vhd", "vhd-truncated"),
    ):
        disk = unpacked(f"files/{name}", tmp_path)
        for words in (("vhd", "convert", disk, tmp_path / "o.raw"), ("inspect", disk)):
            error = fault(*words)
            assert error.name == kind, error
            assert disk.name in error.message
    assert "qemu-img check -r all" in str(fault("inspect", tmp_path / "iotest-dirtylog-10G-4M.vhdx").hint)


def test_the_hint_for_a_log_is_right(tmp_path: Path) -> None:
    disk = unpacked("files/iotest-dirtylog-10G-4M.vhdx.bz2", tmp_path)
    subprocess.run(["qemu-img", "check", "-q", "-r", "all", str(disk)], check=True, capture_output=True)
    assert detect(disk) == "vhdx"
    call("inspect", disk, "--list", "volumes")


def test_what_is_no_file_never_hangs(tmp_path: Path) -> None:
    """A FIFO, a device, a folder, a socket, given to each verb that opens a disk; in processes, with a deadline."""
    fifo = tmp_path / "pipe.vhd"
    os.mkfifo(fifo)
    good = vhd(tmp_path)
    script = (
        "import sys\nfrom pipeline.cli.app import app\nfrom pipeline.base.errors import GoldsmithError\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    try:\n        app(line.split('\\t'), standalone_mode=False)\n        print('exit 0', line)\n"
        "    except GoldsmithError as error:\n        print(error.exit_code, bool(error.hint), line)\n"
    )
    out = str(tmp_path / "out.vhd")

    def all_verbs(what: str) -> list[list[str]]:
        return [
            ["vhd", "info", what],
            ["vhd", "verify", what],
            ["vhd", "convert", what, out],
            ["vhd", "convert", what, out, "--unpack"],
            ["vhd", "convert", what, out, "--format", "raw"],
            ["vhd", "convert", str(good), what, "--to", "raw", "--force"],
            ["vhd", "compare", what, str(good)],
            ["vhd", "compare", str(good), what],
            ["vhd", "diff", str(good), what, out],
            ["vhd", "diff", what, str(good), out],
            ["vhd", "apply", what, out],
            ["vhd", "create", out, "--parent", what],
            ["vhd", "resize", what, "64 MiB"],
            ["inspect", what],
            ["inspect", what, "--unpack"],
            ["inspect", what, "--list", "volumes"],
            ["iso", what],
            ["capture", what, "--as", "x"],
            ["prove", what],
        ]

    verbs = all_verbs(str(fifo))
    for what in ("/dev/zero", "/dev/null", str(tmp_path), str(tmp_path / "nothing.vhd")):
        verbs += [["vhd", "info", what], ["vhd", "convert", what, out], ["inspect", what]]
    verbs.append(["vhd", "convert", str(good), "/dev/null", "--to", "raw", "--force"])
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join("\t".join(words) for words in verbs),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "GOLDSMITH_HOME": str(tmp_path / "store")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(verbs)
    assert [line for line in lines if not line.startswith("2 True")] == []
    assert Path("/dev/null").is_char_device() and fifo.is_fifo()
