"""The forms of a secret: each is found and masked, however a program wrote it."""

from __future__ import annotations

import base64
import json
import random
import urllib.parse
from pathlib import Path

import pytest

from pipeline.base.secret_forms import PIECE, SHORTEST, Mask, encoded_forms, needles, piece

TOKEN = b"goldsmith+canary/7f3a91c2&e5"
KEY = (
    b"-----BEGIN KEY-----\n" + b"\n".join(b"%02d" % n + b"QUJDREVG" * 7 for n in range(5)) + b"\n-----END KEY-----\n"
)

WRITTEN = {
    "as it is": TOKEN,
    "base64": base64.b64encode(TOKEN),
    "base64 behind a user's name": base64.b64encode(b"user:" + TOKEN + b"\n"),
    "base64 behind one byte": base64.b64encode(b"u" + TOKEN),
    "base64 for URLs": base64.urlsafe_b64encode(b"ab" + TOKEN),
    "base64 of UTF-16": base64.b64encode(f'$x="{TOKEN.decode()}"'.encode("utf-16-le")),
    "UTF-16": TOKEN.decode().encode("utf-16-le"),
    "UTF-16, the other order": TOKEN.decode().encode("utf-16-be"),
    "hex": TOKEN.hex().encode(),
    "hex in capitals": TOKEN.hex().upper().encode(),
    "a URL": urllib.parse.quote(TOKEN.decode(), safe="").encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_each_form_is_known(how: str, tmp_path: Path) -> None:
    text = b"before " + WRITTEN[how] + b" behind"
    assert any(form in text for form in encoded_forms(TOKEN).values())
    mask = Mask()
    mask.add("token", TOKEN)
    assert mask.find(text) == "token" and mask.find(b"before behind") is None
    file = tmp_path / "serial.log"
    file.write_bytes(text)
    assert mask.file(file) == 1
    left = file.read_bytes()
    assert len(left) == len(text) and mask.find(left) is None
    assert left.startswith(b"before ") and left.endswith(b" behind"), "what stands around it stays"


def test_base64_of_any_bytes_at_any_place() -> None:
    drawn = random.Random(7)
    for _ in range(300):
        value = drawn.randbytes(drawn.randint(SHORTEST, 60))
        before, behind = drawn.randbytes(drawn.randint(0, 9)), drawn.randbytes(drawn.randint(0, 9))
        text = base64.b64encode(before + value + behind)
        assert any(form in text for name, form in encoded_forms(value).items() if name.startswith("base64"))


def test_json_writes_quotes_otherwise() -> None:
    value = b'a "quoted" pass\\word'
    assert any(form in json.dumps({"x": value.decode()}).encode() for form in encoded_forms(value).values())


def test_a_text_shows_the_secrets_name_alone() -> None:
    mask = Mask()
    mask.add("token", TOKEN + b"\n")
    mask.add("key", KEY)
    line = KEY.splitlines()[2].decode()
    assert mask.text(f"curl -H {TOKEN.decode()}") == "curl -H [secret token]"
    assert mask.text(f"a line of it: {line}") == "a line of it: [secret key]"
    assert mask.text("-----BEGIN KEY-----") == "-----BEGIN KEY-----", "in every key"


def test_the_part_that_is_searched_for() -> None:
    assert piece(TOKEN) == TOKEN
    assert piece(KEY) == KEY.splitlines()[3], "a line of its own, not the frame that every key has"
    long = bytes(range(33, 127)) * 9
    assert len(piece(long)) == PIECE and piece(long) in long
    binary = bytes(range(256)) * 3
    assert len(piece(binary)) == PIECE and piece(binary) in binary
    assert {name for name, _, _ in needles({"a": TOKEN, "b": KEY})} == {"a", "b"}


def test_a_file_that_is_empty_or_a_link_is_left_alone(tmp_path: Path) -> None:
    mask = Mask()
    mask.add("token", TOKEN)
    outside = tmp_path / "outside"
    outside.write_bytes(TOKEN)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link.log").symlink_to(outside)
    (folder / "empty.log").touch()
    (folder / "step.log").write_bytes(TOKEN)
    assert mask.folder(folder) == 1
    assert outside.read_bytes() == TOKEN
