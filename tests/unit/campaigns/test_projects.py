"""Public bug reports rebuilt in small, those that need no guest: what `validate` says of each definition."""

from __future__ import annotations

import pytest

from tests.campaigns.projects import ALL, lay_out, run_case
from tests.cases import CASES
from tests.harness import Lab

WITHOUT_GUEST = [name for name, case in ALL.items() if not case.guest and case.prepare is None]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    if not (CASES / "projects").is_dir():
        pytest.skip("the cases (projects) are not beside this checkout")
    folder = tmp_path_factory.mktemp("projects")
    lay_out(folder / "project")
    return Lab(folder / "project", folder / "store")


@pytest.mark.parametrize("name", WITHOUT_GUEST)
def test_a_definition_ends_as_its_right_answer_says(lab: Lab, name: str) -> None:
    assert run_case(lab, name)["wrong"] == ""
