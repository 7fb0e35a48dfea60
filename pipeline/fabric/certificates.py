"""What Azure's certificates answer holds: a key pair, sealed so that only the guest's own transport key opens it.

waagent fetches it at each new goal state and turns it into files by openssl; an agent that cannot is not well.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from pipeline.base import process, scratch
from pipeline.base.errors import GoldsmithError

#: Seconds for one call of openssl.
DEADLINE = 30.0
#: Days for which the certificate made here is valid: no clone lives that long.
DAYS = "2"


def sealed(name: str, transport: str) -> bytes:
    """A fresh certificate and key of `name` (PKCS#12 in a PKCS#7 envelope, DER) for a base64 transport certificate.

    Raises BuildError where `transport` is no certificate or openssl refuses.
    """
    with scratch.folder(name="certificate") as folder:
        recipient = folder / "recipient.pem"
        body = "\n".join(textwrap.wrap("".join(transport.split()), 64))
        recipient.write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        key, certificate, bundle = folder / "key.pem", folder / "certificate.pem", folder / "bundle.p12"
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS, "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", certificate),
        )
        _openssl("pkcs12", "-export", "-in", certificate, "-inkey", key, "-passout", "pass:", "-out", bundle)
        envelope = folder / "envelope.der"
        _openssl(
            *("cms", "-encrypt", "-binary", "-aes256", "-in", bundle),
            *("-outform", "DER", "-out", envelope, recipient),
        )
        return envelope.read_bytes()


def _openssl(*words: str | Path) -> None:
    try:
        process.run(["openssl", *words], deadline=DEADLINE)
    except process.CommandFailed as error:
        raise GoldsmithError(
            f"openssl {words[0]}: {error.message}",
            name="openssl-failed",
            hint="check that openssl 3 is installed and that TMPDIR has free space (goldsmith doctor)",
        ) from None
