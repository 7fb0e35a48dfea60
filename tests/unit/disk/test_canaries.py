"""Sixteen kinds of secrets where builds have left them: each one is found on the disk that would ship, none escapes.

A secret that is known is refused wherever it is (`secret-in-image`); this is the search behind it. Each canary has a
value of its own, so that no find of one covers for another.
"""

from __future__ import annotations

import base64
import gzip
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.base.secret_forms import needles
from pipeline.disk.value_question import search_disk
from tests.fakes import fake_disk, fake_hive
from tests.unit.disk.test_secret_search import write

FILLING = b"nothing to see here, and again\n" * 200
KINDS = (
    *("password", "key", "environment", "variable", "step output", "url", "deleted file", "swap", "journal"),
    *("history", "apt", "credential", "free space", "registry", "unattend", "cloud-init"),
)
VALUES = {
    kind: f"goldsmith:canary/{number:02}+{'9f3c71ab' * 2}{number:02}".encode() for number, kind in enumerate(KINDS)
}
KEY_BODY = base64.b64encode(bytes(range(48)))
VALUES["key"] = b"-----BEGIN PRIVATE KEY-----\n" + KEY_BODY + b"\n-----END PRIVATE KEY-----\n"


def _wide(text: bytes) -> bytes:
    return text.decode().encode("utf-16-le")


def _hive(value: bytes) -> bytes:
    return fake_hive.build({"Software": {"Agent": {"Token": value.decode()}}})


def _unattend(value: bytes) -> bytes:
    # Windows writes a password with the word behind it, in base64 of UTF-16
    hidden = base64.b64encode(_wide(value + b"AdministratorPassword")).decode()
    return f"<AdministratorPassword><Value>{hidden}</Value><PlainText>false</PlainText>".encode()


#: The file of each kind that lies in one, and what is in it.
FILES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "password": ("root/passwords.txt", lambda value: b"oper:" + value + b"\n"),
    "key": ("etc/app/server.key", lambda value: value.replace(b"\n", b"\r\n")),
    "environment": ("etc/environment", lambda value: b'TOKEN="' + value + b'"\n'),
    "variable": ("root/.ansible/facts/web", lambda value: b'{"api_token": "' + value + b'"}'),
    "step output": ("var/log/step.log", lambda value: FILLING + b"+ curl -u user:" + value + b"\n" + FILLING),
    "url": (
        "etc/pip.conf",
        lambda value: b"index-url = https://me:" + urllib.parse.quote(value, safe="").encode() + b"@example.net\n",
    ),
    "deleted file": ("tmp/deleted", lambda value: FILLING + value + FILLING),
    "journal": (
        "var/log/journal/system.journal",
        lambda value: b"LPKSHHRH" + bytes(200) + zstandard.compress(b"MESSAGE=" + FILLING + value) + bytes(64),
    ),
    "history": ("root/.bash_history", lambda value: b"mysql -p'" + value + b"'\n"),
    "apt": ("etc/apt/auth.conf.d/shop.conf", lambda value: b"machine example.net login me password " + value),
    "credential": ("etc/credstore/web.token", lambda value: base64.encodebytes(b"token=" + value)),
    "registry": ("Windows/System32/config/SOFTWARE", _hive),
    "unattend": ("Windows/Panther/unattend.xml", _unattend),
    "cloud-init": (
        "var/lib/cloud/instance/user-data.txt",
        lambda value: gzip.compress(b"#cloud-config\nchpasswd: {list: [oper:" + value + b"]}\n" + FILLING),
    ),
}
#: What lies behind the file system: a swap area, and space that nobody has.
BEHIND = {
    "swap": lambda value: bytes(4086) + b"SWAPSPACE2" + FILLING + value + FILLING,
    "free space": lambda value: bytes(8192) + value,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


def make_disk(folder: Path, values: dict[str, bytes]) -> Path:
    files = {path: content(values[kind]) for kind, (path, content) in FILES.items()}
    disk = write(folder, {**files, "etc/clean": FILLING})
    fake_disk.tool("debugfs", "-w", "-R", "rm /tmp/deleted", disk)
    with disk.open("ab") as file:
        for kind, content in BEHIND.items():
            file.write(content(values[kind]).ljust(64 << 10, b"\0"))
    return disk


def test_each_of_sixteen_kinds_is_found(folder: Path) -> None:
    assert len(KINDS) == 16 == len({*FILES, *BEHIND})
    disk = make_disk(folder / "with", VALUES)
    found, gaps = search_disk(disk, "raw", needles(VALUES))
    assert gaps == []
    assert {each.name for each in found} == set(KINDS)
    assert not any(value.decode() in str(each) for each in found for value in VALUES.values())


def test_none_is_found_where_none_is(folder: Path) -> None:
    """The same disk with other values: nothing but a canary itself is a find."""
    others = {
        kind: value.translate(bytes.maketrans(b"9f3c71abABCDEF", b"0e2d60bcFEDCBA")) for kind, value in VALUES.items()
    }
    disk = make_disk(folder / "without", others)
    assert search_disk(disk, "raw", needles(VALUES)) == ([], [])
