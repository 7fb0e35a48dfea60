"""The boot sector of tests/fakes is what its source says, and its parameters stand where power.py writes them."""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

import pytest

from tests.fakes.power import Behaviour, boot_sector, power_disk
from tests.tools import needs_tool


@needs_tool("as", "ld")
def test_the_boot_sector_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    source = resources.files("tests.fakes").joinpath("power.S").read_text()
    (tmp_path / "power.S").write_text(source)
    command = next(line for line in source.splitlines() if "as --32" in line).strip("# ")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "power.bin").read_bytes() == boot_sector()


def test_its_parameters_are_its_last_bytes(tmp_path: Path) -> None:
    disk = power_disk(tmp_path / "disk.raw", Behaviour.RESTARTS, 20).path.read_bytes()
    assert len(boot_sector()) == 512
    assert disk[507:512] == (364).to_bytes(2, "little") + b"r\x55\xaa"
    with pytest.raises(ValueError, match="ticks"):
        power_disk(tmp_path / "disk.raw", Behaviour.RESTARTS, 7200)
