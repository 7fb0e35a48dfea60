"""Registry hives: every value as hivex reads it, damage and dirt named before anything is believed, logs replayed."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk.hive_cells import HEADER
from pipeline.disk.hive_logs import marvin32, replay
from pipeline.disk.registry import Hive, RawValue, decode, read_header
from tests.cases import unpacked
from tests.fakes import fake_hive, hivex
from tests.fakes.fake_hive import Raw

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


def text(value: str) -> bytes:
    return value.encode("utf-16-le")


#: What broke readers: a value by its type and bytes, and what it means.
VALUES: dict[str, tuple[Raw, object]] = {
    "a number in the value itself": (Raw(4, b"\x3d\x0d\0\0"), 3389),
    "a number of the other order": (Raw(5, b"\0\0\x0d\x3d"), 3389),
    "a long number": (Raw(11, b"\xff" * 8), 2**64 - 1),
    "no bytes at all": (Raw(3, b""), b""),
    "a text of no bytes": (Raw(1, b""), ""),
    "a list of no bytes": (Raw(7, b""), []),
    "a number of no bytes": (Raw(4, b""), b""),
    "a number of two bytes": (Raw(4, b"\1\2"), b"\1\2"),
    "a number of eight bytes": (Raw(4, b"\1" * 8), b"\1" * 8),
    "three bytes in the value itself": (Raw(3, b"abc"), b"abc"),
    "a type without a word": (Raw(0x1F4, b"12345678"), b"12345678"),
    "a type without a word, of no bytes": (Raw(500, b""), b""),
    "a type of all bits": (Raw(0xFFFF0007, b"abcdefgh"), b"abcdefgh"),
    "no type": (Raw(0, b"ab"), b"ab"),
    "text without a last NUL": (Raw(1, text("Administrator")), "Administrator"),
    "text behind a NUL": (Raw(1, text("seen\0unseen\0")), "seen"),
    "text that expands": (Raw(2, text("%SystemRoot%\\TEMP\0")), "%SystemRoot%\\TEMP"),
    "text with half a character": (Raw(1, text("ab") + b"c"), "ab"),
    "text outside ASCII": (Raw(1, text("Größe 数 \U0001f600\0")), "Größe 数 \U0001f600"),
    "a link": (Raw(6, text("\\Registry\\Machine\\System")), "\\Registry\\Machine\\System"),
    "a list": (Raw(7, text("a\0b\0\0")), ["a", "b"]),
    "a list without its last NUL": (Raw(7, text("a\0b\0")), ["a", "b"]),
    "a list without any": (Raw(7, text("a\0b")), ["a", "b"]),
    "a list with nothing": (Raw(7, text("\0\0")), []),
    "a list with an empty text": (
        Raw(7, text("\\??\\C:\\a\0\0\\??\\C:\\b\0\0\0")),
        ["\\??\\C:\\a", "", "\\??\\C:\\b", ""],
    ),
    "a resource list": (Raw(8, bytes(40)), bytes(40)),
    "data in segments": (Raw(3, bytes(range(256)) * 300), bytes(range(256)) * 300),
    "data that just fit a cell": (Raw(3, b"y" * 16344), b"y" * 16344),
    "data that just do not": (Raw(3, b"y" * 16350), b"y" * 16350),
    "Größe ÿ": (Raw(4, b"\1\0\0\0"), 1),
    "数 outside Latin": (Raw(4, b"\2\0\0\0"), 2),
}


def agrees(hive: Hive, path: Path) -> int:
    """Hold every value of a hive to hivex; the number of values."""
    mine = sorted((keys, [(value.name, value.kind, value.data) for value in values]) for keys, values in hive.walk())
    theirs = sorted(hivex.dump(path))
    assert mine == [(keys, [value[:3] for value in values]) for keys, values in theirs]
    for number, (keys, values) in enumerate(theirs):
        shown = None if number % 10 or any("\\" in key for key in keys) else hive.values("\\".join(keys))
        for name, kind, data, meaning in values:
            value = decode(RawValue(name, kind, data))
            assert shown is None or shown[name] == value
            assert meaning is None or value == _meaning(kind, data, meaning), (keys, name)
    return sum(len(values) for _, values in theirs)


def _meaning(kind: int, data: bytes, meaning: object) -> object:
    """hivex's meaning as ours: its numbers have signs and any length, its lists keep their end."""
    if kind in (4, 5, 11):
        return meaning % 256 ** len(data) if len(data) == (8 if kind == 11 else 4) else data
    if isinstance(meaning, list):
        texts = meaning[:-1] if meaning and not meaning[-1] else meaning
        return texts if any(texts) else []
    return meaning


