"""A certificate that is not trusted is recognised in the words of what people use in steps."""

from __future__ import annotations

import pytest

from pipeline.guest.tls_failures import NOT_TRUSTED

WORDS = (
    "curl: (60) SSL certificate problem: self-signed certificate in certificate chain",
    "curl: (60) SSL certificate problem: unable to get local issuer certificate",
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:992)",
    "Certificate verification failed: The certificate is NOT trusted. The certificate issuer is unknown.",
    "fatal: unable to access 'https://x/': server certificate verification failed. CAfile: none CRLfile: none",
    "ERROR: cannot verify x.example's certificate, issued by 'CN=Corp':",
    "ERROR: The certificate of 'x.example' is not trusted.",
    "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    "javax.net.ssl.SSLHandshakeException: PKIX path building failed",
    "npm ERR! code UNABLE_TO_VERIFY_LEAF_SIGNATURE",
)


@pytest.mark.parametrize("words", WORDS)
def test_words_of_programs(words: str) -> None:
    assert NOT_TRUSTED.search(words)


@pytest.mark.parametrize("words", ["404 Not Found", "Could not resolve host: x", "certificate written to /etc/ssl"])
def test_other_words(words: str) -> None:
    assert not NOT_TRUSTED.search(words)
