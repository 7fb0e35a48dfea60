"""The content of Azure's certificates answer: a key pair, sealed so that only the guest's own transport key opens it.

It is the VM's own, which its user chose, or one that is made for the answer.

waagent fetches it at each new goal state and writes it to files with openssl.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs7,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from pipeline.base.errors import GoldsmithError

#: How long the certificate is valid; an agent that asks later gets another one.
VALID = timedelta(days=2)
#: Characters of a transport certificate: one with a key of 4096 bits has some 2,500.
_LARGEST = 16 << 10
#: Clocks of guests may be behind.
_SKEW = timedelta(hours=1)
#: Bytes of a file with a user's certificate, certificates in it, bits of the smallest RSA key.
LARGEST_FILE, _MOST_CERTIFICATES, _SMALLEST_KEY = 64 << 10, 10, 2048
_PEM_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)

_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class KeyPair:
    """A certificate, and the same with its private key: PKCS#12 without a password, which an envelope protects."""

    certificate: x509.Certificate
    bundle: bytes = field(repr=False)

    @property
    def thumbprint(self) -> str:
        """The name by which Azure and the agents call the certificate: the SHA-1 of its DER, in capital letters."""
        return self.certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  a name, no protection


def make_key_pair(name: str) -> KeyPair:
    """A fresh key of `name` with its certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    began = datetime.now(UTC) - _SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + VALID)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate, pkcs12.serialize_key_and_certificates(None, key, certificate, None, NoEncryption()))


# ---- a user's certificate ----------------------------------------------------------------------------------------


def read_certificate(data: bytes) -> bytes:
    """The content of a user's file, PEM or PKCS#12 without a password, as one PEM: the private key, its certificate,
    then the others of its chain. The same content gives the same bytes.

    Raises ValueError with the reason why Azure's agents could not use it.
    """
    if len(data) > LARGEST_FILE:
        raise ValueError(f"has more than {LARGEST_FILE >> 10} KiB")
    key, found = _read_pem(data) if b"-----BEGIN " in data else _read_pkcs12(data)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("has a key that is neither RSA nor EC")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _SMALLEST_KEY:
        raise ValueError(f"has an RSA key of {key.key_size} bits, and the smallest is {_SMALLEST_KEY}")
    public = _public(key)
    own = [each for each in found if _public(each) == public]
    if not own:
        raise ValueError("has no certificate of its private key")
    if len(found) > _MOST_CERTIFICATES:
        raise ValueError(f"has {len(found)} certificates, and {_MOST_CERTIFICATES} is the most")
    others = [each for each in found if each != own[0]]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem + b"".join(each.public_bytes(Encoding.PEM) for each in (own[0], *others))


def _public(owner: _Key | x509.Certificate) -> bytes:
    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_pem(data: bytes) -> tuple[object, list[x509.Certificate]]:
    keys = [match.group() for match in _PEM_KEY.finditer(data)]
    if len(keys) != 1:
        raise ValueError(
            f"has {len(keys) or 'no'} private key{'s' if keys else ''}: it needs one, and its certificate"
        )
    try:
        key = load_pem_private_key(keys[0], None)
    except TypeError:
        raise ValueError("has a private key with a password") from None
    try:
        return key, x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ValueError("has no certificate that can be read") from None


def _read_pkcs12(data: bytes) -> tuple[object, list[x509.Certificate]]:
    for password in (None, b""):
        try:
            key, own, others = pkcs12.load_key_and_certificates(data, password)
        except ValueError:
            continue
        if key is None:
            raise ValueError("has no private key")
        return key, [*([own] if own is not None else []), *others]
    raise ValueError("is neither PEM nor PKCS#12 without a password")


def load_key_pair(pem: bytes) -> KeyPair:
    """The key pair of what `read_certificate` gave. Raises ValueError."""
    key, (own, *others) = _read_pem(pem)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return KeyPair(own, pkcs12.serialize_key_and_certificates(None, key, own, others, NoEncryption()))


# ---- sealing -----------------------------------------------------------------------------------------------------


def encrypt(data: bytes, recipient: x509.Certificate) -> bytes:
    """`data` in a PKCS#7 envelope (DER) that only the recipient's RSA key opens. Raises TypeError for another key."""
    envelope = pkcs7.PKCS7EnvelopeBuilder().set_data(data).set_content_encryption_algorithm(AES256)
    return envelope.add_recipient(recipient).encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])


def sealed(pair: KeyPair, transport: str) -> bytes:
    """A key pair (PKCS#12 in a PKCS#7 envelope, DER) for the agent of a base64 transport certificate.

    Raises GoldsmithError if `transport` is not a certificate with an RSA key.
    """
    try:
        if len(transport) > _LARGEST:
            raise ValueError("the certificate is too large")
        recipient = x509.load_der_x509_certificate(base64.b64decode("".join(transport.split()), validate=True))
        return encrypt(pair.bundle, recipient)
    except (ValueError, TypeError) as error:
        raise GoldsmithError(
            f"no envelope for this certificate: {error}",
            name="certificate-unusable",
            hint="the guest's agent sends the certificate; look at its log in the guest",
        ) from None
