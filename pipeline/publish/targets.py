"""What a target is: a folder, the URL of a container, or a name that `publish.yaml` declares."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.base.errors import UsageError
from pipeline.publish.credentials import Credential

#: Where a project declares its targets.
FILE = "publish.yaml"
#: A name that `publish.yaml` may declare; what has a slash or a dot in front is a folder.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}", re.ASCII)
#: Azure's rule for the name of a container.
_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}", re.ASCII)
#: Requests that go at once, unless a target says otherwise.
PARALLEL = 4
#: Workers hold a page each, and memory is to stay below 150 MiB.
MOST_PARALLEL = 8


@dataclass(frozen=True)
class Target:
    """Where versions go. Exactly one of `url` and `folder` is set. `rate` in bytes a second; None for no limit."""

    url: str | None = None
    folder: Path | None = None
    credential: Credential = field(default_factory=Credential)
    parallel: int = PARALLEL
    rate: int | None = None

    @property
    def shown(self) -> str:
        return self.url or str(self.folder)

    @property
    def account(self) -> str:
        """The storage account of `url`: the first label of the host, or the first part of an emulator's path."""
        parts = urlsplit(self.url or "")
        host = parts.hostname or ""
        return parts.path.split("/")[1] if is_loopback(host) else host.split(".")[0]


def container_url(text: str) -> str:
    """A container's URL that may be used. Raises UsageError, without repeating a signature."""
    parts = urlsplit(text)
    if parts.query or parts.fragment or parts.username or parts.password:
        raise UsageError(
            "the URL of a target has a query or a password",
            name="secret-in-url",
            hint="write the URL without it, and name a file with the signature: --sas-from file:PATH",
        )
    host = parts.hostname or ""
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(
            f"{text} is not encrypted", name="target-url", hint="use https://; http:// is for an emulator on loopback"
        )
    path = parts.path.rstrip("/").split("/")[1:]
    expected = 2 if is_loopback(host) else 1
    if len(path) != expected or not (_CONTAINER.fullmatch(path[-1]) and 3 <= len(path[-1]) <= 63) or not host:
        raise UsageError(
            f"{text} is not the URL of a container",
            name="target-url",
            hint="https://ACCOUNT.blob.core.windows.net/CONTAINER, or http://127.0.0.1:PORT/devstoreaccount1/CONTAINER",
        )
    return f"{parts.scheme}://{parts.netloc}/{'/'.join(path)}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_declared(name: str, declared: Mapping[str, Target]) -> Target:
    """A target that `publish.yaml` declares. Raises UsageError (target-unknown)."""
    if name in declared:
        return declared[name]
    known = ", ".join(sorted(declared)) or "none"
    raise UsageError(
        f"there is no target {name}",
        name="target-unknown",
        hint=f"targets of {FILE}: {known}; write ./{name} for a folder, or the URL of a container",
    )


def find_target(text: str, declared: Mapping[str, Target], credential: Credential | None = None) -> Target:
    """The target that a word on the command line means. Raises UsageError."""
    if text.startswith(("http://", "https://")):
        return Target(url=container_url(text), credential=credential or Credential())
    if text in declared:
        found = declared[text]
        return (
            found if credential is None else Target(found.url, found.folder, credential, found.parallel, found.rate)
        )
    if NAME.fullmatch(text) and not Path(text).is_dir():
        return find_declared(text, declared)
    return Target(folder=Path(text).absolute())
