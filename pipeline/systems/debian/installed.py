"""A Debian, or what is made from one, on a disk at rest: by os-release's ID and ID_LIKE."""

from __future__ import annotations

from pipeline.systems.linux.installed import InstalledLinux


class InstalledDebian(InstalledLinux):
    def claims(self) -> bool:
        names = [self.release.get("ID", ""), *self.release.get("ID_LIKE", "").split()]
        return "debian" in names
