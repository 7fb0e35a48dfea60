"""Known values on a real ext4: in files, in freed blocks, packed and encoded; and none where there is none."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from pipeline.base.secret_forms import needles
from pipeline.disk.value_question import search_disk
from pipeline.disk.value_search import MOST
from tests.fakes import fake_disk
from tests.unit.disk.test_secret_search import write

TOKEN = b"goldsmith-canary-7f3a91c2e5"
PASSWORD = b'correct "horse" battery'
FILLING = b"nothing to see here, and again\n" * 300

PLACES: dict[str, bytes] = {
    "etc/environment": b"TOKEN=" + TOKEN + b"\n",
    "var/log/step.log": FILLING + b"curl -u user:" + TOKEN,
    "var/lib/app/settings.json": json.dumps({"password": PASSWORD.decode()}).encode(),
    "root/history": b"mysql -p'" + PASSWORD + b"'\n",
    "etc/systemd/unit.conf": b"Authorization: Basic " + base64.b64encode(b"user:" + TOKEN) + b"\n",
    "var/cache/wide.bin": TOKEN.decode().encode("utf-16-le"),
    "var/log/old.log.gz": gzip.compress(FILLING + TOKEN + FILLING),
    "var/log/old.log.bz2": bz2.compress(FILLING + TOKEN + FILLING),
    "var/log/old.log.xz": lzma.compress(FILLING + TOKEN + FILLING),
    "var/lib/blob.b64": base64.encodebytes(FILLING + TOKEN + FILLING),
    "var/lib/hex": TOKEN.hex().encode(),
}
VALUES = {"token": TOKEN, "password": PASSWORD}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("values"), {**PLACES, "etc/clean": FILLING, "tmp/gone": FILLING + TOKEN})


def test_each_place_is_named_and_no_other(disk: Path) -> None:
    fake_disk.tool("debugfs", "-w", "-R", "rm /tmp/gone", disk)
    found, gaps = search_disk(disk, "raw", needles(VALUES))
    assert gaps == [] and len(found) <= MOST
    named = {each.path for each in found}
    assert named == {"", *(f"/{path}" for path in PLACES)}
    freed = next(each for each in found if not each.path)
    assert str(freed) == f"token in no file, at byte {freed.offset} of the disk"
    assert {each.name for each in found if each.path == "/root/history"} == {"password"}
    packed = next(each for each in found if each.path.endswith(".gz"))
    assert packed.layers == ("zlib",) or packed.layers == ("gzip",), packed
    assert not any(value.decode() in str(each) for each in found for value in VALUES.values())


def test_a_value_that_is_not_there(disk: Path) -> None:
    assert search_disk(disk, "raw", needles({"other": b"goldsmith-canary-00000000"})) == ([], [])


def test_no_file_keeps_a_value(disk: Path) -> None:
    """The compiled rules of the other search are kept in a cache; these never are."""
    from pipeline.disk.pattern_cache import cache_file

    search_disk(disk, "raw", needles(VALUES))
    kept = [path for path in cache_file().parent.glob("*") if path.is_file()]
    assert not any(TOKEN in path.read_bytes() for path in kept)
