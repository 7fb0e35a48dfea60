"""A deployment's file: sets of VMs and the endpoints that lead to them, in YAML.

It is read as a definition is: all faults at once, each with file, line, column and hint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo

from pipeline.base.errors import UsageError
from pipeline.base.names import INSTANCE_NAME
from pipeline.definition import DefinitionError, rules
from pipeline.definition.diagnostics import Fault, Wrong, closest, shown
from pipeline.definition.document import Document, Place, missing_values, parse
from pipeline.definition.error_messages import fault_of
from pipeline.definition.types import Account, DiskSize, Generation, MemorySize, Part, Text
from pipeline.definition.units import size
from pipeline.instances.set_records import (
    FAULT_DOMAINS,
    MOST_FAULT_DOMAINS,
    MOST_UPDATE_DOMAINS,
    UPDATE_DOMAINS,
)
from pipeline.instances.sizes import SMALLEST_RESOURCE_DISK, Size, find_size
from pipeline.operations.certificates import read_certificate_file
from pipeline.operations.create import LARGEST_DATA, Wishes, is_public_key
from pipeline.operations.endpoints import LOOPBACK, EndpointWishes, read_probe
from pipeline.operations.sets import MOST_VMS, Domains

_NAME_RULE = "a name: at most 63 lower case letters, digits and hyphens, neither first nor last a hyphen"


def _size_name(value: str) -> str:
    try:
        find_size(value)
    except UsageError as error:
        raise Wrong(error.message, error.hint or "") from None
    return value


def _probe(value: str) -> str:
    try:
        read_probe(value)
    except UsageError as error:
        raise Wrong(error.message, error.hint or "") from None
    return value


def _resource_disk(value: object) -> int:
    """Bytes of a resource disk, 0 for none."""
    if value == "none":
        return 0
    total = size(value)
    if total % (1 << 20) or total < SMALLEST_RESOURCE_DISK:
        raise Wrong(
            f"a resource disk cannot have {total} bytes",
            f"use a whole number of MiB, at least {SMALLEST_RESOURCE_DISK >> 20} MiB, or none",
        )
    return total


def _data(value: str, info: ValidationInfo) -> str:
    """A file of custom data or user data, no larger than Azure takes."""
    path = rules.project_of(info) / value
    if (found := path.stat().st_size) > LARGEST_DATA:
        raise Wrong(f"{shown(value)} has {found} bytes, and Azure takes {LARGEST_DATA}", "store the rest on a server")
    return value


def _certificate(value: str, info: ValidationInfo) -> str:
    path = rules.project_of(info) / value
    try:
        read_certificate_file(path)
    except UsageError as error:
        raise Wrong(error.message.replace(str(path), shown(value)), error.hint or "") from None
    return value


def _public_key(value: str, info: ValidationInfo) -> str:
    try:
        text = (rules.project_of(info) / value).read_text().strip()
    except UnicodeDecodeError:
        text = ""
    if not is_public_key(text):
        raise Wrong(f"{shown(value)} is not an SSH public key", "name a file that ends in .pub")
    return value


_Name = Annotated[str, AfterValidator(rules.matches(INSTANCE_NAME.pattern, _NAME_RULE))]
_File = Annotated[Text, AfterValidator(rules.existing("", "file"))]
_DataFile = Annotated[_File, AfterValidator(_data)]
_CertificateFile = Annotated[_File, AfterValidator(_certificate)]
_Port = Annotated[int, Field(ge=1, le=65535)]


class SetPart(Part):
    """A set of VMs that do the same work."""

    image: Annotated[str, AfterValidator(rules.master)] = Field(description="The master: IMAGE[@VERSION|CHANNEL].")
    count: Annotated[int, Field(ge=0, le=MOST_VMS)] = Field(default=1, description="The number of VMs.")
    name: _Name | None = Field(default=None, description="The beginning of the VMs' names; by default the set's.")
    size: Annotated[str, AfterValidator(_size_name)] | None = None
    cpus: Annotated[int, Field(ge=1, le=64)] | None = None
    memory: MemorySize | None = None
    user: Account = "azureuser"
    ssh_key: Annotated[_File, AfterValidator(_public_key)] | None = None
    custom_data: _DataFile | None = None
    user_data: _DataFile | None = None
    certificate: _CertificateFile | None = None
    settings: dict[str, str] | None = Field(default=None, description="User data as a JSON object of texts.")
    generation: Generation | None = None
    secure_boot: bool = False
    network: _Name | None = None
    outside: bool = False
    os_disk_caching: Literal["None", "ReadOnly", "ReadWrite"] = "ReadWrite"
    os_disk_size: DiskSize | None = None
    resource_disk: Annotated[int, BeforeValidator(_resource_disk)] | None = None
    fault_domains: Annotated[int, Field(ge=1, le=MOST_FAULT_DOMAINS)] = FAULT_DOMAINS
    update_domains: Annotated[int, Field(ge=1, le=MOST_UPDATE_DOMAINS)] = UPDATE_DOMAINS
    auto: bool = Field(default=False, description="Each refresh of the image upgrades the VMs to golden.")


class EndpointPart(Part):
    """A port of this host that leads to the VMs of a set."""

    set: _Name
    public: _Port
    private: _Port
    protocol: Literal["tcp", "http"] = "tcp"
    probe: Annotated[str, AfterValidator(_probe)] = "tcp"
    address: Text = LOOPBACK


class WrittenService(Part):
    """The file as it is written."""

    goldsmith: Annotated[int, AfterValidator(rules.format_version)]
    sets: Annotated[dict[_Name, SetPart], Field(min_length=1)]
    endpoints: dict[_Name, EndpointPart] = Field(default_factory=dict)


@dataclass(frozen=True)
class WantedSet:
    """A set as the file wants it. `wishes.name` is the beginning of its VMs' names; `written`: the file's keys."""

    name: str
    count: int
    wishes: Wishes
    domains: Domains
    written: frozenset[str]
    auto: bool = False


@dataclass(frozen=True)
class Service:
    """What a file describes. `document` knows the place of each value, for faults that only the host knows."""

    name: str
    file: str
    digest: str
    sets: tuple[WantedSet, ...]
    endpoints: tuple[EndpointWishes, ...]
    document: Document


def load_service(path: Path, default_key: str) -> Service:
    """Read a deployment's file; it is named as its file. Paths in it are relative to it.

    `default_key`: the text of the public key for sets that name none. Raises OSError, and DefinitionError with all
    faults.
    """
    raw = path.read_bytes()
    document = parse(raw, str(path))
    document.faults = [
        replace(fault, hint="docs/services.md has an example") if fault.message == "is empty" else fault
        for fault in document.faults
    ]
    if not INSTANCE_NAME.fullmatch(path.stem) or path.suffix != ".yaml":
        document.add(
            (), f"{shown(path.name)} is not the name of a deployment's file", f"NAME.yaml; NAME: {_NAME_RULE}"
        )
    written = _validate(document, path.absolute().parent)
    if document.faults or written is None:
        raise DefinitionError(sorted(set(document.faults), key=lambda fault: (fault.line, fault.column)))
    sets = tuple(_wanted_set(path.absolute().parent, name, part, default_key) for name, part in written.sets.items())
    endpoints = tuple(
        EndpointWishes(name, part.protocol, part.public, part.private, part.set, part.probe, part.address)
        for name, part in written.endpoints.items()
    )
    digest = hashlib.sha256(raw)
    for wanted in sets:
        wishes = wanted.wishes
        digest.update(wishes.custom_data + b"\0" + wishes.user_data + b"\0" + wishes.certificate + b"\0")
    return Service(path.stem, str(path.absolute()), digest.hexdigest(), sets, endpoints, document)


def _validate(document: Document, folder: Path) -> WrittenService | None:
    """The file's shape; None, with faults in the document, where it is wrong."""
    data = document.data
    if data is None:
        return None
    if not isinstance(data, dict):
        document.add((), f"must be a mapping, not {shown(data)}", "start the file with goldsmith: 1")
        return None
    missing = missing_values(document)
    for place in missing:
        document.add(place, "has no value", "add a value, or remove the key")
    context = rules.Context(folder)
    try:
        written = WrittenService.model_validate(data, context=context)
    except ValidationError as error:
        spoken_for = {document.position(place) for place in missing}
        for detail in error.errors(include_url=False):
            fault = fault_of(cast(dict[str, Any], detail), document, context)
            if (fault.file, fault.line, fault.column) not in spoken_for:
                document.faults.append(fault)
        return None
    _check_together(document, written)
    return written


