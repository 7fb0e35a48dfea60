"""What a target is: a folder, the URL of a container, or a name that `publish.yaml` declares.

Managed disks and galleries have more settings than a word holds: only `publish.yaml` declares them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.base.errors import UsageError
from pipeline.base.printable import listed
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


#: Azure's public cloud; `endpoint:` of a target names another one.
ENDPOINT = "https://management.azure.com"


@dataclass(frozen=True)
class Place:
    """A resource group, and the region of what is created in it. `endpoint` is the Resource Manager of its cloud."""

    subscription: str
    group: str
    location: str
    endpoint: str = ENDPOINT

    def resource_id(self, path: str) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/Microsoft.Compute/{path}"


@dataclass(frozen=True)
class ManagedDisks:
    """Each disk of a version becomes a managed disk of this kind (`sku`)."""

    place: Place
    sku: str = "Standard_LRS"


@dataclass(frozen=True)
class ImageGallery:
    """Each version becomes a version of two image definitions, made from page blobs of the target `staging`."""

    place: Place
    name: str
    staging: Target
    storage_account: str
    regions: tuple[str, ...]
    publisher: str = "goldsmith"
    keep_staging: bool = False


@dataclass(frozen=True)
class Target:
    """Where versions go: exactly one of `url`, `folder`, `disks` and `gallery` is set.

    `rate` in bytes a second; None for no limit.
    """

    url: str | None = None
    folder: Path | None = None
    credential: Credential = field(default_factory=Credential)
    parallel: int = PARALLEL
    rate: int | None = None
    disks: ManagedDisks | None = None
    gallery: ImageGallery | None = None

    @property
    def shown(self) -> str:
        if self.disks is not None:
            return self.disks.place.resource_id("disks")
        if self.gallery is not None:
            return self.gallery.place.resource_id(f"galleries/{self.gallery.name}")
        return self.url or str(self.folder)

    @property
    def place(self) -> Place | None:
        """The resource group of disks and galleries."""
        resources = self.disks or self.gallery
        return resources.place if resources is not None else None

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
    known = listed(sorted(declared)) or "none"
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
        if found.place is not None and credential is not None:
            raise UsageError(
                f"{text} takes no key and no signature",
                name="target-kind",
                hint="log in to Azure (az login); the staging target of a gallery declares its own credential in "
                "publish.yaml",
            )
        return found if credential is None else replace(found, credential=credential)
    if NAME.fullmatch(text) and not Path(text).is_dir():
        return find_declared(text, declared)
    return Target(folder=Path(text).absolute())
