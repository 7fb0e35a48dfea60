"""The content of Azure's certificates answer: a key pair, sealed so that only the guest's own transport key opens it.

waagent fetches it at each new goal state and writes it to files with openssl.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs7, pkcs12
from cryptography.x509.oid import NameOID

from pipeline.base.errors import GoldsmithError

#: How long the certificate is valid; an agent that asks later gets another one.
VALID = timedelta(days=2)
#: Characters of a transport certificate: one with a key of 4096 bits has some 2,500.
_LARGEST = 16 << 10
#: Clocks of guests may be behind.
_SKEW = timedelta(hours=1)


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
