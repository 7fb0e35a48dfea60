"""The wheel and the Debian package: what they hold and ask for is what goldsmith reads and `make setup` installs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

from pipeline.base.store import ANSIBLE_USER, FABRIC_USER, FACADE_USER, Store

ROOT = Path(__file__).parents[2]
DEB = ROOT / "tools" / "deb"
#: What a host needs only to compile libvirt's module and to make a virtual environment.
BUILD_ONLY = {"gcc", "pkg-config", "libvirt-dev", "python3", "python3-dev", "python3-venv"}
#: What every Debian has: a package does not depend on it.
ESSENTIAL = {"util-linux"}


def setup_list(name: str) -> list[str]:
    """The words of an array in tools/setup.sh."""
    text = (ROOT / "tools" / "setup.sh").read_text().partition(f"\n{name}=(")[2]
    return re.sub(r"#.*", "", text[: re.search(r"\)\s*$", text, re.MULTILINE).start()]).split()  # type: ignore[union-attr]


def test_the_wheel_has_every_file_of_the_package() -> None:
    """Files that are no modules come with it by patterns: one that no pattern names is missing in a user's wheel."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline"]
    package = ROOT / "pipeline"
    named = {file for pattern in patterns for file in package.glob(pattern)}
    others = {
        file
        for file in package.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
    }
    assert len(others) > 15
    assert sorted(str(file.relative_to(ROOT)) for file in others - named) == []


def test_each_folder_with_modules_is_a_package() -> None:
    """`packages.find` leaves out a folder without __init__.py, and an editable installation does not show it."""
    folders = {file.parent for file in (ROOT / "pipeline").rglob("*.py")}
    assert [
        str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []


def test_the_debian_package_depends_on_what_setup_installs() -> None:
    printed = subprocess.run(
        [ROOT / "tools" / "make_deb.sh", "depends"], check=True, capture_output=True, text=True, timeout=30
    ).stdout.split()
    packages = setup_list("PACKAGES")
    assert set(packages) >= BUILD_ONLY and len(packages) > 25
    assert printed == [name for name in packages if name not in BUILD_ONLY | ESSENTIAL]
    assert "Depends: @PYTHON@," in (DEB / "control.in").read_text()


def test_the_debian_package_makes_the_users_that_goldsmith_runs_as() -> None:
    lines = re.findall(r'^u (\S+) - "([^":]+)" /nonexistent \S+$', (DEB / "sysusers.conf").read_text(), re.MULTILINE)
    users = [user for user, _ in lines]
    assert users == [FABRIC_USER, FACADE_USER, ANSIBLE_USER] == setup_list("SERVICE_USERS")


def test_the_debian_package_makes_the_folders_of_the_store(tmp_path: Path) -> None:
    made = re.search(r'^for folder in "" (.*); do$', (DEB / "postinst").read_text(), re.MULTILINE)
    assert made is not None
    store = {path.name for path in Store(tmp_path / "store").ensure().root.iterdir() if path.is_dir()}
    by_setup = re.search(r'"\$STORE"/\{(.*?)\}', (ROOT / "tools" / "setup.sh").read_text())
    assert by_setup is not None and made[1].split() == by_setup[1].split(",")
    assert store <= set(made[1].split())


def test_the_scripts_of_the_debian_package_are_scripts_of_a_shell() -> None:
    for script in ("postinst", "prerm", "postrm"):
        text = (DEB / script).read_text()
        assert text.startswith("#!/bin/sh\n") and "\nset -e\n" in text
        subprocess.run(["sh", "-n", DEB / script], check=True, timeout=30)
