"""Sends messages of failures to webhooks and commands. A message that cannot be sent is a warning, never an error."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipeline.base import process
from pipeline.base.errors import GoldsmithError
from pipeline.base.runs import now
from pipeline.hooks.declared import Event, Hooks, Receiver
from pipeline.publish.targets import is_loopback

#: The format of a message; fields are added without a new number.
FORMAT = 1
#: Seconds for a webhook, and for a command.
WEBHOOK_DEADLINE, COMMAND_DEADLINE = 10.0, 60.0
#: Characters of the text of a message: chat services cut longer ones.
LONGEST = 2000


@dataclass(frozen=True)
class Failure:
    """What failed: an image or a VM, with the error's name, message and hint, and the folder of its black box."""

    subject: str
    name: str
    message: str
    hint: str = ""
    black_box: Path | None = None

    @classmethod
    def of(cls, subject: str, error: GoldsmithError) -> Failure:
        return cls(subject, error.name, error.message, error.hint or "", error.evidence)


def message(event: Event, failures: Sequence[Failure], hooks: Hooks, runs: Path) -> dict[str, Any]:
    """The message as JSON has it. `text` is for people: chat services show it. `runs` is the store's folder."""
    rows = [_to_json(each, hooks, runs) for each in failures]
    lines = [
        f"{each.subject}: {each.message} ({each.name})" + (f" {row['url'] or row['black_box'] or ''}").rstrip()
        for each, row in zip(failures, rows, strict=True)
    ]
    title = {"night": "refresh", "publish": "publication", "vm": "VM"}[event]
    text = "\n".join([f"goldsmith on {socket.gethostname()}: {title} failed", *lines])
    return {
        "goldsmith": FORMAT,
        "event": event,
        "time": now(),
        "host": socket.gethostname(),
        "text": text[:LONGEST],
        "failures": rows,
    }


def _to_json(failure: Failure, hooks: Hooks, runs: Path) -> dict[str, Any]:
    box = failure.black_box
    url = None
    if box is not None and hooks.runs_url and box.is_relative_to(runs) and box != runs:
        run = box.relative_to(runs).parts[0]
        url = f"{hooks.runs_url}/{quote(run)}/report.html"
    return {
        "subject": failure.subject,
        "error": failure.name,
        "message": failure.message,
        "hint": failure.hint or None,
        "black_box": str(box) if box is not None else None,
        "url": url,
    }


def send(
    event: Event, failures: Sequence[Failure], hooks: Hooks, runs: Path, variables: Mapping[str, str]
) -> Iterator[str]:
    """Send a message to each receiver of `event`. Yields a sentence for each that did not get it."""
    wanted = [each for each in hooks.receivers if event in each.events]
    if not failures or not wanted:
        return
    body = json.dumps(message(event, failures, hooks, runs), indent=1).encode()
    for receiver in wanted:
        try:
            if receiver.command:
                process.run(receiver.command, deadline=COMMAND_DEADLINE, stdin=body)
            else:
                _post(receiver, body, variables)
        except (GoldsmithError, OSError, ValueError) as error:
            yield f"{receiver.shown} did not get the message: {_reason(error)}"


def _post(receiver: Receiver, body: bytes, variables: Mapping[str, str]) -> None:
    """Post the message. Raises OSError (urllib's errors are such), UsageError."""
    address = receiver.address(variables)
    order = urllib.request.Request(  # noqa: S310  only https, and http on loopback
        address, data=body, headers={"Content-Type": "application/json", "User-Agent": "goldsmith"}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(_proxies(address, variables)), _NoRedirect)
    with opener.open(order, timeout=WEBHOOK_DEADLINE) as answer:
        answer.read(1)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would turn the message into a GET without it, at an address that nobody wrote."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None


def _proxies(address: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The caller's proxy for https; none for loopback."""
    if is_loopback(urlsplit(address).hostname or ""):
        return {}
    proxy = variables.get("https_proxy") or variables.get("HTTPS_PROXY")
    return {"https": proxy} if proxy else {}


def _reason(error: Exception) -> str:
    """Without the address, which may be a secret."""
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
