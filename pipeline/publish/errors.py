"""Errors of a target, and which of them are tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.publish.redaction import redact


class PublishError(GoldsmithError):
    """A version could not be published, or a published version is damaged. The target's index is unchanged."""

    exit_code = 5

    def __init__(self, message: str, *, name: str, hint: str, evidence: Path | None = None) -> None:
        super().__init__(redact(message), name=name, hint=redact(hint), evidence=evidence)


class Conflict(PublishError):
    """Another process has changed the data that this process read (HTTP 409 or 412)."""


class Missing(PublishError):
    """The target has no such blob or container (HTTP 404)."""


#: Answers that say "later": request timeout, too many requests, and the server's own failures.
RETRIED = frozenset([408, 429, 500, 502, 503, 504])
#: The server found another checksum than the request's.
CHANGED_ON_THE_WAY = frozenset(["Md5Mismatch", "Crc64Mismatch"])
_AGAIN = "goldsmith publish push again: it continues where this one ended"


def is_passing(error: Exception) -> bool:
    """Whether an error of the SDK may be temporary: throttling, a failing server, a broken connection."""
    from azure.core import exceptions

    if isinstance(error, exceptions.ClientAuthenticationError):
        return False
    if isinstance(error, exceptions.HttpResponseError):
        status = error.status_code
        if getattr(error, "error_code", None) in CHANGED_ON_THE_WAY:
            return True
        # an answer without a status was cut off in its body
        return status is None or status in RETRIED or status in (200, 201, 206)
    return isinstance(error, exceptions.AzureError)


def wait_asked(error: Exception) -> float:
    """Seconds that the server asks to wait; 0 if it does not ask."""
    response: Any = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(text), 60.0) if text.isdigit() else 0.0


def named(error: Exception, what: str, where: str) -> PublishError:
    """goldsmith's error for an error of the SDK. `what` was being done, at `where`."""
    from azure.core import exceptions

    status = getattr(error, "status_code", None)
    code = str(getattr(error, "error_code", None) or "")
    detail = f"HTTP {status} {code}".strip() if status else type(error).__name__
    message = f"{what}: {detail} from {where}"
    if isinstance(error, exceptions.ClientAuthenticationError) or status in (401, 403):
        return PublishError(
            message,
            name="publish-refused",
            hint="check the credential and its rights: reading, writing, deleting and listing blobs "
            "(Storage Blob Data Contributor)",
        )
    if status == 404:
        return Missing(message, name="publish-missing", hint="check the URL; create the container first")
    if code.startswith("Lease") or code == "LeaseAlreadyPresent":
        return Conflict(
            message,
            name="publish-busy",
            hint="another publisher holds this blob; wait until it ends. A publisher that died holds it for a minute",
        )
    if status in (409, 412):
        return Conflict(message, name="publish-conflict", hint=_AGAIN)
    if is_passing(error):
        return PublishError(message, name="publish-unreachable", hint=f"check the network; then {_AGAIN}")
    return PublishError(message, name="publish-failed", hint="the target refused the request; check its limits")