def test_keys_and_values() -> None:
    hive = Hive(fake_hive.build(TREE))
    assert hive.keys() == ["ControlSet001", "Empty", "Setup"] and hive.keys("Empty") == []
    assert hive.values("setup") == {"SetupType": 2, "CmdLine": "oobe\\windeploy.exe", "": "default"}
    services = "ControlSet001\\Services"
    assert len(hive.keys(services) or ()) == 701
    assert hive.value(f"{services}\\STORVSC", "start") == 0
    assert hive.values(f"{services}\\storvsc") == TREE["ControlSet001"]["Services"]["storvsc"]  # type: ignore[index]
    control = hive.values("ControlSet001\\Control")
    assert control == {"Blob": bytes(range(256)), "Long": "x" * 3000}
    assert hive.keys("No\\such") is None and hive.values("No") is None and hive.value("Setup", "no") is None


@pytest.mark.parametrize("lists", [b"lf", b"lh", b"li", b"ri"])
def test_every_kind_of_value_and_list(lists: bytes, tmp_path: Path) -> None:
    keys = {f"key {number}": {"n": number} for number in range(250)}
    tree = {"Values": {name: raw for name, (raw, _) in VALUES.items()}, "ëigenaardig": {"数": {}}, "Keys": keys}
    data = fake_hive.build(tree, lists=lists)
    hive = Hive(data)
    assert hive.values("Values") == {name: meaning for name, (_, meaning) in VALUES.items()}
    assert hive.value("VALUES", "GRÖßE Ÿ") == 1 and hive.keys("ËIGENAARDIG") == ["数"]
    (tmp_path / "hive").write_bytes(data)
    assert agrees(hive, tmp_path / "hive") == len(VALUES) + 250


def test_a_segment_of_a_few_bytes() -> None:
    """hivex 1.3.23 leaves out a last segment of four bytes or fewer, so it cannot be compared with here."""
    for size in (16344, 16345, 16348, 32688, 32689):
        data = bytes(range(251)) * 131
        assert Hive(fake_hive.build({"k": {"v": data[:size]}})).value("k", "v") == data[:size]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("windows-hives/BCD.xz", 103),
        ("windows-hives/NTUSER.DAT.xz", 4094),
        ("windows-hives/SAM.xz", 70),
        ("windows-hives/SECURITY.xz", 109),
        ("windows-hives/SYSTEM.xz", 73456),
        ("windows-hives/SYSTEM_B.xz", 74957),
        ("windows-hives/SYSTEM_WIN_10_1709.xz", 90307),
        ("files/ExtendedASCIIHive.xz", 1),
        ("files/SAM.xz", 84),
        ("files/SYSTEM-rdp-tcp.xz", 600),
    ],
)
def test_every_value_of_real_hives(name: str, values: int, tmp_path: Path) -> None:
    path = unpacked(name, tmp_path)
    assert agrees(Hive(path.read_bytes(), allow_dirty=True), path) == values


