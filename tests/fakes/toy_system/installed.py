"""The toy on a disk at rest; runs in the sandbox's worker."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pipeline.base.errors import DiskError
from pipeline.disk.packages import Package
from pipeline.disk.root import Root
from pipeline.systems.installed import InstalledSystem


class InstalledToy(InstalledSystem):
    def claims(self) -> bool:
        return any(volume.kind == "vfat" and self._has_toy(volume.number) for volume in self.disk.filesystems)

    def _has_toy(self, number: int) -> bool:
        return self._files(number).is_file("/TOY/RELEASE")

    def _files(self, number: int) -> Root:
        return Root(self.disk.filesystem(next(each for each in self.disk.filesystems if each.number == number)))

    @cached_property
    def root(self) -> Root:
        for volume in self.disk.filesystems:
            if volume.kind == "vfat" and self._has_toy(volume.number):
                return self._files(volume.number)
        raise DiskError("no toy on this disk", name="no-toy-root", hint="write TOY/RELEASE")

    @property
    def release(self) -> Mapping[str, str]:
        rows = dict(line.split("=", 1) for line in self.root.text("/TOY/RELEASE").splitlines())
        name, version = rows["NAME"], rows["VERSION"]
        return {"ID": "toy", "NAME": name, "VERSION_ID": version, "PRETTY_NAME": f"{name} {version}"}

    def packages(self) -> tuple[Package, ...]:
        rows = [line.split() for line in self.root.text("/TOY/PACKAGES").splitlines()]
        return tuple(Package(name, version, "any", "install ok installed") for name, version in rows)
