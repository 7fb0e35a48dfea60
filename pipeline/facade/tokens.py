"""Access tokens: JSON Web Tokens (RFC 7519) that this host signs, and that expire."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from typing import Any

import jwt

from pipeline.facade.errors import ArmError
from pipeline.facade.home import Home

#: Seconds that a token is valid, as Azure's are.
LIFETIME = 3600
#: Seconds that a link to a VM's console or screen is valid.
LINK_LIFETIME = 600
_ALGORITHM = "HS256"
_MANAGE, _LINK = "urn:goldsmith:resource-manager", "urn:goldsmith:link"


class Tokens:
    """Issues and verifies tokens with the key of a home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._client = home.client()
        self._key = home.token_key()
        self.tenant = self._client.tenant

    def sign_in(self, form: Mapping[str, str]) -> dict[str, Any]:
        """The answer of the token endpoint to a client's credentials (RFC 6749, 4.4).

        Raises ArmError: 401 invalid_client for a wrong or missing secret, 400 for another kind of grant.
        """
        if form.get("grant_type") != "client_credentials":
            raise ArmError(400, "unsupported_grant_type", "only client_credentials is supported")
        secret = self._home.secret()
        given = form.get("client_secret", "")
        right_client = hmac.compare_digest(form.get("client_id", "").encode(), self._client.client.encode())
        right_secret = secret is not None and hmac.compare_digest(given.encode(), secret.encode())
        if not (right_client and right_secret):
            raise ArmError(401, "invalid_client", "the client's id or secret is wrong")
        return {
            "token_type": "Bearer",
            "expires_in": LIFETIME,
            "ext_expires_in": LIFETIME,
            "access_token": self.issue(),
        }

    def issue(self, *, lifetime: int = LIFETIME) -> str:
        """A token for the Resource Manager, valid for `lifetime` seconds."""
        client = self._client
        claims = {"tid": client.tenant, "oid": client.client, "appid": client.client, "sub": client.client}
        return self._sign(_MANAGE, claims, lifetime)

    def verify(self, header: str | None) -> None:
        """Raise ArmError (401) for an Authorization header without a valid token."""
        kind, _, token = (header or "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise ArmError(401, "AuthenticationFailed", "the request has no bearer token")
        self._open(_MANAGE, token.strip())

    def issue_link(self, path: str) -> str:
        """A token that opens one path, for a link that is fetched without a header."""
        return self._sign(_LINK, {"path": path}, LINK_LIFETIME)

    def verify_link(self, token: str, path: str) -> None:
        """Raise ArmError (401) for a link's token that does not open this path."""
        if self._open(_LINK, token).get("path") != path:
            raise ArmError(401, "AuthenticationFailed", "the link is for another resource")

    def _sign(self, audience: str, claims: Mapping[str, Any], lifetime: int) -> str:
        now = int(time.time())
        times = {"iat": now, "nbf": now, "exp": now + lifetime}
        return jwt.encode(
            {"aud": audience, "iss": _issuer(self._client.tenant), **times, **claims}, self._key, _ALGORITHM
        )

    def _open(self, audience: str, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=audience,
                issuer=_issuer(self._client.tenant),
                options={"require": ["exp", "nbf", "aud", "iss"]},
            )
        except jwt.ExpiredSignatureError:
            raise ArmError(401, "ExpiredAuthenticationToken", "the access token has expired") from None
        except (jwt.InvalidTokenError, ValueError):
            raise ArmError(401, "InvalidAuthenticationToken", "the access token is invalid") from None


def _issuer(tenant: str) -> str:
    return f"urn:goldsmith:{tenant}"
