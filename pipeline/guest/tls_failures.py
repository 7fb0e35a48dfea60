"""A certificate that was not trusted, in the words of the programs that say so, and what to do about it."""

from __future__ import annotations

import re

#: OpenSSL and Python, curl, apt (GnuTLS), git, wget, Go, Java, Node.
NOT_TRUSTED = re.compile(
    r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|SSL certificate problem|certificate verification failed|"
    r"unable to get local issuer certificate|self[- ]signed certificate|cannot verify .{1,200}'s certificate|"
    r"certificate signed by unknown authority|PKIX path building failed|UNABLE_TO_VERIFY_LEAF_SIGNATURE|"
    r"certificate of .{1,200} is not trusted|certificate is NOT trusted",
    re.IGNORECASE,
)
HOST_HINT = (
    "a company's own authority? put its certificate into /usr/local/share/ca-certificates and run "
    "update-ca-certificates"
)
#: A guest knows its own authorities only; what is added there ships, and so the definition has to say it.
GUEST_HINT = (
    "a company's own authority opens the connection? in an earlier step copy its certificate to "
    "/usr/local/share/ca-certificates/NAME.crt and run update-ca-certificates (it ships with the image); pip and "
    "others with a bundle of their own take REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt"
)
