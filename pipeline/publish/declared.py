"""The targets that a project declares in `publish.yaml`.

targets:
  west: {url: "https://ACCOUNT.blob.core.windows.net/images", parallel: 4, bandwidth: 50 MiB}
  lab:
    url: http://127.0.0.1:10000/devstoreaccount1/images
    credential: {key: "file:/etc/goldsmith/lab.key"}     # or sas, connection-string; else Azure's default chain
  shelf: {folder: /srv/images}
  disks:
    managed-disk: {subscription: ID, resource-group: images, location: westeurope}
  shop:
    gallery: {name: shop, subscription: ID, resource-group: images, location: westeurope, staging: west,
              storage-account: /subscriptions/ID/resourceGroups/images/providers/Microsoft.Storage/storageAccounts/x}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.base.errors import UsageError
from pipeline.definition import units
from pipeline.definition.diagnostics import DefinitionError
from pipeline.definition.document import MAX_BYTES, parse
from pipeline.publish.credentials import Credential, Source, parse_source
from pipeline.publish.targets import (
    ENDPOINT,
    FILE,
    MOST_PARALLEL,
    NAME,
    PARALLEL,
    ImageGallery,
    ManagedDisks,
    Place,
    Target,
    container_url,
)


def _source(text: object) -> Source:
    """A source of a secret; error messages never repeat a text that may be the secret itself."""
    try:
        return parse_source(text if isinstance(text, str) else "")
    except UsageError as error:
        raise ValueError(error.message) from None


def _url(text: str) -> str:
    try:
        return container_url(text)
    except UsageError as error:
        raise ValueError(f"{error.message} ({error.hint})") from None


_Source = Annotated[Source, BeforeValidator(_source)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True)


class _CredentialPart(_Part):
    key: _Source | None = None
    sas: _Source | None = None
    connection_string: _Source | None = Field(default=None, alias="connection-string")

    @model_validator(mode="after")
    def _has_single_credential(self) -> _CredentialPart:
        if sum(each is not None for each in (self.key, self.sas, self.connection_string)) != 1:
            raise ValueError("name exactly one of key, sas and connection-string")
        return self

    def opened(self) -> Credential:
        if self.key is not None:
            return Credential("key", self.key)
        if self.sas is not None:
            return Credential("sas", self.sas)
        return Credential("connection-string", self.connection_string)


def _endpoint(text: str) -> str:
    if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:\d{1,5})?/?", text, re.ASCII):
        raise ValueError("is not the https:// address of a Resource Manager")
    return text.rstrip("/")


#: What Azure accepts as names, by its rules for each kind of resource.
_Group = Annotated[str, Field(pattern=r"^[\w.()-]{0,89}[\w()-]$")]
_Region = Annotated[str, Field(pattern=r"^[a-z0-9]{2,40}$")]
_GalleryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]{0,78}[A-Za-z0-9]$")]
_ACCOUNT = r"^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Storage/storageAccounts/[a-z0-9]{3,24}$"


class _PlacePart(_Part):
    subscription: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
    group: _Group = Field(alias="resource-group")
    location: _Region
    endpoint: Annotated[str, AfterValidator(_endpoint)] = ENDPOINT

    @property
    def place(self) -> Place:
        return Place(self.subscription, self.group, self.location, self.endpoint)


class _DisksPart(_PlacePart):
    sku: Literal["Standard_LRS", "StandardSSD_LRS", "StandardSSD_ZRS", "Premium_LRS", "Premium_ZRS"] = "Standard_LRS"


class _GalleryPart(_PlacePart):
    name: _GalleryName
    staging: str
    storage_account: Annotated[str, Field(alias="storage-account", pattern=_ACCOUNT)]
    regions: Annotated[list[_Region], Field(min_length=1, max_length=100)] | None = None
    publisher: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")] = "goldsmith"
    keep_staging: bool = Field(default=False, alias="keep-staging")

    @model_validator(mode="after")
    def _is_at_home(self) -> _GalleryPart:
        if self.regions is not None and self.location not in self.regions:
            raise ValueError(f"regions must have the location of the gallery: {self.location}")
        return self


class _TargetPart(_Part):
    url: Annotated[str, AfterValidator(_url)] | None = None
    folder: str | None = None
    managed_disk: _DisksPart | None = Field(default=None, alias="managed-disk")
    gallery: _GalleryPart | None = None
    credential: _CredentialPart | None = None
    parallel: Annotated[int, Field(ge=1, le=MOST_PARALLEL)] = PARALLEL
    bandwidth: Annotated[int, BeforeValidator(units.size), Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _has_single_place(self) -> _TargetPart:
        if sum(each is not None for each in (self.url, self.folder, self.managed_disk, self.gallery)) != 1:
            raise ValueError("name exactly one of url, folder, managed-disk and gallery")
        if self.url is None and self.credential is not None:
            raise ValueError("only a url takes a credential; the Resource Manager takes Azure's default chain")
        return self


class _File(_Part):
    targets: dict[str, _TargetPart]


def declared_targets(project: Path | None) -> dict[str, Target]:
    """The targets of a project by name; none without a project or a `publish.yaml`. Raises DefinitionError."""
    path = project / FILE if project is not None else None
    if path is None or not path.is_file():
        return {}
    with path.open("rb") as file:
        document = parse(file.read(MAX_BYTES + 1), FILE)
    if document.faults:
        raise DefinitionError(document.faults)
    try:
        shape = _File.model_validate(document.data)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            document.add(tuple(each["loc"]), each["msg"].removeprefix("Value error, "), "see docs/publish.md")
        raise DefinitionError(document.faults) from None
    for name in shape.targets:
        if not NAME.fullmatch(name):
            document.add(("targets", name), "is not a name", "use a letter, then letters, digits, - and _")
    for name, part in shape.targets.items():
        staging = shape.targets.get(part.gallery.staging) if part.gallery is not None else None
        if part.gallery is not None and (staging is None or staging.url is None):
            place = ("targets", name, "gallery", "staging")
            document.add(place, "is not a target of this file with a url", "declare the container as a target")
    if document.faults:
        raise DefinitionError(document.faults)
    containers = {name: _target(part, path.parent) for name, part in shape.targets.items() if part.gallery is None}
    galleries = {name: _gallery(part, containers) for name, part in shape.targets.items() if part.gallery is not None}
    return {name: (containers | galleries)[name] for name in shape.targets}


def _gallery(part: _TargetPart, containers: Mapping[str, Target]) -> Target:
    found = part.gallery
    assert found is not None
    staging = replace(containers[found.staging], parallel=part.parallel, rate=part.bandwidth)
    gallery = ImageGallery(
        found.place,
        found.name,
        staging,
        found.storage_account,
        tuple(found.regions or [found.location]),
        found.publisher,
        found.keep_staging,
    )
    return Target(parallel=part.parallel, rate=part.bandwidth, gallery=gallery)


def _target(part: _TargetPart, project: Path) -> Target:
    disks = ManagedDisks(part.managed_disk.place, part.managed_disk.sku) if part.managed_disk is not None else None
    return Target(
        part.url,
        (project / part.folder).absolute() if part.folder is not None else None,
        part.credential.opened() if part.credential is not None else Credential(),
        part.parallel,
        part.bandwidth,
        disks,
    )
