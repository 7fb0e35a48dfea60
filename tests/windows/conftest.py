"""What the tests with the stand-in share. NOT WINDOWS."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.campaigns.lab import Lab, new_home, remove
from tests.windows.standin import media, parts

#: Deadlines are for hosts that emulate a real installation; the stand-in's takes a hundredth of that.
PATIENCE = 0.06


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "test_standin" in str(item.path):
            item.add_marker(pytest.mark.vm)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="guests are built as root"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Stand:
    """A project with the stand-in's media."""

    lab: Lab
    parts: parts.Parts
    initrd: Path
    server: Path
    virtio: Path

    def define(
        self, name: str, *, generation: int = 2, timezone: str = "UTC", steps: str = "[]", more: str = "",
        server: Path | None = None, virtio: Path | None = None,
    ) -> str:  # fmt: skip
        server, virtio = server or self.server, virtio or self.virtio
        self.lab.write(
            f"images/{name}.yaml",
            f"goldsmith: 1\nsummary: NOT WINDOWS\nos: windows\nsource:\n"
            f"  iso: {{path: {server}, sha256: {sha256(server)}}}\n"
            f"  drivers: {{path: {virtio}, sha256: {sha256(virtio)}}}\n"
            "  edition: ServerStandard\n"
            f"disk: 2 GiB\ngenerations: [{generation}]\ntimezone: '{timezone}'\n"
            f"machine: {{cpus: 1, memory: 1 GiB, patience: {PATIENCE}}}\nsteps: {steps}\n{more}",
        )
        return name


@pytest.fixture(scope="session")
def stand() -> Iterator[Stand]:
    parts.need_tools()
    kept = os.environ.get("GOLDSMITH_TEST_HOME")
    home = Path(kept) if kept else new_home("test-windows")
    project = new_home("project-windows")
    try:
        found = parts.gather(home / "tmp" / "stand-in")
        initrd = project / "initrd"
        parts.initramfs(found, media.GUEST, {"phony_hive.py": media.HIVES}, project / "work", initrd)
        server = media.installation(found, initrd, project)
        yield Stand(Lab(project, home), found, initrd, server, media.drivers(project))
    finally:
        remove(project)
        if not kept:
            remove(home)
