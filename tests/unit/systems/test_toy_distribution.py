"""A distribution of Linux is one folder: the one that docs/systems.md writes is found, read and generalized."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pipeline
from tests.fakes import fake_disk

ROOT = Path(pipeline.__file__).parents[1]
PAGE = ROOT / "docs" / "systems.md"
IMPORTS = {
    "installed.py": "from pipeline.systems.linux.installed import InstalledLinux\n",
    "inspection.py": "from dataclasses import replace\nfrom pipeline.systems.inspection import Part\n"
    "from pipeline.systems.linux.inspection import INSPECTION as LINUX\n",
    "system.py": "from pipeline.systems.linux.residues import Residues\n"
    "from pipeline.systems.linux.system import LinuxSystem\n"
    "from pipeline.systems.slate.inspection import INSPECTION\n",
}
#: What a copy of goldsmith with the new folder says of the disk.
ASK = """
import json, sys
from pathlib import Path
from pipeline.systems import registry
from pipeline.systems.questions import detect_system, list_disk
from pipeline.checks import inspect
disk = Path(sys.argv[1])
found = detect_system(disk)
failed = [each.id for each in inspect(disk).results if each.status in ("fail", "unchecked")]
print(json.dumps({
    "system": found.system, "name": found.name, "failed": failed, "packages": len(list_disk(disk, what="packages")),
    "generalize": "slate-pkg" in registry.get("linux")._residues().after,
}))
"""


def pieces() -> dict[str, str]:
    """The code of the page, by file."""
    found = {}
    for name, code in re.findall(r"^\d\. `(\w+\.py)`:.*?\n((?:\n|^ {7}.*\n)+)", PAGE.read_text(), re.MULTILINE):
        found[name] = IMPORTS[name] + re.sub(r"^ {7}", "", code, flags=re.MULTILINE)
    return found


def test_it_is_one_folder(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    # every folder of goldsmith but `systems` is the very one
    (copy / "pipeline").mkdir()
    for path in (ROOT / "pipeline").iterdir():
        if path.name not in ("systems", "__pycache__"):
            (copy / "pipeline" / path.name).symlink_to(path)
    (copy / "pipeline/systems").mkdir()
    for path in (ROOT / "pipeline/systems").iterdir():
        if path.name != "__pycache__":
            (copy / "pipeline/systems" / path.name).symlink_to(path)
    folder = copy / "pipeline/systems/slate"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Slate: a toy."""\n')
    written = pieces()
    assert set(written) == set(IMPORTS)
    for name, code in written.items():
        (folder / name).write_text(code)
    disk = fake_disk.build(tmp_path)
    fake_disk.debugfs(disk, "rm /usr/lib/os-release")
    fake_disk.put(disk, "/usr/lib/os-release", 'ID=slate\nPRETTY_NAME="Slate 1"\n', tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(disk)],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        '{"system": "slate", "name": "Slate 1", "failed": [], "packages": 7, "generalize": true}'
    )
