"""The HTTP side: bodies, tokens, the endpoints that need no token, and errors as the Resource Manager writes them."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as HttpRoute

from pipeline.base.files import AnyObject, parse_json
from pipeline.facade.accounts import metadata, openid_configuration
from pipeline.facade.backend import Backend
from pipeline.facade.errors import ArmError, invalid
from pipeline.facade.fields import Fields
from pipeline.facade.home import LOOPBACK
from pipeline.facade.jsonc import to_json
from pipeline.facade.routing import Request

log = logging.getLogger("goldsmith.facade")

#: Bytes of a request's body; the Resource Manager takes 4 MB.
LARGEST = 4_000_000
METHODS = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]
_OPENID = re.compile(r"/([0-9A-Za-z.-]{1,64})(?:/v2\.0)?/\.well-known/openid-configuration", re.ASCII)
_TOKEN = re.compile(r"/([0-9A-Za-z.-]{1,64})/oauth2(?:/v2\.0)?/token", re.ASCII)
#: The paths whose bodies have a template as `az` sends it.
_DEPLOYMENT = "/microsoft.resources/deployments/"
_BOOT = re.compile(r"/boot/([0-9a-f-]{36})/(serial\.log|screen\.png)", re.ASCII)


class Api:
    """`base` is the facade's address as clients have it."""

    def __init__(self, backend: Backend, base: str) -> None:
        self._backend = backend
        self._base = base

    async def answer(self, http: HttpRequest) -> Response:
        try:
            return await self._answer(http)
        except ArmError as error:
            return _error(error)
        except Exception:
            number = secrets.token_hex(4)
            log.exception("the request %s %s failed (%s)", http.method, http.url.path, number)
            return _error(
                ArmError(500, "InternalServerError", f"goldsmith failed; its log has the reason ({number})")
            )

    async def _answer(self, http: HttpRequest) -> Response:
        path, method = http.url.path, http.method
        if method == "GET" and path.rstrip("/").lower() == "/metadata/endpoints":
            return _json(200, metadata(self._base, await run_in_threadpool(self._backend.client)))
        if method == "GET" and (found := _OPENID.fullmatch(path)) is not None:
            return _json(200, openid_configuration(self._base, found[1]))
        if method == "POST" and _TOKEN.fullmatch(path) is not None:
            return await self._sign_in(http)
        if method == "GET" and (found := _BOOT.fullmatch(path)) is not None:
            return await self._boot_file(http, found[1], found[2])
        who = http.headers.get("authorization")
        await run_in_threadpool(self._backend.verify, who)  # before the body is read
        request = Request(method, path, _query(http), _parse(await _read(http), method, path), self._base)
        answer = await run_in_threadpool(self._backend.answer, who, request)
        return _json(answer.status, answer.body, answer.headers)

    async def _sign_in(self, http: HttpRequest) -> Response:
        form = dict(parse_qsl((await _read(http)).decode(errors="replace"), max_num_fields=32))
        try:
            return _json(200, await run_in_threadpool(self._backend.sign_in, form), {"Cache-Control": "no-store"})
        except ArmError as error:
            if error.own_name is not None:
                raise
            # as RFC 6749, 5.2 has it
            return _json(error.status, {"error": error.code, "error_description": error.message})

    async def _boot_file(self, http: HttpRequest, machine: str, file: str) -> Response:
        token, path = http.query_params.get("sig", ""), http.url.path
        kind, data = await run_in_threadpool(self._backend.boot_file, token, path, machine, file)
        return Response(data, media_type=kind)


def make_app(backend: Backend, base: str) -> Starlette:
    """The application of a backend. Only names of the loopback address are answered."""
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", LOOPBACK], www_redirect=False)
    return Starlette(
        routes=[HttpRoute("/{path:path}", Api(backend, base).answer, methods=METHODS)],
        middleware=[hosts],
    )


async def _read(http: HttpRequest) -> bytes:
    """The body. Raises ArmError (413)."""
    data = b""
    async for part in http.stream():
        data += part
        if len(data) > LARGEST:
            raise ArmError(413, "RequestEntityTooLarge", f"a request has at most {LARGEST} bytes")
    return data


def _parse(data: bytes, method: str, path: str) -> Fields:
    """The JSON object of a body; an empty one where there is none. Raises ArmError (400)."""
    if not data.strip() or method in ("GET", "HEAD"):
        return Fields({})
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("the body is not text in UTF-8") from None
    try:
        return Fields(parse_json(text, AnyObject))
    except ValueError as error:
        if _DEPLOYMENT not in path.lower():
            raise invalid(f"the body cannot be read: {error}") from None
    try:
        return Fields(parse_json(to_json(text), AnyObject))
    except ValueError as error:
        raise invalid(f"the body cannot be read: {error}") from None


def _query(http: HttpRequest) -> dict[str, str]:
    """The parameters; `$Expand` and `$expand` are the same name on Azure."""
    known = {
        "api-version": "api-version",
        "$expand": "$expand",
        "statusonly": "statusOnly",
        "skipshutdown": "skipShutdown",
    }
    return {known.get(key.lower(), key): value for key, value in http.query_params.items()}


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    more = {"x-ms-request-id": secrets.token_hex(16), **(headers or {})}
    if body is None:
        return Response(None, status, more)
    return JSONResponse(body, status, more)


def _error(error: ArmError) -> Response:
    headers = {"x-ms-request-id": secrets.token_hex(16)}
    if error.status == 401:
        headers["WWW-Authenticate"] = f'Bearer error="invalid_token", error_description="{error.code}"'
    return JSONResponse({"error": error.body}, error.status, headers)
