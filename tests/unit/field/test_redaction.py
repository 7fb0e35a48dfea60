"""Nothing of the user's leaves the host: canaries of each kind, in each form, in each kind of file."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import pytest

from tests.fakes.secret_forms import word
from tests.field.archive import collect
from tests.field.redaction import Redaction, picture_only

PASSWORD, SUBSCRIPTION = "Tr4vel-l1ght-by-night", "8f1d2c3b-4a59-4e6f-8a7b-9c0d1e2f3a4b"
VALUES = {"user": "mallory", "store": "/srv/vault/images", "token": PASSWORD, "subscription": SUBSCRIPTION}
#: A text as a log has it, and the part of it that must be gone.
CANARIES = {
    "a known value": (f"step: {PASSWORD} was read", PASSWORD),
    "a known value in base64": (f"data={base64.b64encode(PASSWORD.encode()).decode()}", "VHI0dmVs"),
    "a known value in hex": (f"data {PASSWORD.encode().hex()}", PASSWORD.encode().hex()),
    "a known value in percent": ("to=%2Fsrv%2Fvault%2Fimages", "vault"),
    "a short name": ("login as mallory from here", "mallory"),
    "a folder": ("/srv/vault/images/runs/R1", "vault"),
    "a private key": (
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r\n-----END OPENSSH PRIVATE KEY-----",
        "b3Blbn",
    ),
    "a private key in a string of JSON": (
        '"-----BEGIN PRIVATE KEY-----\\nMIIEvQIB\\n-----END PRIVATE KEY-----"',
        "MIIE",
    ),
    "a private key that is cut off": ("-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQ", "MIIEow"),
    "a public key with its owner": (f"ssh-ed25519 AAAA{'C3NzaC1lZDI1NTE5' * 2} eve@laptop", "laptop"),
    "a signature of a URL": ("https://a.blob.core.windows.net/d?sv=2024&sig=Zm9vYmFyYmF6%3D&se=1", "Zm9vYmFy"),
    "an account key": (f"AccountName=shop;AccountKey={'Ab1+' * 21}xy==;", "Ab1+Ab1+"),
    "a bearer token": ("Authorization: Bearer eyJ0eXAiOiJKV1QiLCJhbGciOiJ", "eyJ0eXAi"),
    "a token of GitHub": (f"git clone with ghp_{'a1B2' * 9}", "ghp_a1B2"),
    "a password in an answer file": ("<UserPassword>Sommer-2026</UserPassword>", "Sommer"),
    "a password with its value": ("<AdministratorPassword><Value>Sommer-2026</Value>", "Sommer"),
    "a password in an environment": ("DB_PASSWORD=Sommer-2026", "Sommer"),
    "a product key": ("ProductKey: VK7JG-NPHTM-C97JM-9MPGT-3V66T", "NPHTM"),
    "somebody else's subscription": (
        f"/subscriptions/{SUBSCRIPTION[::-1].replace('-', '0')[:8]}-4a59-4e6f-8a7b-9c0d1e2f3a4c/x",
        "9c0d1e2f3a4c",
    ),
    "a tenant": ('"tenantId": "72f988bf-86f1-41af-91ab-2d7cd011db47"', "72f988bf"),
    "an address of mail": ("certificate of eve.adams@shop.example.com", "eve.adams"),
    "a public address": ("connected to 20.61.99.2 on port 22", "20.61.99.2"),
}


def redaction() -> Redaction:
    return Redaction(VALUES)


@pytest.mark.parametrize("name", CANARIES)
def test_a_canary_is_gone_from_a_text(name: str) -> None:
    text, secret = CANARIES[name]
    assert secret in text
    found = redaction().text(f"before {text} after")
    assert secret not in found
    assert found.startswith("before ")


@pytest.mark.parametrize("name", [name for name in CANARIES if "string of JSON" not in name])
def test_a_canary_is_gone_from_json_which_stays_json(name: str) -> None:
    text, secret = CANARIES[name]
    line = json.dumps({"at": 1.5, "body": text, "rows": [{"deep": text}], text: 1})
    found = redaction().data(line.encode(), ".jsonl")
    assert found is not None
    assert secret not in json.dumps(json.loads(found))
    assert json.loads(found)["at"] == 1.5


def test_a_password_of_json_goes_by_its_key() -> None:
    found = redaction().data(
        b'{"adminPassword": "x1", "osProfile": {"disablePasswordAuthentication": "true"}}', ".json"
    )
    assert found is not None
    assert json.loads(found)["adminPassword"] == "[password]"
    assert b"x1" not in found


def test_an_id_of_json_goes_by_its_key() -> None:
    found = redaction().data(b'{"tenantId": "72f988bf-86f1-41af-91ab-2d7cd011db47", "vmId": "a-1"}', ".json")
    assert found is not None
    assert json.loads(found) == {"tenantId": "[id 1]", "vmId": "a-1"}


def test_the_same_value_gets_the_same_name_and_another_one_another() -> None:
    found = redaction().text("20.61.99.2 then 20.61.99.3 then 20.61.99.2")
    assert found == "[address 1] then [address 2] then [address 1]"


@pytest.mark.parametrize(
    "text",
    [
        "168.63.129.16 answered, 169.254.169.254 too; the clone has 10.83.0.2/29",
        "GET /machine/0ca59612-cc9f-55c1-bd4a-b2f0b7fcf7f9/6d04bd55-b390-5eef-9bbb-52400f35c459._gen1?comp=config",
        "Starting serial-getty@ttyS0.service, user@1000.service and systemd-fsck@dev-disk-by.service",
        "[   12.345678] sd 0:0:0:0: [sda] 18874368 512-byte logical blocks; root logs in",
    ],
)
def test_what_a_replay_needs_stays(text: str) -> None:
    assert redaction().text(text) == text


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_picture_keeps_its_picture_alone() -> None:
    head, body, end = chunk(b"IHDR", b"x" * 13), chunk(b"IDAT", b"y"), chunk(b"IEND", b"")
    text = chunk(b"tEXt", b"Author\0mallory")
    png = b"\x89PNG\r\n\x1a\n"
    assert picture_only(png + head + text + body + end + b"after") == png + head + body + end
    assert picture_only(png + head + body[:-6]) is not None  # cut off: the part that is whole
    assert picture_only(b"GIF89a") is None


def test_what_has_no_known_form_stays_at_home(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("fine\n")
    (tmp_path / "wide.log").write_bytes("mallory".encode("utf-16"))
    (tmp_path / "disk.vhd").write_bytes(b"x")
    (tmp_path / "cut.json").write_text('{"a": ')
    (tmp_path / "link.log").symlink_to("/etc/shadow")
    (tmp_path / "broken.log").write_bytes(b"\xff fine \xfe")
    (tmp_path / "mallory.log").write_text(word(20))
    files, left_out = collect(tmp_path, redaction())
    assert sorted(files) == ["[secret user].log", "a.log", "broken.log"]
    assert left_out == ["cut.json", "disk.vhd", "wide.log"]
