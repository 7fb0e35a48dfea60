"""From an installation medium to a captured master, with a guest that plays Windows' part. NOT WINDOWS.

libvirt, OVMF with Secure Boot, swtpm, the guest agent, NTFS, the hives and the answer file are real.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.checks import list_disk
from tests.windows.conftest import Stand


def built(stand: Stand, name: str) -> dict[str, object]:
    done = stand.lab.run("build", name)
    assert done.returncode == 0, done.stdout + done.stderr
    return stand.lab.last_run(name)


@pytest.mark.parametrize("generation", [2, 1])
def test_from_the_medium_to_a_master(stand: Stand, generation: int) -> None:
    stand.lab.write("scripts/mark.ps1", "Write-Output 'hello'\nSet-Content 'C:\\ProgramData\\mark.txt' 'made'\n")
    name = stand.define(f"not-windows-{generation}", generation=generation, steps="[{powershell: scripts/mark.ps1}]")
    run = built(stand, name)
    master = Path(stand.lab.master(name)["path"])
    files = {row[0] for row in list_disk(master, "vpc", what="volumes")}
    assert files
    stages = [(stage["stage"], stage["state"]) for stage in run["stages"]]  # type: ignore[attr-defined]
    assert ("install", "new") in stages and ("capture", "new") in stages
    manifest = json.loads((master.parent / "manifest.json").read_text())
    assert (manifest["os"], manifest["generations"], manifest["agent"]) == ("windows", [generation], "sysprep")
    assert stand.lab.leftovers() == []
