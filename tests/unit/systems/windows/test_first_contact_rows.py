"""What the audit of the Windows side marked as certain has a row in the reports, and each row's tests exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.systems.windows import generalize, sysprep
from pipeline.systems.windows.machine import FEATURES
from pipeline.systems.windows.session import WindowsSession

ROOT = Path(__file__).parents[4]
REPORTS = sorted((ROOT / "docs/reports").glob("first-contact-*.md"))
#: The rows that were shown on real data, or by Microsoft's own text.
CERTAIN = (1, 2, 3, 4, 5, 7, 11, 12)
#: Those of the others that the fabric and the machine of a build mend.
MENDED = (8, 9, 10)
#: A file, or a test of the file before it.
NAMED = re.compile(r"(test_\w+\.py)?::(test_\w+)|(test_\w+\.py)")


def rows() -> dict[str, str]:
    """The last cell of each row of the tables of Windows, by the row's name."""
    lines = [line for page in REPORTS for line in page.read_text().splitlines() if line.startswith("| W")]
    return {cells[1].strip(): cells[-2] for line in lines if (cells := re.split(r"(?<!\\)\|", line))}


def named_tests(cell: str) -> list[tuple[str, str]]:
    """Each (file, test) that a cell names; the test is empty where it names the file alone."""
    found, file = [], ""
    for match in NAMED.finditer(cell):
        file = match[1] or match[3] or file
        found.append((file, match[2] or ""))
    return found


@pytest.mark.parametrize("row", [*CERTAIN, *MENDED])
def test_a_row_of_the_audit_has_its_tests(row: int) -> None:
    assert named_tests(rows()[f"W{row}"])


@pytest.mark.parametrize("row", sorted(rows()))
def test_the_tests_of_a_row_exist(row: str) -> None:
    for file, test in named_tests(rows()[row]):
        (path,) = (ROOT / "tests").rglob(file)
        assert not test or f"\ndef {test}(" in path.read_text(), f"{file} has no {test}"


# ---- W3: no answer file for sysprep on Azure ---------------------------------------------------------------------


@pytest.mark.parametrize("skips", [False, True])
def test_sysprep_gets_an_answer_file_only_where_the_definition_keeps_one(
    skips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    written: list[str] = []

    def call(_command: str, arguments: Any) -> dict[str, int]:
        calls.append(arguments["arg"])
        return {"pid": 7}

    guest: Any = SimpleNamespace(
        agent=SimpleNamespace(call=call),
        deadlines=SimpleNamespace(command=1.0),
        progress=lambda _text: None,
        picture=lambda **_words: None,
    )
    monkeypatch.setattr(sysprep.Shell, "powershell", lambda *_words, **_options: 0)
    monkeypatch.setattr(sysprep.Shell, "write", lambda _shell, path, _data: written.append(path))
    monkeypatch.setattr(sysprep, "_wait", lambda *_words: None)
    definition: Any = SimpleNamespace(generalize=SimpleNamespace(skip_oobe=skips), locale="en-US", timezone="UTC")
    sysprep.generalize(guest, generalize._answers(definition), mode_vm=True, on_line=lambda _line: None)
    (words,) = calls
    assert [word for word in words if word.startswith("/unattend")] == ([f"/unattend:{sysprep.ANSWERS}"] * skips)
    assert written == [sysprep.ANSWERS] * skips


# ---- W8: the variables of the firmware go with the disk ----------------------------------------------------------


@pytest.mark.parametrize("efi", [True, False])
def test_the_variables_of_a_build_are_kept_beside_its_layer(efi: bool, tmp_path: Path) -> None:
    nvram, layer = tmp_path / "run" / "build" / "vars.fd", tmp_path / "layer"
    nvram.parent.mkdir(parents=True)
    layer.mkdir()
    if efi:
        nvram.write_bytes(b"the keys of 2023, as an update left them")
    session = WindowsSession.__new__(WindowsSession)
    spec = SimpleNamespace(nvram=nvram if efi else None)
    session.machine = SimpleNamespace(destroy=lambda: None, spec=spec)  # type: ignore[assignment]  # a likeness
    session.folder, session.kept_variables = nvram.parent, layer / "vars.fd"
    session.close()
    assert (layer / "vars.fd").exists() is efi
    assert not efi or (layer / "vars.fd").read_bytes() == b"the keys of 2023, as an update left them"
    assert not nvram.parent.exists()


# ---- W10: a driver for the controller of the clones ---------------------------------------------------------------


def test_a_build_has_the_controller_that_clones_boot_from() -> None:
    assert FEATURES.scsi_controller
    golden = (ROOT / "tests/golden/domain/windows-install-gen2.xml").read_text()
    assert re.search(r'<controller type="scsi"[^>]* model="virtio-scsi"', golden)
    assert 'bus="scsi"' not in golden  # its own disk is on another one
