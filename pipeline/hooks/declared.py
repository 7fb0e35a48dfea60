"""The hooks that a project, or a host, declares in `hooks.yaml`.

site: {folder: /srv/www/gallery, metrics: /var/lib/node_exporter/goldsmith.prom}    # written after each refresh
runs-url: https://build.example/runs       # where the store's folder `runs` is served: messages link to the report
notify:
  - {webhook: "https://chat.example/hook", events: [night, publish, vm]}    # default: all three
  - {webhook-from: "file:/etc/goldsmith/hook.url"}                      # an address that is a secret
  - {command: "/usr/local/bin/page-on-call --queue images"}             # gets the message on stdin
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.base.errors import UsageError
from pipeline.definition.diagnostics import DefinitionError
from pipeline.definition.document import MAX_BYTES, parse
from pipeline.publish.credentials import Source, parse_source
from pipeline.publish.targets import is_loopback

#: The name of the file in a project's folder.
FILE = "hooks.yaml"

#: What may have failed: a refresh or one of its images, a publication, a VM that is created or awaited.
Event = Literal["night", "publish", "vm"]
EVENTS: tuple[Event, ...] = ("night", "publish", "vm")


@dataclass(frozen=True)
class Receiver:
    """Who gets a message: a webhook's address, the source of an address, or the words of a command."""

    events: tuple[Event, ...] = EVENTS
    webhook: str = field(default="", repr=False)
    source: Source | None = None
    command: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Without the path of an address: it is a secret at many services."""
        if self.command:
            return f"the command {self.command[0]}"
        return f"the webhook at {urlsplit(self.webhook).hostname}" if self.webhook else "the webhook of webhook-from"

    def address(self, variables: Mapping[str, str]) -> str:
        """The webhook's address. Raises UsageError (credential-missing, hook-address)."""
        if self.source is None:
            return self.webhook
        return checked_address(self.source.read(variables))


@dataclass(frozen=True)
class Hooks:
    """All hooks. `site`: the folder of the gallery's site; `runs_url`: the address of the store's folder `runs`.

    `link_pages`: whether the site's pages of versions are links to the gallery's files.
    """

    receivers: tuple[Receiver, ...] = ()
    site: Path | None = None
    metrics: Path | None = None
    runs_url: str = ""
    link_pages: bool = True


def checked_address(text: str) -> str:
    """The address of a webhook. Raises UsageError (hook-address), without repeating it."""
    parts = urlsplit(text)
    good = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not good or not parts.hostname or any(character.isspace() for character in text):
        raise UsageError(
            "the address of a webhook is not an https:// address",
            name="hook-address",
            hint="write https://HOST/PATH; http:// is for this host's loopback only",
        )
    return text


def _address(text: str) -> str:
    try:
        return checked_address(text)
    except UsageError as error:
        raise ValueError(f"{error.message} ({error.hint})") from None


def _source(text: object) -> Source:
    try:
        return parse_source(text if isinstance(text, str) else "")
    except UsageError as error:
        raise ValueError(error.message) from None


def _words(text: object) -> list[str]:
    words = shlex.split(text) if isinstance(text, str) else []
    if not words:
        raise ValueError("is not a command")
    return words


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True)


class _SitePart(_Part):
    folder: str
    metrics: str | None = None
    link: bool = True


class _ReceiverPart(_Part):
    webhook: Annotated[str, AfterValidator(_address)] | None = None
    webhook_from: Annotated[Source, BeforeValidator(_source)] | None = Field(default=None, alias="webhook-from")
    command: Annotated[list[str], BeforeValidator(_words)] | None = None
    events: Annotated[list[Event], Field(min_length=1)] = Field(default_factory=lambda: list(EVENTS))

    @model_validator(mode="after")
    def _is_single(self) -> _ReceiverPart:
        if sum(each is not None for each in (self.webhook, self.webhook_from, self.command)) != 1:
            raise ValueError("name exactly one of webhook, webhook-from and command")
        return self


class _File(_Part):
    site: _SitePart | None = None
    runs_url: Annotated[str, Field(pattern=r"^https?://[^\s\"'<>]+$")] | None = Field(default=None, alias="runs-url")
    notify: list[_ReceiverPart] = Field(default_factory=list)


def read_hooks(path: Path) -> Hooks:
    """The hooks of a file; none if it does not exist. Paths are relative to its folder. Raises DefinitionError."""
    if not path.is_file():
        return Hooks()
    with path.open("rb") as file:
        document = parse(file.read(MAX_BYTES + 1), str(path))
    if document.faults:
        raise DefinitionError(document.faults)
    try:
        shape = _File.model_validate(document.data)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            document.add(tuple(each["loc"]), each["msg"].removeprefix("Value error, "), "see docs/nightly.md")
        raise DefinitionError(document.faults) from None
    receivers = [
        Receiver(tuple(each.events), each.webhook or "", each.webhook_from, tuple(each.command or ()))
        for each in shape.notify
    ]
    site = shape.site
    return Hooks(
        tuple(receivers),
        (path.parent / site.folder).absolute() if site else None,
        (path.parent / site.metrics).absolute() if site and site.metrics else None,
        (shape.runs_url or "").rstrip("/"),
        bool(site and site.link),
    )
