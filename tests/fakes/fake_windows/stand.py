"""A project with the stand-in's media, in a store of its own. NOT WINDOWS."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.fake_windows import media, parts
from tests.harness import Lab

#: Deadlines are for hosts that emulate a real installation; the stand-in's takes a hundredth of that.
TIMEOUT_FACTOR = 0.06


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Stand:
    lab: Lab
    parts: parts.Parts
    initrd: Path
    server: Path
    virtio: Path

    @classmethod
    def build(cls, home: Path, project: Path, packages: Path | None = None) -> Stand:
        """Make the media, of parts in `packages` (by default in the store). Skips where a tool is missing."""
        parts.need_tools()
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        found = parts.gather(packages or home / "stand-in")
        initrd = project / "initrd"
        parts.initramfs(found, media.GUEST, {"fake_hive.py": media.HIVES}, project / "work", initrd)
        server = media.installation(found, initrd, project)
        return cls(Lab(project, home), found, initrd, server, media.drivers(project))

    def other(self, name: str) -> Path:
        """A folder for media of another kind."""
        folder = self.lab.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def define(
        self,
        name: str,
        *,
        generation: int = 2,
        edition: str = "ServerStandard Server",
        timezone: str = "UTC",
        steps: str = "",
        timeout_factor: float = TIMEOUT_FACTOR,
        server: Path | None = None,
        virtio: Path | None = None,
        more: str = "",
    ) -> str:
        """Write a definition, with `more` keys; its name."""
        server, virtio = server or self.server, virtio or self.virtio
        self.lab.write(
            f"images/{name}.yaml",
            f"goldsmith: 1\nsummary: NOT WINDOWS\nos: windows\nsource:\n"
            f"  iso: {{path: {server}, sha256: {sha256(server)}}}\n"
            f"  drivers: {{path: {virtio}, sha256: {sha256(virtio)}}}\n"
            f"  edition: {edition}\n"
            f"disk: 2 GiB\ngenerations: [{generation}]\ntimezone: '{timezone}'\n"
            f"machine: {{cpus: 1, memory: 1 GiB, timeout_factor: {timeout_factor}}}\n"
            f"{steps and f'steps: {steps}'}\n{more}\n",
        )
        return name
