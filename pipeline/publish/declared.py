"""The targets that a project declares in `publish.yaml`.

targets:
  west: {url: "https://ACCOUNT.blob.core.windows.net/images", parallel: 4, bandwidth: 50 MiB}
  lab:
    url: http://127.0.0.1:10000/devstoreaccount1/images
    credential: {key: "file:/etc/goldsmith/lab.key"}     # or sas, connection-string; else Azure's default chain
  shelf: {folder: /srv/images}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.base.errors import UsageError
from pipeline.definition import units
from pipeline.definition.diagnostics import DefinitionError
from pipeline.definition.document import MAX_BYTES, parse
from pipeline.publish.credentials import Credential, Source, parse_source
from pipeline.publish.targets import FILE, MOST_PARALLEL, NAME, PARALLEL, Target, container_url


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


class _TargetPart(_Part):
    url: Annotated[str, AfterValidator(_url)] | None = None
    folder: str | None = None
    credential: _CredentialPart | None = None
    parallel: Annotated[int, Field(ge=1, le=MOST_PARALLEL)] = PARALLEL
    bandwidth: Annotated[int, BeforeValidator(units.size), Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _has_single_place(self) -> _TargetPart:
        if (self.url is None) == (self.folder is None):
            raise ValueError("name exactly one of url and folder")
        if self.folder is not None and self.credential is not None:
            raise ValueError("a folder takes no credential")
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
    if document.faults:
        raise DefinitionError(document.faults)
    return {name: _target(part, path.parent) for name, part in shape.targets.items()}


def _target(part: _TargetPart, project: Path) -> Target:
    return Target(
        part.url,
        (project / part.folder).absolute() if part.folder is not None else None,
        part.credential.opened() if part.credential is not None else Credential(),
        part.parallel,
        part.bandwidth,
    )
