"""tools/refresh_secret_rules.py on a copy of the sources: the committed file taken over gives the same file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = ("gitleaks.toml", "LICENSE.gitleaks")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "pipeline", top / "pipeline")
    (top / "tools").mkdir()
    shutil.copy(ROOT / "tools/refresh_secret_rules.py", top / "tools")
    return top


def refresh(top: Path, rules: Path, licence: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/refresh_secret_rules.py", rules, licence],
        cwd=top,
        capture_output=True,
        text=True,
        check=False,
    )


def contents(top: Path) -> list[bytes]:
    return [(top / "pipeline/base/secret_rules" / name).read_bytes() for name in FILES]


def test_the_committed_file_gives_the_same_file(copy: Path) -> None:
    rules, licence = (ROOT / "pipeline/base/secret_rules" / name for name in FILES)
    done = refresh(copy, rules, licence)
    assert (done.returncode, done.stdout) == (0, "new: none\ngone: none\nchanged: none\n"), done.stderr
    assert contents(copy) == contents(ROOT)


def test_a_rule_that_no_engine_understands_changes_nothing(copy: Path, tmp_path: Path) -> None:
    rules, licence = (ROOT / "pipeline/base/secret_rules" / name for name in FILES)
    worse = tmp_path / "worse.toml"
    bad = "\n[[rules]]\nid = \"bad\"\ndescription = \"bad\"\nregex = '''(?<=a)b{2'''\nkeywords = [\"bad\"]\n"
    worse.write_text(rules.read_text("utf-8") + bad, "utf-8")
    assert refresh(copy, worse, licence).returncode != 0
    assert contents(copy) == contents(ROOT)
