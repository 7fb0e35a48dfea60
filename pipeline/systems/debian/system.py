"""Debian: bootstrapped from its archive, its packages by apt."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.base.errors import GoldsmithError, HostError
from pipeline.cache.units import UnitSpec
from pipeline.definition import DebianSource, Definition, Source
from pipeline.definition.document import Document
from pipeline.definition.system_rules import Check, SystemRules
from pipeline.guest.build import Build
from pipeline.systems.base import Lookups
from pipeline.systems.debian.inspection import INSPECTION
from pipeline.systems.debian.rules import check
from pipeline.systems.inspection import Inspection
from pipeline.systems.linux.system import LinuxSystem

if TYPE_CHECKING:
    from pipeline.cache.layers import Image
    from pipeline.gallery import Version


class DebianSystem(LinuxSystem):
    """A Debian whose suite is known: bootstrapped here, or begun with a master that was."""

    name: ClassVar[str] = "debian"
    inspection: ClassVar[Inspection] = INSPECTION
    rules: ClassVar[SystemRules | None] = None
    added_rules: ClassVar[tuple[Check, ...]] = (check,)

    def claims(self, definition: Definition, suite: str | None) -> bool:
        return suite is not None or isinstance(definition.source, DebianSource)

    def source_unit(self, build: Build, source: Source) -> UnitSpec[Build]:
        from pipeline.systems.debian.sources import bootstrap_unit

        if isinstance(source, DebianSource):
            return bootstrap_unit(build, source)
        return super().source_unit(build, source)

    def needs_root_for_source(self, source: Source) -> str:
        bootstraps = isinstance(source, DebianSource)
        return "it bootstraps a file system, whose files belong to root" if bootstraps else ""

    def check_source(self, definition: Definition, document: Document, lookups: Lookups) -> None:
        from pipeline.systems.debian.sources import check_source

        if isinstance(definition.source, DebianSource):
            check_source(definition.source, document, lookups)

    def package_index(self, suite: str) -> str | None:
        from pipeline.systems.debian import apt

        return apt.package_index(suite)

    def outdated_packages(self, suite: str, disk: Image, within: Path) -> list[str] | None:
        from pipeline.disk.facts import dpkg_versions
        from pipeline.systems.debian import apt

        with contextlib.suppress(GoldsmithError, OSError):
            found = dpkg_versions(disk.path, disk.format.key, within=within)
            return apt.newer(suite, found) if found else None
        return None

    def updates_for(self, master: Version) -> list[str] | None:
        """The packages of a master that its archive has newer versions of; None of a master that is of no suite.

        Raises HostError (archive-not-reached): a night that could not look must not say that nothing is newer.
        """
        from pipeline.disk.facts import dpkg_versions
        from pipeline.systems.debian import apt

        suite = master.manifest.get("suite")
        if not suite:
            return None
        found = apt.newer(str(suite), dpkg_versions(master.disk, master.format.key))
        if found is None:
            raise HostError(
                f"the archive of {suite} does not answer: whether {master.name} has outdated packages is not known",
                name="archive-not-reached",
                hint="check the host's network and the mirror in /etc/apt; an old suite moves to another mirror",
            )
        return found


SYSTEM = DebianSystem()
