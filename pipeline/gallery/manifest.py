"""A version's manifest: what it must hold to be used, and the one way to read it.

The required fields are those that every manifest has had since the first one that goldsmith captured; what came later
is checked where it is there. Who asks for more than is required must say what to do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from pipeline.base.disk_format import DEFAULT_OUTPUT, DiskFormat, by_output_title
from pipeline.base.files import RecordDamaged, Shape, read_json
from pipeline.base.store import IMAGE_NAME
from pipeline.cache.digests import tree_of
from pipeline.gallery.versions import parse

MANIFEST = "manifest.json"
#: Bytes of a manifest: a disk of 2040 GiB, the largest of a fixed VHD, has 71 MiB of digests.
LIMIT = 96 << 20

Size = Annotated[int, Field(ge=0, lt=1 << 63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


def _name(text: str) -> str:
    if not IMAGE_NAME.fullmatch(text):
        raise ValueError("not a name that an image can have")
    return text


def _version(text: str) -> str:
    if parse(text) is None:
        raise ValueError("not three numbers such as 2026.1121.0")
    return text


def _format(text: str) -> str:
    if by_output_title(text) is None:
        raise ValueError("not a format that this goldsmith ships")
    return text


class _BlocksShape(Shape):
    """The file of digests beside a disk."""

    file: Annotated[str, Field(pattern=r"^(disk|data-\d{1,2})\.digests$")]
    block_size: Annotated[int, Field(gt=0, lt=1 << 40)]


class DiskShape(Shape):
    """One disk: `size` and `virtual_size` in bytes; `sha256` is null where the disk is too large to take it.

    Manifests of older versions hold the chunks' digests themselves; the first ones had no `tree_sha256`.
    """

    size: Size
    virtual_size: Size
    format: Annotated[str, AfterValidator(_format)] = DEFAULT_OUTPUT.output_title
    sha256: Sha256 | None
    chunk_size: Annotated[int, Field(gt=0, lt=1 << 40)]
    chunks_sha256: list[Sha256] | None = None
    tree_sha256: Sha256 | None = None
    digests: _BlocksShape | None = None

    @model_validator(mode="after")
    def _it_is_known_by_something(self) -> DiskShape:
        if self.tree_sha256 is None and self.chunks_sha256 is None:
            raise ValueError("it has no tree_sha256")
        return self


class DataDiskShape(DiskShape):
    lun: Annotated[int, Field(ge=0, le=63)]
    caching: str
    filesystem: str | None
    label: str | None


class _Check(Shape):
    id: str
    status: str
    evidence: str = ""


class _Seen(Shape):
    """What was seen of one clone."""

    checks: dict[str, Any] = Field(default_factory=dict)
    failures: list[Any] = Field(default_factory=list)
    seconds: dict[str, float | None] = Field(default_factory=dict)
    pages: dict[str, str] = Field(default_factory=dict)


class _Timing(Shape):
    stage: str
    title: str | None = None
    seconds: float | None = None


class _Unit(Shape):
    stage: str
    title: str | None = None
    key: str | None = None
    inputs: dict[str, Any]


class _Rebuilt(Shape):
    version: str
    created: Annotated[str, AfterValidator(_moment)] | None = None
    inputs: list[_Unit]


class _Machine(Shape):
    cpus: Annotated[int, Field(gt=0, lt=1 << 16)]
    memory: Size


#: What the statements and the template of a master speak of.
_WITH_EVIDENCE = frozenset(
    [
        *("summary", "state", "start", "os", "suite", "agent", "run", "accelerator", "machine", "first_boot"),
        *("inputs", "prove", "tools", "definition"),
    ]
)


class ManifestShape(Shape):
    """A version's manifest."""

    name: Annotated[str, AfterValidator(_name)]
    version: Annotated[str, AfterValidator(_version)]
    created: Annotated[str, AfterValidator(_moment)]
    generations: list[int]
    checks: list[_Check]
    disk: DiskShape
    data_disks: list[DataDiskShape] = Field(default_factory=list)
    state: str = "captured"
    summary: str = ""
    start: str = "cold"
    os: str = "linux"
    suite: str | None = None
    agent: str | None = None
    run: str = ""
    accelerator: str | None = None
    machine: _Machine | None = None
    inputs: list[_Unit] = Field(default_factory=list)
    timings: list[_Timing] = Field(default_factory=list)
    prove: dict[str, _Seen] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    definition: str = ""
    first_boot: str | None = None
    rearms_left: int | None = None
    rebuilt: _Rebuilt | None = None
    patched_from: str | None = None
    signed_by: str | None = None
    evidence: int = 1

    @model_validator(mode="after")
    def _evidence_has_its_words(self) -> ManifestShape:
        """A master that carries evidence has had all of this from the first."""
        if "signed_by" in self.model_fields_set:
            if missing := sorted(_WITH_EVIDENCE - self.model_fields_set):
                raise ValueError(f"it has no {missing[0]}")
            if self.machine is None or any(disk.tree_sha256 is None for disk in (self.disk, *self.data_disks)):
                raise ValueError("it has no tree_sha256, or no machine")
        return self

    @classmethod
    def advice(cls) -> str:
        return (
            "goldsmith gallery verify says what else is damaged; bring the version back from an export or the archive"
        )


def format_of_disk(disk: Mapping[str, Any]) -> DiskFormat:
    """The format of a disk, from what a manifest that was read says of it."""
    row = by_output_title(disk.get("format", DEFAULT_OUTPUT.output_title))
    assert row is not None, "a manifest with another format is not read"
    return row


def tree_of_disk(disk: Mapping[str, Any]) -> str:
    """The digest that a disk is known by, from what a manifest says of it."""
    return str(disk.get("tree_sha256") or tree_of(disk["chunks_sha256"]))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the version in `folder`, None where there is none. Raises RecordDamaged."""
    return read_json(folder / MANIFEST, ManifestShape, limit=LIMIT)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a version that has to be in `folder`. Raises RecordDamaged."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise RecordDamaged(folder / MANIFEST, "it is missing", ManifestShape.advice())
    return manifest