def test_answers_to_what_was_reported(tmp_path: Path) -> None:
    users = r"SAM\Domains\Account\Users\Names\Administrator"
    assert Hive(unpacked("files/SAM.xz", tmp_path).read_bytes()).values(users) == {"": b""}
    names = Hive(unpacked("files/ExtendedASCIIHive.xz", tmp_path).read_bytes())
    assert names.keys() == ["ëigenaardig"] and names.keys("Ëigenaardig") == []
    rdp = r"ControlSet001\Control\Terminal Server\WinStations\RDP-Tcp"
    found = Hive(unpacked("files/SYSTEM-rdp-tcp.xz", tmp_path).read_bytes()).values(rdp)
    assert found is not None and found["PortNumber"] == 3389 and len(found) == 88


def test_a_key_of_a_large_hive_in_under_a_second() -> None:
    data = fake_hive.build({"Microsoft": {"Windows": {"Version": 7}}, **TREE}, fill=100 << 20)
    assert len(data) > 100 << 20
    began = time.process_time()
    hive = Hive(data)
    assert hive.value("Microsoft\\Windows", "Version") == 7
    assert hive.value("ZZ FILLING\\KEY01234", "0999") == 999
    assert len(hive.values("ZZ FILLING\\KEY01234") or ()) == 1000
    # 0.01 s of a processor where this was written; a walk through the whole hive took 7 s
    assert time.process_time() - began < 3.0


# ---- dirt --------------------------------------------------------------------------------------------------------


def test_a_dirty_hive_without_logs_is_dirty_not_damaged() -> None:
    dirty = fake_hive.torn(fake_hive.build(TREE), 7, 1)
    with pytest.raises(
        DiskError, match=r"SYSTEM is dirty \(sequences 7 and 1\): its log was not beside it"
    ) as caught:
        Hive(dirty)
    assert caught.value.name == "hive-dirty" and caught.value.hint
    assert read_header(dirty).dirty and Hive(dirty, allow_dirty=True).value("Setup", "SetupType") == 2
    assert Hive(dirty, allow_dirty=True).dirty and not Hive(fake_hive.build(TREE)).dirty


def _changed() -> tuple[bytes, bytes]:
    """A hive before and after changes, the latter longer."""
    before = fake_hive.build(TREE)
    after = fake_hive.build({**TREE, "Setup": {"SetupType": 0}, "New": {"Blob": bytes(20000)}})
    assert len(after) > len(before)
    return fake_hive.torn(before), after


@pytest.mark.parametrize("logs", ["one", "two", "two, the later first", "old"])
def test_logs_are_replayed(logs: str, tmp_path: Path) -> None:
    before, after = _changed()
    whole = fake_hive.log(before, after, 5, entries=4)
    middle = fake_hive.log(before, after, 5, entries=4)
    first, second = _split(whole, 2)
    made = {"one": [middle], "two": [first, second], "two, the later first": [second, first]}
    made["old"] = [fake_hive.old_log(before, after, 2)]
    hive = Hive(before, logs=made[logs])
    assert hive.values("Setup") == {"SetupType": 0} and hive.value("New", "Blob") == bytes(20000)
    assert hive.replayed and not hive.dirty
    data = replay(before, made[logs]).data[:]
    assert data[HEADER:] == after[HEADER:]
    (tmp_path / "hive").write_bytes(data)
    agrees(hive, tmp_path / "hive")


def _split(log: bytes, count: int) -> tuple[bytes, bytes]:
    """A log in two, as Windows changes from one file to the other."""
    at = 512
    for _ in range(count):
        at += struct.unpack_from("<I", log, at + 4)[0]
    (sequence,) = struct.unpack_from("<I", log, at + 12)
    head = log[:4] + struct.pack("<II", sequence, sequence) + log[12:512]
    return log[:at], fake_hive.seal(head) + log[at:]


