"""A definition that a campaign writes must fail in its guest, not in `validate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.definition import DefinitionError, load_named
from tests.campaigns import fake_windows, guest_faults, projects
from tests.fakes.fake_windows.stand import Stand
from tests.harness import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "project", tmp_path / "store")


def write_windows(lab: Lab, fault: fake_windows.Fault) -> str:
    """The definition of a fault, with media that nobody reads here."""
    media = {name: lab.write(f"{name}.iso", name) for name in ("server", "virtio")}
    stand = Stand(lab, cast(Any, None), lab.folder / "initrd", **media)
    return fake_windows.write_definition(stand, replace(fault, media=lambda _stand: {}))


@pytest.mark.parametrize("fault", fake_windows.FAULTS, ids=lambda fault: fault.name)
def test_a_windows_image_that_fails_is_valid(lab: Lab, fault: fake_windows.Fault) -> None:
    load_named(lab.folder, write_windows(lab, fault))


def test_a_step_that_holds_only_a_comment_is_found(lab: Lab) -> None:
    """The fault that such a definition once had is found by the test above."""
    name = write_windows(lab, replace(fake_windows.FAULTS[0], step="# stand-in: blue screen"))
    (lab.folder / f"scripts/{name}.ps1").write_text("# stand-in: blue screen\n")
    with pytest.raises(DefinitionError, match="step-empty"):
        load_named(lab.folder, name)


@pytest.mark.parametrize(
    "fault", [fault for fault in guest_faults.FAULTS if not fault.edit], ids=lambda fault: fault.id
)
def test_an_image_that_fails_is_valid(lab: Lab, fault: guest_faults.Fault, tmp_path: Path) -> None:
    load_named(lab.folder, guest_faults.definition(fault, lab, tmp_path / "no-master"))


def test_the_projects_own_definition_is_valid(lab: Lab) -> None:
    prepare = projects.ALL["ids-named"].prepare
    assert prepare is not None
    prepare(lab)
    lab.write("scripts/ids.sh", "#!/bin/sh\ntrue\n")
    load_named(lab.folder, "ids-named")
