"""A VM's own certificate: read from its user's file, handed out by the fabric, and seen to be taken by the agent."""

from __future__ import annotations

import base64
import subprocess
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from lxml import etree

from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.base.store import Store
from pipeline.fabric.answers import answer
from pipeline.fabric.certificates import LARGEST_FILE, load_key_pair, read_certificate
from pipeline.fabric.instance import PLUGIN_PORT, Request, Response
from pipeline.fabric.registration import CertificateState, ProvisioningData
from pipeline.fabric.registrations import Registration, Registrations, RegistrationShape, from_json, to_json
from pipeline.fabric.service_process import ServedGuest
from pipeline.hypervisor.machine import Machine
from pipeline.operations import certificates
from pipeline.operations.certificates import describe_certificate, read_certificate_file, wait_certificate
from tests.unit.instances.test_record import record

ID = "6695eb01-f6a4-4304-89aa-97f2502e193f"
OK = Response(200)


def openssl(*words: str | Path) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def make(folder: Path, name: str, kind: str = "ec") -> tuple[bytes, bytes]:
    """A key and its certificate, as openssl writes them."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else ["-newkey", kind]
    openssl(
        "req", "-x509", *words, "-nodes", "-subj", f"/CN={name}", "-days", "9", "-keyout", key, "-out", certificate
    )
    return key.read_bytes(), certificate.read_bytes()


def pkcs12(folder: Path, name: str, password: str = "") -> bytes:
    words = ["-inkey", folder / f"{name}.key", "-in", folder / f"{name}.crt", "-passout", f"pass:{password}"]
    return openssl("pkcs12", "-export", *words)


@pytest.mark.parametrize("kind", ["rsa:2048", "ec"])
def test_the_same_content_is_the_same_pem_in_whatever_form_it_comes(tmp_path: Path, kind: str) -> None:
    (key, own), (_, other) = make(tmp_path, "shop", kind), make(tmp_path, "authority")
    pem = read_certificate(key + own)
    assert pem == read_certificate(own + b"\nwords\n" + key) == read_certificate(pkcs12(tmp_path, "shop"))
    chained = read_certificate(other + own + key)
    assert chained.count(b"BEGIN CERTIFICATE") == 2 and chained.startswith(pem), "its own certificate is the first"
    thumbprint = openssl("x509", "-noout", "-fingerprint", "-sha1", "-in", tmp_path / "shop.crt").decode()
    expected = thumbprint.strip().partition("=")[2].replace(":", "")
    assert load_key_pair(chained).thumbprint == expected
    shown = describe_certificate(chained)
    assert shown is not None and (shown["thumbprint"], shown["subject"]) == (expected, "CN=shop")
    assert describe_certificate(b"") is None


def test_a_file_that_no_agent_could_use_is_refused_by_its_fault(tmp_path: Path) -> None:
    (key, own), (other_key, other) = make(tmp_path, "shop"), make(tmp_path, "other")
    small, small_own = make(tmp_path, "small", "rsa:1024")
    locked = openssl("pkey", "-in", tmp_path / "shop.key", "-aes256", "-passout", "pass:secret")
    curve = openssl("genpkey", "-algorithm", "ed25519")
    for words, data in {
        "has no private key": own,
        "has 2 private keys": key + other_key + own,
        "has a private key with a password": locked + own,
        "has no certificate that can be read": key,
        "has no certificate of its private key": key + other,
        "has an RSA key of 1024 bits, and the smallest is 2048": small + small_own,
        "has a key that is neither RSA nor EC": curve + own,
        "has 11 certificates, and 10 is the most": key + own * 11,
        "is neither PEM nor PKCS#12 without a password": pkcs12(tmp_path, "shop", "secret"),
        "has more than 64 KiB": b"x" * (LARGEST_FILE + 1),
    }.items():
        file = tmp_path / "file"
        file.write_bytes(data)
        with pytest.raises(GoldsmithError) as error:
            read_certificate_file(file)
        assert error.value.name == "certificate-invalid" and error.value.message.startswith(f"{file} {words}")


def registration(certificate: bytes) -> Registration:
    data = ProvisioningData(ID, "web", "u", "k", certificate=certificate)
    return Registration(data, "00:0d:3a:00:00:01", 0)


def test_the_agent_gets_the_certificate_with_its_key_sealed_for_itself(tmp_path: Path) -> None:
    pem = read_certificate(b"".join(make(tmp_path, "shop")))
    written = to_json(registration(pem))
    RegistrationShape.model_validate(written)
    instance = from_json(written).instance
    older = {key: value for key, value in written.items() if key != "certificate"}
    assert from_json(older).instance.certificate == b"" and "PRIVATE" not in repr(registration(pem))
    make(tmp_path, "agent", "rsa:2048")
    transport = "".join((tmp_path / "agent.crt").read_text().splitlines()[1:-1])
    request = Request(
        "GET", 80, "/machine/c/r?comp=certificates", headers={"x-ms-guest-agent-public-x509-cert": transport}
    )
    first, again = (answer(each, request) for each in (instance, registration(b"").instance))
    assert first is not None and again is not None and first.body != again.body, "another one is sealed anew"
    (tmp_path / "sealed").write_bytes(base64.b64decode(etree.fromstring(first.body).findtext("Data", "")))
    words = ["-inkey", tmp_path / "agent.key", "-recip", tmp_path / "agent.crt", "-out", tmp_path / "bundle"]
    openssl("cms", "-decrypt", "-inform", "DER", "-in", tmp_path / "sealed", *words)
    opened = openssl("pkcs12", "-nodes", "-password", "pass:", "-in", tmp_path / "bundle")
    assert read_certificate(opened) == pem
    assert b"PRIVATE" not in first.body


def test_a_certificate_is_taken_once_the_agent_has_reported_a_status_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path).ensure()
    places = Registrations.of(store)
    folder = places.records / ID
    folder.mkdir(parents=True)
    guest = ServedGuest(registration(b""), folder)
    asked, status = Request("GET", 80, "/machine?comp=certificates"), Request("PUT", PLUGIN_PORT, "/status")

    def request(each: Request, response: Response = OK) -> CertificateState:
        guest.note(guest.record(each, response))
        return places.status(ID).certificate

    machine = SimpleNamespace(spec=SimpleNamespace(kvm=False), check=lambda: None, _changed=threading.Condition())
    machine.wait = partial(Machine.wait, machine)
    monkeypatch.setitem(certificates.TAKEN, False, 0.0)
    wait = partial(wait_certificate, store, record("web", id=ID), machine)
    assert request(status) is CertificateState.NONE, "it is of an earlier goal state"
    assert request(asked, Response(400)) is CertificateState.NONE
    assert request(asked) is CertificateState.FETCHED
    with pytest.raises(GuestError) as error:
        wait()
    assert error.value.name == "certificate-not-taken" and error.value.hint
    # the server starts again, or the VM's data change
    guest = ServedGuest(registration(b""), folder)
    assert request(status) is CertificateState.TAKEN and request(asked) is CertificateState.TAKEN
    wait()
    guest.begin()
    assert places.status(ID).certificate is CertificateState.NONE
