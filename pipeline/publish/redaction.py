"""No secret leaves this room: signatures of URLs, account keys and whatever a credential was read from are replaced.

A server's answer may repeat the request's URL, and with it a signature; so every text that came from outside passes
here before it is in an error, a record or a log.
"""

from __future__ import annotations

import re

REDACTED = "REDACTED"
#: Parts of a URL or of a connection string that are secrets, by their names; also URL-encoded, as copy sources are.
_PARTS = re.compile(
    r"(?i)((?:\b|(?<=3F)|(?<=26))(?:sig|AccountKey|SharedAccessSignature|SharedAccessKey)(?:=|%3D|%253D))[^&;\s\"'<>]+"
    r"|((?:Authorization|x-ms-copy-source-authorization)['\"]?\s*[:=]\s*['\"]?(?:SharedKey|Bearer)\s+)[^\s\"'<>]+"
)
_known: set[str] = set()
#: Shorter values are not secrets; to redact them would blank out words.
_SHORTEST = 8


def remember(secret: str) -> str:
    """From now on `redact` replaces this value wherever it stands. Returns it."""
    if len(secret) >= _SHORTEST:
        _known.add(secret)
    return secret


def redact(text: str) -> str:
    """`text` without secrets."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return _PARTS.sub(lambda found: f"{found[1] or found[2]}{REDACTED}", text)
