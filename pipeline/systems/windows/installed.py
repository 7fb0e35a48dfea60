"""A Windows on a disk at rest: an NTFS with its hives, named by its registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from pipeline.base.errors import DiskError
from pipeline.disk import inventory
from pipeline.disk.windows import open_hive, open_windows
from pipeline.systems.installed import InstalledSystem

if TYPE_CHECKING:
    from pipeline.disk.packages import Package
    from pipeline.disk.registry import Hive
    from pipeline.disk.root import Root


class InstalledWindows(InstalledSystem):
    """Its hives are read once for all that ask. Whether one is stale each check says for itself."""

    consists_of_packages: ClassVar[bool] = False
    own_clean_checks: ClassVar[frozenset[str]] = frozenset({"ntfs"})

    def claims(self) -> bool:
        _ = self.root
        return True

    @property
    def root(self) -> Root:
        return self.disk.windows

    @cached_property
    def release(self) -> Mapping[str, str]:
        return inventory.read_system(self._software())

    def packages(self) -> tuple[Package, ...]:
        return tuple(inventory.read_programs(self._software()))

    def _software(self) -> Hive:
        """The hive SOFTWARE, its logs replayed. Raises DiskError as `open_hive`."""
        try:
            found = open_windows(self.disk).hive("SOFTWARE")
        except DiskError:
            # a list is strict, and says what is wrong with the hive
            return open_hive(self.disk, "SOFTWARE")
        return open_hive(self.disk, "SOFTWARE") if found.dirty else found
