"""A disk that is brought compressed: its checksum is that of the file, and nothing but a whole disk comes of it."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.context import BuildContext
from pipeline.definition import load, load_all
from pipeline.disk import unpack
from pipeline.engine import runner
from pipeline.engine.preconditions import check_preconditions
from pipeline.systems import registry
from pipeline.vhd.footer import MIB
from tests.fakes.toy_system.system import SYSTEM
from tests.unit.systems.test_toy_inspection import FILES, disk_of

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lambda data: lzma.compress(data, preset=0),
    "gz": lambda data: gzip.compress(data, 1),
    "zst": zstandard.ZstdCompressor(level=1, write_checksum=True).compress,
}
DEFINITION = "goldsmith: 1\nos: toy\nsource: {disk: {%s}}\nprove: [gen1]\n"
#: No guest changes what was brought.
AS_IT_IS = "generalize: {agent: outside}\n"


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    registry.register(SYSTEM)
    yield
    registry.unregister(SYSTEM.name)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on a host whose libvirt has no guest of ours."""
    monkeypatch.setattr(runner, "collect_orphans", lambda *_: None)
    monkeypatch.setattr(BuildContext, "accelerator", SimpleNamespace(kind="tcg"))
    monkeypatch.setattr(BuildContext, "connection", SimpleNamespace(version="9.0.0", qemu_version="7.2.0"))
    return Store(tmp_path / "store").ensure()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "images").mkdir(parents=True)
    return folder


@pytest.fixture
def disk(project: Path) -> bytes:
    """The bytes of a disk of the toy system, in whole sectors."""
    path = disk_of(project, FILES)
    data = path.read_bytes()
    path.unlink()
    return data


def build(project: Path, store: Store, keys: str, more: str = "") -> runner.Outcome:
    path = project / "images/drum.yaml"
    path.write_text(DEFINITION % keys + more)
    return runner.build(load(path, project), store, command="goldsmith build drum")


def refused(project: Path, store: Store, keys: str, more: str = "") -> GoldsmithError:
    with pytest.raises(GoldsmithError) as caught:
        build(project, store, keys, more)
    assert caught.value.hint
    # no layer stands on what was refused, and nothing that was unpacked is left
    left = [path for path in store.root.rglob("*") if path.is_file() and path.stat().st_size >= MIB]
    assert left == [], left
    return caught.value


@pytest.mark.parametrize("kind", PACKERS)
def test_the_master_has_the_bytes_of_the_disk(kind: str, disk: bytes, project: Path, store: Store) -> None:
    packed = project / f"base.raw.{kind}"
    packed.write_bytes(PACKERS[kind](disk))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    outcome = build(project, store, f"path: {packed.name}, sha256: {digest}", AS_IT_IS)
    assert outcome.version is not None
    with outcome.version.disk.open("rb") as file:
        assert file.read(len(disk)) == disk
    # the same file again is the same image; the same disk packed otherwise is another input
    assert build(project, store, f"path: {packed.name}, sha256: {digest}", AS_IT_IS).unchanged
    assert list(store.root.rglob(".goldsmith-*")) == []


