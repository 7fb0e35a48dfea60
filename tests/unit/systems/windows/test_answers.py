"""Answer files: pinned, and held to a vocabulary, because Windows says nothing of what it does not understand."""

from __future__ import annotations

import base64

import pytest
from lxml import etree

from pipeline.base.errors import UsageError
from pipeline.systems.windows.answers import Machine, Wishes, azure, first_boot, hidden, installation
from pipeline.systems.windows.unattend_schema import KNOWN, NS, validate

WISHES = Wishes(image=2, drivers="2k22", password="only-while-built")
FILES = {
    "gen2": lambda: installation(WISHES, Machine(2)),
    "gen1": lambda: installation(WISHES, Machine(1, secure_boot=False, tpm=False)),
    "key-and-locale": lambda: installation(
        Wishes(4, "w11", "x", "de-DE", "W. Europe Standard Time", "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE"), Machine(2)
    ),
    "first-boot": first_boot,
    "azure-medium": lambda: azure("gen2-a1b2c3", "clone", "drawn-once", "de-DE", "W. Europe Standard Time"),
}


@pytest.mark.parametrize("name", FILES)
def test_answer_files_are_pinned(name: str, golden) -> None:
    golden(f"answers/{name}.xml", FILES[name]().decode())


def test_no_password_can_be_read_and_none_is_in_a_clones_file() -> None:
    text = FILES["gen2"]().decode()
    assert WISHES.password not in text
    assert "Password" not in FILES["first-boot"]().decode()
    assert base64.b64decode(hidden("a", "Password")).decode("utf-16-le") == "aPassword"


def test_lab_config_only_where_the_machine_lacks_something() -> None:
    assert "LabConfig" not in FILES["gen2"]().decode()
    assert FILES["gen1"]().decode().count("LabConfig") == 2


def test_drivers_are_looked_for_on_every_likely_letter() -> None:
    root = etree.fromstring(FILES["gen2"]())
    paths = [element.text or "" for element in root.iter(f"{{{NS}}}Path") if "amd64" in (element.text or "")]
    assert len(paths) == 30
    assert {path[0] for path in paths} == set("DEFGHI")
    assert rf"G:\vioscsi\{WISHES.drivers}\amd64" in paths


GOOD = FILES["gen2"]().decode()
FAULTS = {
    "a misspelt setting": ("HideEULAPage", "HideEulaPage", "HideEulaPage is not a known setting"),
    "a component in another pass": (
        'name="Microsoft-Windows-Deployment"',
        'name="Microsoft-Windows-PnpCustomizationsWinPE"',
        "is not a component of specialize; it is one of windowsPE",
    ),
    "a component that nobody knows": (
        'name="Microsoft-Windows-Deployment"',
        'name="Microsoft-Windows-Deploymint"',
        "is not a component of specialize",
    ),
    "a pass that nobody knows": ('pass="specialize"', 'pass="specialise"', "specialise"),
    "another architecture": ('processorArchitecture="amd64"', 'processorArchitecture="x86"', "x86"),
    "a number that is none": ("<DiskID>0</DiskID>", "<DiskID>first</DiskID>", "is not a valid number"),
    "a truth that is none": ("<HideEULAPage>true<", "<HideEULAPage>yes<", "is not a valid truth value"),
    "an item that is not added": ('<Disk wcm:action="add">', "<Disk>", "is an item of a list"),
    "an order twice": ("<Order>2</Order>", "<Order>1</Order>", "Order 1 is duplicated"),
    "another namespace": ("schemas-microsoft-com:unattend", "schemas-microsoft-com:unattended", "unattend"),
    "no XML": ("</unattend>", "", "line"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_windows_would_pass_over_is_named(name: str) -> None:
    old, new, result = FAULTS[name]
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        validate(GOOD.replace(old, new).encode())
    assert caught.value.name == "answer-file-invalid"
    assert result in caught.value.message


def test_every_pass_is_one_that_windows_has() -> None:
    passes = {"windowsPE", "offlineServicing", "generalize", "specialize", "auditSystem", "auditUser", "oobeSystem"}
    assert {when for when, _ in KNOWN} <= passes
