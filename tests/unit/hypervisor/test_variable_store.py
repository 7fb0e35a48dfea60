"""What a UEFI variable store knows of Secure Boot, and what doctor says of it."""

from __future__ import annotations

import datetime
import json
import random
import struct
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.base.der import DerError, certificate_names, elements
from pipeline.hypervisor import host, variable_store
from pipeline.hypervisor.variable_store import SecureBootKeys, read_variable_store

OVMF = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
UEFI_2011, UEFI_2023 = "Microsoft Corporation UEFI CA 2011", "Microsoft UEFI CA 2023"
WINDOWS_2011, WINDOWS_2023 = "Microsoft Windows Production PCA 2011", "Windows UEFI CA 2023"
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")


def certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "X"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    day = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(names).issuer_name(names).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(day).not_valid_after(day + datetime.timedelta(9))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def signature_list(kind: uuid.UUID, *bodies: bytes) -> bytes:
    """An EFI_SIGNATURE_LIST of entries of one size."""
    each = 16 + len(bodies[0])
    head = kind.bytes_le + struct.pack("<III", 28 + each * len(bodies), 0, each)
    return head + b"".join(bytes(16) + body for body in bodies)


def variable(name: str, value: bytes, state: int = 0x3F) -> bytes:
    raw = name.encode("utf-16-le") + b"\0\0"
    head = struct.pack("<HBBIQ16sIII16s", 0x55AA, state, 0, 0x27, 0, bytes(16), 0, len(raw), len(value), bytes(16))
    body = head + raw + value
    return body + b"\xff" * (-len(body) % 4)


def store(*variables: bytes) -> bytes:
    body = b"".join(variables)
    return (
        bytes(72)
        + STORE.bytes_le
        + struct.pack("<IBBHI", 28 + len(body) + 64, 0x5A, 0xFE, 0, 0)
        + body
        + b"\xff" * 64
    )


@pytest.fixture(scope="module")
def both() -> bytes:
    names = (UEFI_2011, UEFI_2023, WINDOWS_2011, WINDOWS_2023)
    db = b"".join(signature_list(X509, certificate(name)) for name in (*names, "Acme Boot"))
    dbx = signature_list(SHA256, bytes(32), b"\1" * 32) + signature_list(X509, certificate("Old"))
    old = variable("db", signature_list(X509, certificate("Deleted")), state=0x3C)
    return store(variable("PK", b"x"), old, variable("db", db), variable("dbx", dbx))


def test_a_store_with_both_generations(both: bytes) -> None:
    keys = read_variable_store(both)
    assert keys is not None
    assert keys.allowed == (UEFI_2011, UEFI_2023, WINDOWS_2011, WINDOWS_2023, "Acme Boot")
    assert (keys.missing, keys.revoked) == ((), 3)


def test_a_store_without_keys_and_what_is_no_store() -> None:
    assert read_variable_store(store(variable("PK", b"x"))) is None
    assert read_variable_store(b"") is None
    assert read_variable_store(bytes(4096)) is None


@pytest.mark.skipif(not OVMF.exists(), reason="ovmf is not installed")
def test_debians_own_store() -> None:
    keys = read_variable_store(OVMF.read_bytes())
    assert keys is not None
    assert UEFI_2011 in keys.allowed and WINDOWS_2011 in keys.allowed
    assert keys.revoked >= 1


def test_any_bytes_end_in_an_answer(both: bytes) -> None:
    chance = random.Random(1)
    for _ in range(400):
        data = bytearray(both)
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randrange(len(data)) :]
        read_variable_store(bytes(data))


def test_der_that_is_none() -> None:
    for data in (b"\x30", b"\x30\x80", b"\x30\x85\1\1\1\1\1", b"\x1f\x01\0", b"\x30\x05\0", b"\x30\0" * 300):
        with pytest.raises(DerError):
            list(elements(data))
    with pytest.raises(DerError):
        certificate_names(b"\x30\x02\x30\0")
    whole = certificate("A")
    for end in range(len(whole)):
        with pytest.raises(DerError):
            certificate_names(whole[:end])


def test_what_doctor_says(both: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vars_file = tmp_path / "VARS.fd"
    vars_file.write_bytes(both)
    descriptor = {
        "features": ["enrolled-keys", "secure-boot"],
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "mapping": {"nvram-template": {"filename": str(vars_file), "format": "raw"}},
    }
    own, package = tmp_path / "etc", tmp_path / "usr"
    own.mkdir()
    package.mkdir()
    (package / "40.json").write_text(json.dumps(descriptor))
    (package / "50.json").write_text(json.dumps({**descriptor, "features": ["secure-boot"]}))
    (package / "60.json").write_text("no JSON")
    monkeypatch.setattr(variable_store, "DESCRIPTORS", (own, package))
    (line,) = host.judge_secure_boot_keys(variable_store.enrolled_stores())
    assert line.verdict == "ok" and "Microsoft UEFI CA 2023" in line.text and line.text.endswith("; 3 revoked")
    vars_file.write_bytes(b"damaged")
    (line,) = host.judge_secure_boot_keys(variable_store.enrolled_stores())
    assert line.verdict == "warn" and "cannot be read" in line.text
    # a file of the same name in /etc hides the package's
    (own / "40.json").write_text("{}")
    assert variable_store.enrolled_stores() == {}


def test_a_store_of_2011_names_what_it_lacks() -> None:
    (line,) = host.judge_secure_boot_keys({Path("/x/VARS.fd"): SecureBootKeys((UEFI_2011, WINDOWS_2011), 0)})
    assert line.text == (
        "VARS.fd knows Microsoft UEFI CA 2011, Windows PCA 2011; not Microsoft UEFI CA 2023, Windows UEFI CA 2023; "
        "0 revoked"
    )
    (line,) = host.judge_secure_boot_keys({Path("/x/VARS.fd"): SecureBootKeys(("Acme",), 0)})
    assert line.verdict == "warn"
