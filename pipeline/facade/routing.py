"""Requests, answers and the table of routes: which request is which function's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from pipeline.facade.errors import ArmError, invalid
from pipeline.facade.fields import Fields
from pipeline.facade.ids import SUBSCRIPTION
from pipeline.facade.session import Session
from pipeline.facade.tasks import Task

#: Seconds that a client waits between two questions for an operation.
RETRY_AFTER = "1"
_API_VERSION = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9](?:-preview)?", re.ASCII)
#: What a part of a path may have: ids have no control characters, and no path of a file is made of one.
_PART = re.compile(r"[^\x00-\x1f\x7f/]{1,260}")


@dataclass(frozen=True)
class Request:
    """An authenticated request. `base` is the facade's own address; `parts` are filled in by the route."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Fields
    base: str
    parts: Mapping[str, str] = field(default_factory=dict)

    def link(self, path: str) -> str:
        """A path of the facade as a link, with this request's version of the API."""
        return f"{self.base}{path}?api-version={self.query.get('api-version', '')}"


@dataclass(frozen=True)
class Answer:
    """`body` None: an empty one."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """`template` is Azure's path with {parts}; `purpose` says what it does, for docs/az.md."""

    method: str
    template: str
    purpose: str
    handle: Callable[[Session, Request], Answer]

    @property
    def pattern(self) -> re.Pattern[str]:
        parts = re.split(r"\{(\w+)\}", self.template)
        text = "".join(re.escape(part) if not at % 2 else f"(?P<{part}>[^/]+)" for at, part in enumerate(parts))
        return re.compile(text, re.IGNORECASE)


class Router:
    """Finds the function of a request. Paths have no case, as on Azure."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._compiled = [(route, route.pattern) for route in routes]

    def answer(self, session: Session, request: Request) -> Answer:
        """Raises ArmError: 400 for a path or a version that is none, 404 for another subscription, 501 for what the
        facade does not do."""
        path = request.path.rstrip("/")
        _check_path(path)
        if not _API_VERSION.fullmatch(request.query.get("api-version", "")):
            raise ArmError(400, "MissingApiVersionParameter", "the query parameter api-version must be a date")
        other = False
        for route, pattern in self._compiled:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if route.method != request.method:
                other = True
                continue
            parts = found.groupdict()
            if parts.get("subscription", SUBSCRIPTION).lower() != SUBSCRIPTION:
                raise ArmError(404, "SubscriptionNotFound", "this host has one subscription: az account show")
            return route.handle(session, replace(request, path=path, parts=parts))
        raise _not_implemented(request.method, path, known=other)


def _check_path(path: str) -> None:
    for part in path.split("/")[1:]:
        if not _PART.fullmatch(part) or part in (".", "..") or "%" in part or unquote(part) != part:
            raise invalid("the path is not one of a resource")


def _not_implemented(method: str, path: str, *, known: bool) -> ArmError:
    """501 with the name of what was asked for."""
    provider = path.rsplit("/providers/", maxsplit=1)[-1] if "/providers/" in path else path
    words = provider.strip("/").split("/")
    # namespace, type, and each further type or verb: names of resources stand between them
    name = "/".join([words[0], *words[1::2]]) if len(words) > 2 else provider.strip("/")
    verb = f" {words[-1]}" if method == "POST" and len(words) % 2 == 0 and len(words) > 2 else ""
    what = f"{method} {name[:160]}{verb[:60]}" + (" (other methods are)" if known else "")
    return ArmError(501, "NotImplemented", f"goldsmith does not implement {what}; docs/az.md lists what it does")


def accepted(request: Request, task: Task, body: Any = None, *, status: int = 202) -> Answer:
    """The answer to a request that began a long operation: where to ask for its state and for its result.

    https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations
    """
    place = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/local"
    headers = {
        "Azure-AsyncOperation": request.link(f"{place}/operations/{task.id}"),
        "Location": request.link(f"{place}/operationResults/{task.id}"),
        "Retry-After": RETRY_AFTER,
    }
    if status != 202:
        headers.pop("Location")  # the result of a PUT is its resource
    return Answer(status, body, headers)
