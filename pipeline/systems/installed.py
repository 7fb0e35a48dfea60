"""An operating system on a disk at rest: how it is recognized, and where it keeps what checks ask for.

A reader: made and asked in the sandbox's worker alone.
"""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from pipeline.base.errors import DiskError
from pipeline.disk.questions import clean_text
from pipeline.disk.units import read_services
from pipeline.systems.inspection import GENERIC, DetectedSystem, Inspection

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk
    from pipeline.disk.packages import Package
    from pipeline.disk.root import Root
    from pipeline.disk.units import Unit


class InstalledSystem(ABC):
    """One system on one open disk. Every member raises DiskError where the disk does not show what is asked for."""

    #: The agents' unit names, by agent: azure, ssh, cloud-init, azure-init, kvp. A system without units has none.
    agent_units: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: The names of the package that brings the Azure agent.
    azure_agent_packages: ClassVar[tuple[str, ...]] = ()
    #: Where boot loaders keep their menu.
    boot_menus: ClassVar[tuple[str, ...]] = ()
    #: Accounts are in /etc/passwd, and services keep their identities below /etc and /var.
    unix_layout: ClassVar[bool] = False
    #: Kinds of file systems of which checks of the system's own say whether they are clean.
    own_clean_checks: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    @abstractmethod
    def claims(self) -> bool:
        """Is this the system on the disk?"""

    @property
    @abstractmethod
    def root(self) -> Root:
        """The root of its files."""

    @property
    @abstractmethod
    def release(self) -> Mapping[str, str]:
        """What it is, in os-release's words (ID, NAME, VERSION_ID, PRETTY_NAME); empty where it does not say."""

    @abstractmethod
    def packages(self) -> tuple[Package, ...]:
        """What its package database at rest records, whatever state that is in; none where there is no database."""

    #: Whether the system itself is installed as packages: then a list of none says that its database was not found.
    consists_of_packages: ClassVar[bool] = True

    def unfinished_packages(self) -> Iterator[str]:
        """What its package manager left undone when it was interrupted, a line of evidence each."""
        return iter(())

    def services(self) -> tuple[Unit, ...]:
        """Its services and units. Only a Linux has any that are read: others raise DiskError (no-linux-root)."""
        return read_services(self.disk.root)

    def kernel_version(self, path: str) -> str:
        """The version of a kernel by its file's name: what its folder of modules is called."""
        return re.sub(r"^(vmlinuz|vmlinux|bzImage)-", "", posixpath.basename(path))

    @property
    def stale(self) -> str | None:
        """Why a reader would see stale files; None where it would not."""
        return None

    def boots_directly(self) -> bool:
        """Whether a build can start its kernel without its boot loader."""
        return False

    def has_guest_agent(self) -> bool | None:
        """Whether QEMU's guest agent starts in it; None where that is not looked for on a disk."""
        return None

    def has_cloud_init(self) -> bool | None:
        """Whether cloud-init is in it; None where that is not looked for on a disk."""
        return None


def load(inspection: Inspection) -> type[InstalledSystem]:
    """The class that an inspection names."""
    module, _, name = inspection.installed.partition(":")
    found: type[InstalledSystem] = getattr(import_module(module), name)
    return found


def find_system(disk: Disk, inspections: Sequence[Inspection]) -> tuple[Inspection, InstalledSystem]:
    """The system that claims a disk: the one that was registered last.

    Raises DiskError where none does: what a reader found damaged, else that the disk holds no root.
    """
    errors: dict[str, DiskError] = {}
    for inspection in reversed(inspections):
        system = load(inspection)(disk)
        try:
            if system.claims():
                return inspection, system
        except DiskError as error:
            errors[inspection.system] = error
        except Exception as error:
            # a hostile disk may surprise any reader: that keeps no other system from being found
            surprise = f"{type(error).__name__}: {error}"[:300]
            errors[inspection.system] = DiskError(
                surprise, name="disk-unreadable", hint="copy the disk again from its source, or repair it there"
            )
    damaged = [error for error in errors.values() if not error.name.startswith("no-")]
    if damaged:
        raise damaged[-1]
    raise errors.get(GENERIC) or next(iter(errors.values()), _none_of(disk, inspections))


def _none_of(disk: Disk, inspections: Sequence[Inspection]) -> DiskError:
    names = ", ".join(each.system for each in inspections)
    return DiskError(
        f"{disk.path.name} holds none of the systems {names}",
        name="no-known-system",
        hint="goldsmith inspect DISK --list volumes shows its file systems",
    )


def find_or_generic(
    disk: Disk, inspections: Sequence[Inspection], profile: str | None = None
) -> tuple[DetectedSystem, Inspection, InstalledSystem]:
    """The system on a disk, of those that can be inspected for `profile`; what none claims is a generic Linux.

    Where a profile is asked for and none of its systems claims the disk, the first of them is read.
    """
    wanted = [each for each in inspections if profile is None or profile in each.profiles]
    why = ""
    try:
        inspection, system = find_system(disk, wanted)
    except DiskError as error:
        why = error.message
        inspection = next((each for each in wanted if each.system == GENERIC), wanted[0])
        system = load(inspection)(disk)
    release = {} if why else _release(system)
    detected = DetectedSystem(
        inspection.system,
        inspection.os,
        profile or inspection.profiles[0],
        not why,
        clean_text(release.get("ID", ""), 200),
        clean_text(release.get("PRETTY_NAME", ""), 200),
        clean_text(release.get("VERSION_ID", ""), 200),
        clean_text(why, 500),
    )
    return detected, inspection, system


def _release(system: InstalledSystem) -> Mapping[str, str]:
    """What a system that was recognized by its root says of itself; nothing where that cannot be read."""
    try:
        return system.release
    except Exception:
        return {}