def _check_together(document: Document, written: WrittenService) -> None:
    """What keys ask of each other."""
    for name, part in written.sets.items():
        place: Place = ("sets", name)
        if (part.cpus is None) != (part.memory is None):
            document.add(place, "cpus and memory must be used together", "write both, or size", at_key=True)
        if part.size is not None and part.cpus is not None:
            document.add((*place, "size"), "size cannot be combined with cpus and memory", "remove one", at_key=True)
        if part.settings is not None and part.user_data is not None:
            hint = "remove one: settings are user data"
            document.add((*place, "settings"), "settings cannot be combined with user_data", hint, at_key=True)
        if part.auto and part.image.partition("@")[2] not in ("", "golden"):
            hint = f"image: {part.image.partition('@')[0]}"
            document.add((*place, "auto"), f"auto follows golden, and the image is {part.image}", hint, at_key=True)
        if part.secure_boot and part.generation == 1:
            document.add((*place, "secure_boot"), "Secure Boot needs generation 2", "generation: 2?")
        if part.settings is not None and len(_settings(part)) > LARGEST_DATA:
            document.add((*place, "settings"), f"are more than the {LARGEST_DATA} bytes of user data")
    ports: dict[int, str] = {}
    for name, endpoint in written.endpoints.items():
        if endpoint.set not in written.sets:
            hint = closest(endpoint.set, written.sets) or f"sets of this file: {', '.join(written.sets)}"
            document.add(("endpoints", name, "set"), f"there is no set {shown(endpoint.set)} in this file", hint)
        if endpoint.public in ports:
            message = f"port {endpoint.public} is the port of the endpoint {ports[endpoint.public]}, too"
            document.add(("endpoints", name, "public"), message, "use another port")
        ports[endpoint.public] = name


