"""tools/wheelhouse.py: which packages a host without a package index gets."""

from __future__ import annotations

import importlib.util
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("wheelhouse", ROOT / "tools" / "wheelhouse.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_comes_as_a_wheel_or_as_its_source(tool: Any, tmp_path: Path) -> None:
    from_wheels, from_source = tool.split(DEPENDENCIES)
    assert sorted([*from_wheels, *from_source]) == sorted(DEPENDENCIES)
    assert [each.startswith("libvirt-python") for each in from_source] == [True]
    words = tool.wheels(tmp_path, "3.13", from_wheels)
    assert words[words.index("--python-version") + 1] == "3.13" and set(from_wheels) <= set(words)


def test_platforms_go_from_new_to_old(tool: Any) -> None:
    names = tool.platforms("x86_64")
    assert names[0] == "manylinux_2_36_x86_64" and names[-2:] == ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]


def test_markers_are_judged_by_the_python_of_the_other_host(tool: Any) -> None:
    """pip judges them by its own: in a house for 3.13 that 3.11 made, a package of 3.13 alone was missing."""
    required = [
        'crypt_r; python_version >= "3.13"',
        'tomli>=2; python_version < "3.11"',
        "Rich>=13",
        'x; extra == "y"',
    ]
    assert tool.missing(required, ["rich"], "3.13") == ["crypt_r"]
    assert tool.missing(required, ["rich"], "3.12") == []
    assert tool.missing(required, [], "3.10") == ["tomli>=2", "Rich>=13"]


def test_what_the_packages_of_a_folder_require_is_read_from_them(tool: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a_b-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_b-1.0.dist-info/METADATA", "Name: a-b\nRequires-Dist: c-d>=2\nRequires-Dist: e_f\n\nText")
    (tmp_path / "e_f-1.0.post1.tar.gz").touch()
    (tmp_path / "README.md").touch()
    assert tool.lacks(tmp_path, "3.13") == ["c-d>=2"]
    (tmp_path / "c_d-2.1-cp313-cp313-linux_x86_64.whl").touch()
    with pytest.raises(zipfile.BadZipFile):
        tool.lacks(tmp_path, "3.13")
