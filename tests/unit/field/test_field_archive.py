"""An archive of a field run: signed, complete, without the user's values; and its replay, which sees what changed."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.base.errors import CheckFailed
from pipeline.evidence import signing
from tests.fakes import fake_windows_disk
from tests.field import __main__ as field
from tests.field import kinds
from tests.field.archive import FIELD, STATEMENT, ArchiveError, FieldArchive, collect, read_archive, write_archive
from tests.field.kinds import KINDS, Kind, accelerator
from tests.field.redaction import Redaction
from tests.field.replay import console_state, replay
from tests.harness import Lab

#: Archives of runs that were made, each with its public key beside it.
ARCHIVES = sorted(Path(field.__file__).parent.joinpath("archives").glob("*.tar.gz"))
FILES = {
    "prove/gen2/boot.serial.log": b"[    0.000000] Linux version 6.12\r\ngen2-1 login: ",
    "prove/gen2/fabric.jsonl": json.dumps(
        {"at": 1.0, "to": "169.254.169.254:80", "method": "GET", "status": 200,
         "target": "/metadata/instance?api-version=2021-02-01"}
    ).encode() + b"\n",
    "prove/gen2/boot-messages.log": b"3 kernel: Failed to access perfctr msr (MSR c0010007 is 0)   [known: x]\n",
    "checks.json": b'[{"id": "fs-clean", "severity": "fail"}]',
}  # fmt: skip
ABOUT = {"kind": "kvm", "accelerator": "tcg", "consoles": {"prove/gen2/boot.serial.log": "login"}}


@pytest.fixture
def key(tmp_path: Path) -> signing.SigningKey:
    return signing.make(tmp_path / "keys" / "field.key")


def written(tmp_path: Path, key: signing.SigningKey, files: dict[str, bytes] = FILES) -> Path:
    return write_archive(tmp_path / "out" / "a.tar.gz", ABOUT, files, key, Redaction({}))


def repacked(path: Path, change: dict[str, bytes | None]) -> Path:
    """The archive with files exchanged, added, or (None) taken out."""
    with tarfile.open(path) as tar:
        contents: dict[str, bytes | None] = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {**contents, **change}.items():
            if data is not None:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    path.write_bytes(gzip.compress(out.getvalue()))
    return path


def test_an_archive_is_read_as_it_was_written(tmp_path: Path, key: signing.SigningKey) -> None:
    archive = read_archive(written(tmp_path, key), [key.public])
    assert (archive.field, archive.files) == (ABOUT, FILES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks.json": b"[]"}, "checks.json"),
        ({"checks.json": None}, "checks.json"),
        ({"more.log": b"x"}, "more.log"),
        ({FIELD: b"{}"}, FIELD),
        ({STATEMENT: None}, "is not signed"),
    ],
)
def test_an_archive_that_was_changed_is_refused(
    tmp_path: Path, key: signing.SigningKey, change: dict[str, bytes | None], message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_archive(repacked(written(tmp_path, key), change), [key.public])


def test_another_key_is_refused(tmp_path: Path, key: signing.SigningKey) -> None:
    other = signing.make(tmp_path / "other" / "field.key")
    with pytest.raises(CheckFailed) as raised:
        read_archive(written(tmp_path, key), [other.public])
    assert raised.value.name == "signature-bad"


def test_links_and_folders_are_no_part_of_an_archive(tmp_path: Path, key: signing.SigningKey) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("x")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(entry)
    with pytest.raises(ArchiveError, match="x is no file"):
        read_archive(path, [key.public])


@pytest.mark.parametrize(
    "data", ["it has moonlight-7 in it".encode("utf-16-le"), b"6d6f6f6e6c696768742d37", b"moonlight-7"]
)
def test_a_value_that_was_not_taken_out_stops_the_archive(
    tmp_path: Path, key: signing.SigningKey, data: bytes
) -> None:
    path = tmp_path / "a.tar.gz"
    with pytest.raises(ArchiveError, match=r"x\.log still has token: nothing was written"):
        write_archive(path, ABOUT, {"x.log": data}, key, Redaction({"token": "moonlight-7"}))
    assert not path.exists()


def test_a_good_archive_replays_without_a_difference() -> None:
    rows = replay(FieldArchive(ABOUT, FILES))
    assert [(row.file, row.parts, row.differences) for row in rows] == [(name, 1, ()) for name in sorted(FILES)]


@pytest.mark.parametrize(
    ("file", "old", "new", "difference"),
    [
        ("prove/gen2/fabric.jsonl", b'"status": 200', b'"status": 404', "answered 200, there 404"),
        ("prove/gen2/fabric.jsonl", b'"status": 200', b'"status": 200, "report": {"state": "Ready"}', "there Ready"),
        (
            "prove/gen2/boot.serial.log",
            b"login: ",
            b"Kernel panic - not syncing: x",
            "recognized as guest-kernel-panic",
        ),
        ("prove/gen2/boot.serial.log", b"login: ", b"", "recognized as nothing, there as login"),
        ("prove/gen2/boot-messages.log", b"perfctr", b"another", "no longer known: kernel: Failed to access another"),
        ("checks.json", b"fs-clean", b"fs-gone", "the check fs-gone is gone, there fail"),
        ("checks.json", b'"fail"', b'"warn"', "the check fs-clean is fail, there warn"),
    ],
)
def test_a_replay_finds_what_changed(file: str, old: bytes, new: bytes, difference: str) -> None:
    assert old in FILES[file]
    rows = replay(FieldArchive(ABOUT, {**FILES, file: FILES[file].replace(old, new)}))
    (found,) = [row for row in rows if row.differences]
    assert found.file == file
    assert difference in found.differences[0]


def test_there_is_an_archive_of_a_run() -> None:
    assert ARCHIVES


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.name)
def test_an_archive_of_the_field_replays(path: Path) -> None:
    archive = read_archive(path, [signing.load_public(path.with_name(path.name.replace(".tar.gz", ".pub")))])
    rows = replay(archive)
    assert sum(row.parts for row in rows) > 0
    assert [row for row in rows if row.differences] == []


@pytest.mark.parametrize(
    ("kind", "environment", "missing"),
    [
        ("windows", {}, "WINDOWS_ISO and VIRTIO_ISO are not set"),
        ("windows", {"WINDOWS_ISO": "/nowhere.iso"}, "VIRTIO_ISO is not set"),
        (
            "windows",
            {"WINDOWS_ISO": "/nowhere.iso", "VIRTIO_ISO": "/nowhere.iso"},
            "WINDOWS_ISO and VIRTIO_ISO names no file",
        ),
        ("azure", {}, "AZURE_SUBSCRIPTION is not set (AZURE_LOCATION too, by default westeurope)"),
    ],
)
def test_a_run_without_its_inputs_is_skipped_by_name(
    kind: str, environment: dict[str, str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert field.main([kind], environment) == 0
    assert capsys.readouterr().out == f"test-{kind}: skipped: {missing}\n"


def test_a_run_leaves_an_archive_that_can_be_replayed_also_where_it_fails(
    tmp_path: Path, key: signing.SigningKey, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOLDSMITH_KEY", str(key.path))
    monkeypatch.setattr("socket.gethostname", lambda: "anvil.example.org")
    monkeypatch.setattr("getpass.getuser", lambda: "mallory")
    lab = Lab(tmp_path / "project", tmp_path / "home")

    def work(lab: Lab, folder: Path, _environment: object) -> None:
        for name, data in FILES.items():
            path = lab.home / "runs" / "R1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (folder / "notes.txt").write_text(f"made in {lab.home} by mallory on anvil, anvil.example.org\n")
        raise field.FieldError(f"stopped in {lab.folder}")

    path, error = field.run(Kind("kvm", lambda _: "", work), lab, {}, tmp_path / "out")
    assert error == "stopped in [secret project]"
    archive = read_archive(path, [key.public])
    assert archive.text("notes.txt") == (
        "made in [secret store] by [secret user] on [secret host], [secret full host]\n"
    )
    assert archive.field["consoles"] == {"runs/R1/prove/gen2/boot.serial.log": "login"}
    assert field.main(["replay", str(path), str(signing.public_path(key.path))], {}) == 0
    assert capsys.readouterr().out.count("ok  ") == 4


def test_a_kind_has_a_target_of_make() -> None:
    makefile = (Path(field.__file__).parents[2] / "Makefile").read_text()
    assert all(f"\ntest-{name}: setup ##" in makefile for name in KINDS)


def test_the_accelerator_is_the_measured_one() -> None:
    row = {"name": "accelerator", "text": "tcg: /dev/kvm is slow", "facts": {"kind": "tcg"}}
    assert accelerator(json.dumps([{"name": "host"}, row])) == ("tcg", "tcg: /dev/kvm is slow")
    assert accelerator("[]") == ("tcg", "not measured")


def test_a_console_is_recognized_by_its_end() -> None:
    assert console_state(b"") == "nothing"
    assert console_state(b"gen1-1 login: ") == "login"
    assert console_state(b"You are in emergency mode") == "guest-emergency"


def test_the_registry_of_a_windows_disk_is_kept_as_facts(
    tmp_path: Path, key: signing.SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is the stand-in for Windows. What it has no key for is kept as an error."""
    fake_windows_disk.need_tools()
    monkeypatch.setattr(kinds, "REGISTRY_KEYS", (r"SYSTEM\Setup", r"SOFTWARE\Nothing"))
    model = fake_windows_disk.Model()
    model.hives["SYSTEM"]["Setup"]["Owner"] = "moonlight-7"
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(model, tmp_path / "disk"), tmp_path / "disk.vhd")
    folder, redaction = tmp_path / "facts", Redaction({"token": "moonlight-7"})
    folder.mkdir()
    kinds.registry(Lab(tmp_path / "project", tmp_path / "home"), folder, str(disk))
    files, _ = collect(folder, redaction)
    path = write_archive(tmp_path / "a.tar.gz", ABOUT, files, key, redaction)
    facts = json.loads(read_archive(path, [key.public]).text("registry.json"))
    rows = {row["name"]: row["value"] for row in facts[r"SYSTEM\Setup"]}
    assert rows["Owner"] == "[secret token]"
    assert "the registry has no key" in facts[r"SOFTWARE\Nothing"]["error"]
