"""Where an image comes from, as a definition is written: the kinds of `source:`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Tag

from pipeline.definition import rules
from pipeline.definition.types import (
    Package,
    Part,
    Sha256,
    Suite,
    Text,
    Unique,
)


class Debian(Part):
    """A Debian bootstrapped from its archive, no installer."""

    suite: Suite = Field(
        description="The release's code name, such as trixie or bookworm; or `stable`, `oldstable`, `testing`: the "
        "release that this is on the day of the build, whose code name the manifest records."
    )
    packages: Annotated[list[Package], Unique] = Field(
        default=[], description="Packages in addition to the base system."
    )
    check_valid_until: bool = Field(
        default=True,
        description="Whether apt refuses expired lists of packages. `false` is for an archive whose state is "
        "frozen, such as a snapshot; the image's own apt gets the same setting.",
    )


class DataDiskFile(Part):
    """The file of a data disk that belongs to a foreign disk."""

    lun: Annotated[int, Field(ge=0, le=63)] = Field(
        description="The logical unit number; `data_disks` has its size and caching."
    )
    path: Annotated[Text, AfterValidator(rules.existing("", "file"))] = Field(
        description="A file, relative to the project."
    )
    format: Literal["qcow2", "raw", "vhd", "vhdx", "vmdk"] | None = Field(
        default=None, description="The format; needed if the file's name does not end with it."
    )


class Disk(Part):
    """A disk image that somebody else made. Give a path or a url."""

    path: Annotated[Text, AfterValidator(rules.existing("", "file"))] | None = Field(
        default=None, description="A file, relative to the project. A compressed one is unpacked."
    )
    url: Annotated[str, AfterValidator(rules.web_address)] | None = Field(
        default=None, description="The address for download."
    )
    sha256: Sha256 | None = Field(
        default=None, description="The checksum of the file, compressed as it is; required with a url."
    )
    format: Literal["qcow2", "raw", "vhd", "vhdx", "vmdk"] | None = Field(
        default=None,
        description="The format of the disk, unpacked; needed if the file's name does not end with it, and the "
        "suffix of its compression.",
    )
    data_disks: list[DataDiskFile] = Field(
        default=[], description="Data disks that belong to it, with what is on them."
    )


class Iso(Part):
    """An ISO image."""

    path: Annotated[Text, AfterValidator(rules.existing("", "file"))] = Field(
        description="A file, relative to the project."
    )
    sha256: Sha256 = Field(description="Its checksum.")


class FromDebian(Part):
    """Bootstrap Debian."""

    debian: Debian


class FromDisk(Part):
    """Begin with a foreign disk."""

    disk: Disk


class FromMaster(Part):
    """Begin with a version in the gallery."""

    master: Annotated[str, AfterValidator(rules.master)] = Field(
        description="IMAGE, IMAGE@golden, IMAGE@candidate or IMAGE@VERSION.", examples=["debian-13@golden"]
    )


class FromIso(Part):
    """Install Windows from its medium."""

    iso: Iso = Field(description="The installation medium.")
    drivers: Iso = Field(description="virtio-win.iso, which has the virtio drivers and the guest agent.")
    edition: Text = Field(
        description="The edition to install: its name, its index, or its id, with its type where the medium has "
        "several of that id (`ServerStandard Server Core`)."
    )
    product_key: Annotated[str, AfterValidator(rules.product_key)] | None = Field(
        default=None,
        description="`kms` for Microsoft's public key of the edition, or a file outside the repository with the key.",
    )


SOURCES = ("debian", "disk", "master", "iso")
Source = Annotated[
    Annotated[FromDebian, Tag("source:debian")]
    | Annotated[FromDisk, Tag("source:disk")]
    | Annotated[FromMaster, Tag("source:master")]
    | Annotated[FromIso, Tag("source:iso")],
    rules.discriminator("source", SOURCES),
]