def test_a_second_reader_replays_the_same(tmp_path: Path) -> None:
    from regipy.recovery import apply_transaction_logs

    before, after = _changed()
    # it makes no hive longer
    (tmp_path / "hive").write_bytes(before.ljust(len(after), b"\0"))
    (tmp_path / "hive.LOG1").write_bytes(fake_hive.log(before, after, 5, entries=4))
    restored, _ = apply_transaction_logs(
        str(tmp_path / "hive"), str(tmp_path / "hive.LOG1"), restored_hive_path=str(tmp_path / "restored")
    )
    logs = [(tmp_path / "hive.LOG1").read_bytes()]
    assert Path(restored).read_bytes()[HEADER:] == replay(before, logs).data[:][HEADER:]


def test_a_log_that_does_not_fit_is_not_replayed() -> None:
    before, after = _changed()
    log = fake_hive.log(before, after, 5, entries=4)
    older = fake_hive.log(before, after, 0)
    torn = bytearray(log)
    torn[700] ^= 1
    other = fake_hive.seal(before[:12] + bytes(8) + before[20:])
    for hive, found in ((before, older), (before, bytes(torn)), (other, fake_hive.old_log(before, after, 2))):
        with pytest.raises(DiskError, match="its log does not fit it") as caught:
            Hive(hive, logs=[found, b"", bytes(4096)])
        assert caught.value.name == "hive-dirty"
    # an empty log is not a log
    with pytest.raises(DiskError, match="was not beside it"):
        Hive(before, logs=[b"", bytes(65536)])


def test_what_follows_a_torn_entry_is_not_replayed() -> None:
    before, after = _changed()
    log = fake_hive.log(before, after, 5, entries=4)
    first, second = _split(log, 3)
    assert Hive(before, logs=[first + bytes(len(second))], allow_dirty=True).replayed == 3
    # an entry is missing: what the second log holds does not follow
    gap = bytearray(second)
    struct.pack_into("<II", gap, 4, 9, 9)
    assert Hive(before, logs=[first, fake_hive.seal(bytes(gap))], allow_dirty=True).replayed == 3


def test_a_torn_header_is_taken_from_the_log() -> None:
    before, after = _changed()
    torn = before[:40] + b"\xff\xff\0\0" + before[44:]
    with pytest.raises(DiskError, match="checksum") as caught:
        Hive(torn)
    assert caught.value.name == "hive-damaged"
    assert Hive(torn, logs=[fake_hive.log(before, after, 5)]).values("Setup") == {"SetupType": 0}


def test_a_log_cannot_make_a_hive_grow_without_bound() -> None:
    before, after = _changed()
    log = bytearray(fake_hive.log(before, after, 5))
    struct.pack_into("<I", log, 512 + 16, 0xFFFFF000)
    struct.pack_into("<Q", log, 512 + 32, marvin32(bytes(log[512 : 512 + 32])))
    with pytest.raises(DiskError) as caught:
        Hive(before, logs=[bytes(log)])
    assert caught.value.name == "hive-log-too-large" and caught.value.hint


def test_the_hash_of_entries() -> None:
    """Known answers, from entries that Windows 10 wrote (regipy's test data)."""
    head = bytes.fromhex("48764c45003e0000000000001f01000000302b000300000079ec51cdcf8932ef")
    assert marvin32(head) == 0xED656C4DA9275E35


# ---- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"x" * 9000,
        lambda data: data[:5000],
        lambda data: data[:508] + b"\0\0\0\0" + data[512:],
        lambda data: fake_hive.seal(data[:36] + b"\xff\xff\xff\x7f" + data[40:]),
        lambda data: fake_hive.seal(data[:36] + b"\x78\0\0\0" + data[40:]),
        lambda data: fake_hive.seal(data[:20] + b"\x02\0\0\0" + data[24:]),
        lambda data: fake_hive.seal(data[:28] + b"\x06\0\0\0" + data[32:]),
    ],
)
def test_damage_has_a_name(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DiskError) as caught:
        Hive(change(fake_hive.build(TREE)))
    assert caught.value.name == "hive-damaged" and caught.value.hint


