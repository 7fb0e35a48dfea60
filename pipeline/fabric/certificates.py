"""What Azure's certificates answer holds: a key pair, sealed so that only the guest's own transport key opens it.

waagent fetches it at each new goal state and turns it into files by openssl; an agent that cannot is not well.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs7, pkcs12
from cryptography.x509.oid import NameOID

from pipeline.base.errors import GoldsmithError

#: For how long the certificate made here is valid; an agent that asks later gets another one.
VALID = timedelta(days=2)
#: Characters of a transport certificate: one with a key of 4096 bits has some 2,500.
_LARGEST = 16 << 10
#: Clocks of guests may be behind.
_SKEW = timedelta(hours=1)


def sealed(name: str, transport: str) -> bytes:
    """A fresh certificate and key of `name` (PKCS#12 in a PKCS#7 envelope, DER) for a base64 transport certificate.

    Raises GoldsmithError where `transport` is no certificate with an RSA key.
    """
    try:
        if len(transport) > _LARGEST:
            raise ValueError("the certificate is too large")
        recipient = x509.load_der_x509_certificate(base64.b64decode("".join(transport.split()), validate=True))
        envelope = pkcs7.PKCS7EnvelopeBuilder().set_data(_bundle(name)).set_content_encryption_algorithm(AES256)
        return envelope.add_recipient(recipient).encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    except (ValueError, TypeError) as error:
        raise GoldsmithError(
            f"no envelope for this certificate: {error}",
            name="certificate-unusable",
            hint="the guest's agent sends the certificate; look at its log in the guest",
        ) from None


def _bundle(name: str) -> bytes:
    """A key pair and its certificate as PKCS#12 without a password: the envelope protects it."""
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
    return pkcs12.serialize_key_and_certificates(None, key, certificate, None, NoEncryption())