def test_a_download_has_no_suffix_and_is_unpacked(disk: bytes, project: Path, store: Store) -> None:
    packed = lzma.compress(disk, preset=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/base.raw.xz"
        outcome = build(project, store, f"url: '{url}', sha256: {hashlib.sha256(packed).hexdigest()}", AS_IT_IS)
        server.shutdown()
    assert outcome.version is not None
    with outcome.version.disk.open("rb") as file:
        assert file.read(len(disk)) == disk
    # what was downloaded stays as it was published
    (kept,) = (path for path in store.downloads.iterdir() if path.suffix != ".lock")
    assert kept.read_bytes() == packed


def test_a_packed_qcow2_and_its_data_disk(disk: bytes, project: Path, store: Store) -> None:
    plain = project / "plain.raw"
    plain.write_bytes(disk)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", plain, project / "base.qcow2"], check=True)
    packed = project / "base.qcow2.xz"
    packed.write_bytes(lzma.compress((project / "base.qcow2").read_bytes(), preset=0))
    data = random.Random(1).randbytes(MIB) + bytes(3 * MIB)
    (project / "data.raw.zst").write_bytes(zstandard.compress(data, 1))
    keys = f"path: {packed.name}, data_disks: [{{lun: 3, path: data.raw.zst}}]"
    outcome = build(project, store, keys, AS_IT_IS + "data_disks: [{lun: 3, size: 4 MiB}]\n")
    assert outcome.version is not None
    ((lun, image),) = outcome.version.image.data
    assert lun == 3 and image.path.read_bytes()[: 4 * MIB] == data
    with outcome.version.disk.open("rb") as file:
        assert file.read(len(disk)) == disk
    # the size that the definition states is that of the unpacked file
    error = refused(
        project, Store(store.root.parent / "other").ensure(), keys, AS_IT_IS + "data_disks: [{lun: 3, size: 8 MiB}]\n"
    )
    assert error.name == "data-disk-size"


def test_the_checksum_is_that_of_the_packed_file(disk: bytes, project: Path, store: Store) -> None:
    packed = project / "base.raw.xz"
    packed.write_bytes(lzma.compress(disk, preset=0))
    assert refused(project, store, f"path: {packed.name}, sha256: {hashlib.sha256(disk).hexdigest()}").name == (
        "checksum-mismatch"
    )


@pytest.mark.parametrize("kind", PACKERS)
def test_half_a_file_is_refused(kind: str, disk: bytes, project: Path, store: Store) -> None:
    packed = project / f"base.raw.{kind}"
    whole = PACKERS[kind](disk)
    for torn in (whole[: len(whole) // 2], whole[:-1], whole + b"garbage"):
        packed.write_bytes(torn)
        assert refused(project, store, f"path: {packed.name}").name == "packed-damaged", len(torn)


def test_bombs_twice_packed_and_archives(
    disk: bytes, project: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = project / "base.raw.gz"
    packed.write_bytes(gzip.compress(lzma.compress(disk, preset=0)))
    error = refused(project, store, f"path: {packed.name}")
    assert error.name == "disk-packed" and "compressed twice" in error.message and "--unpack" not in str(error.hint)
    # what is inside is judged by its content, as every brought disk is
    packed.write_bytes(gzip.compress(disk))
    assert refused(project, store, f"path: {packed.name}, format: qcow2").name == "disk-format"
    (project / "disk.raw").write_bytes(disk)
    subprocess.run(["tar", "-C", project, "-czf", project / "base.raw.gz", "disk.raw"], check=True)
    error = refused(project, store, f"path: {packed.name}")
    assert error.name == "disk-format" and "tar -xf" in str(error.hint)
    (project / "disk.raw").unlink()
    # a disk that the definition's own would not hold
    packed.write_bytes(gzip.compress(disk + bytes(8 * MIB)))
    assert refused(project, store, f"path: {packed.name}", "disk: 4 MiB\n").name == "disk-smaller-than-source"
    # as on a host whose space is as good as used up
    monkeypatch.setattr(unpack, "RESERVE", 1 << 62)
    assert refused(project, store, f"path: {packed.name}").name == "no-space"


def test_more_than_a_disk_can_hold(project: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few KiB that are 64 MiB, with a limit of 50 in place of what a VHD can hold."""
    packed = project / "base.raw.gz"
    packed.write_bytes(gzip.compress(bytes(16 * MIB)) * 4)
    monkeypatch.setattr(unpack, "LIMIT", 50 * MIB)
    assert refused(project, store, f"path: {packed.name}").name == "packed-too-large"


def test_validate_takes_a_packed_disk_by_its_name(disk: bytes, project: Path, store: Store) -> None:
    packed = project / "base.qcow2.xz"
    packed.write_bytes(lzma.compress(disk, preset=0))
    (project / "images/drum.yaml").write_text(DEFINITION % f"path: {packed.name}" + "disk: 4 MiB\n")
    (definition,) = load_all(project)
    assert definition.source.format == QCOW2.name  # type: ignore[union-attr]
    assert check_preconditions([definition], store) == {}
    # the build compares: it is a raw disk
    assert refused(project, store, f"path: {packed.name}").name == "disk-format"