def _settings(part: SetPart) -> bytes:
    return json.dumps(part.settings, indent=1, sort_keys=True).encode()


def _wanted_set(folder: Path, name: str, part: SetPart, default_key: str) -> WantedSet:
    chosen: Size | None = None
    if part.size is not None:
        chosen = find_size(part.size)
    elif part.cpus is not None and part.memory is not None:
        chosen = Size(None, part.cpus, part.memory)

    def content(file: str | None) -> bytes:
        return (folder / file).read_bytes() if file is not None else b""

    wishes = Wishes(
        name=part.name or name,
        image=part.image,
        user=part.user,
        public_key=(folder / part.ssh_key).read_text().strip() if part.ssh_key is not None else default_key,
        size=chosen,
        custom_data=content(part.custom_data),
        user_data=_settings(part) if part.settings is not None else content(part.user_data),
        certificate=read_certificate_file(folder / part.certificate) if part.certificate is not None else b"",
        generation=part.generation,
        secure=part.secure_boot,
        network=part.network,
        outside=part.outside,
        os_caching=part.os_disk_caching,
        os_disk_size=part.os_disk_size,
        resource_size=part.resource_disk,
        set=name,
    )
    domains = Domains(part.fault_domains, part.update_domains)
    return WantedSet(name, part.count, wishes, domains, frozenset(part.model_fields_set), part.auto)


def refuse(document: Document, faults: list[tuple[Place, str, str, str]]) -> None:
    """Raise DefinitionError for faults that only the host knows: place, message, hint and name of each."""
    found: list[Fault] = []
    for place, message, hint, name in faults:
        # what is said of a whole set or endpoint stands at its name
        document.add(place, message, hint, at_key=len(place) == 2, name=name)
        found.append(document.faults.pop())
    if found:
        raise DefinitionError(sorted(found, key=lambda fault: (fault.line, fault.column)))