@pytest.mark.parametrize(
    ("found", "put"),
    [
        (b"vk\x06\0", b"xx\x06\0"),
        # a name, data and lists that are longer than their cells
        (b"vk\x06\0", b"vk\xff\x7f"),
        (struct.pack("<I", 0x80000004), struct.pack("<I", 0x80000005)),
        (struct.pack("<I", 0x80000004), struct.pack("<I", 0x7FFFFFFF)),
        (struct.pack("<I", 0x80000004), struct.pack("<I", 200)),
    ],
)
def test_a_value_that_cannot_be_read_is_not_left_out(found: bytes, put: bytes) -> None:
    """A reader that leaves it out would pass for a key without it."""
    data = fake_hive.build({"Setup": {"Second": 2, "First": 1}})
    at = data.index(found)
    broken = data[:at] + put + data[at + len(found) :]
    with pytest.raises(DiskError) as caught:
        Hive(broken).values("Setup")
    assert caught.value.name == "hive-damaged"


def test_a_list_of_keys_that_is_shorter_than_its_count() -> None:
    data = bytearray(fake_hive.build({"a": {}, "b": {}, "c": {}}))
    at = data.index(b"lf\x03\0")
    data[at + 2] = 2
    with pytest.raises(DiskError, match="counts 3 keys, its list has 2"):
        Hive(bytes(data)).keys()


def test_keys_that_circle() -> None:
    data = bytearray(fake_hive.build({"a": {"b": {}}}))
    root = struct.unpack_from("<I", data, 36)[0]
    at = data.index(b"lf\x01\0")
    struct.pack_into("<I", data, at + 4, root)
    hive = Hive(bytes(data))
    assert hive.keys("a\\ROOT\\a\\ROOT") == ["a"] and hive.keys("\\".join(["a"] * 5000)) is None
    with pytest.raises(DiskError, match="below two keys"):
        list(hive.walk())


def test_the_same_huge_data_in_many_values_cost_no_more_than_allowed() -> None:
    data = bytearray(fake_hive.build({"k": {f"v{number:03}": bytes(4 << 20) if not number else b"12345"
                                             for number in range(100)}}))  # fmt: skip
    first = data.index(b"vk\x04\0")
    for at in _every(data, b"vk\x04\0"):
        data[at + 4 : at + 12] = data[first + 4 : first + 12]
    began = time.process_time()
    with pytest.raises(DiskError, match="more than 64 MiB"):
        Hive(bytes(data)).values("k")
    assert time.process_time() - began < 20


def _every(data: bytearray, what: bytes) -> list[int]:
    found, at = [], data.find(what)
    while at >= 0:
        found.append(at)
        at = data.find(what, at + 1)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_no_damage_ends_in_a_traceback_or_a_hang(seed: int, tmp_path: Path) -> None:
    """Bytes of a hive and its logs are changed at random: it is read, or there is one error with a name."""
    rng = random.Random(seed)
    before, after = _changed()
    logs = [fake_hive.log(before, after, 5, entries=3), fake_hive.old_log(before, after, 2)]
    began, outcomes = time.process_time(), set()
    for _ in range(60):
        hive, log = bytearray(before), bytearray(rng.choice(logs))
        for target in (hive, log):
            for _ in range(rng.choice((0, 1, 3, 20))):
                target[rng.randrange(len(target))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        for target in (hive, log):
            if rng.random() < 0.7:
                target[:512] = fake_hive.seal(bytes(target[:512]))
        try:
            read = Hive(bytes(hive), logs=[bytes(log)], allow_dirty=True)
            outcomes.add(sum(len(values) for _, values in read.walk()) > 0)
            read.values("Setup")
        except DiskError as error:
            assert error.name in ("hive-damaged", "hive-log-too-large") and error.hint
            outcomes.add(error.name)
    assert len(outcomes) > 1 and time.process_time() - began < 60
