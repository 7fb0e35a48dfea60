"""tools/wheelhouse.py: which packages a host without a package index gets."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

DESCRIBED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = DESCRIBED["build-system"]["requires"]


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("wheelhouse", ROOT / "tools" / "wheelhouse.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_comes_as_a_wheel_or_with_what_compiles_it() -> None:
    wheels, source, own = load_tool().downloads(Path("/house"), "3.13", DESCRIBED["project"], BUILD)
    dependencies = DESCRIBED["project"]["dependencies"]
    assert {*dependencies} <= {*wheels, *source} and {*BUILD} <= {*wheels}
    assert wheels[wheels.index("--python-version") + 1] == "3.13"
    assert [each for each in source if each in dependencies] == [
        each for each in dependencies if each.startswith("libvirt-python")
    ]
    assert own[-1] == str(ROOT) and "--no-deps" in own


def test_a_package_from_source_that_the_project_no_longer_names_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"of libvirt-python pyproject\.toml names \[\]"):
        load_tool().downloads(Path("/house"), "3.13", {"dependencies": ["rich>=13"]}, BUILD)


def test_platforms_go_from_new_to_old() -> None:
    names = load_tool().platforms("x86_64")
    assert names[0] == "manylinux_2_36_x86_64" and names[-2:] == ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]
