"""The order of Azure's calls, and the group that is always deleted. A program is in the place of `az`: not Azure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.field.azure import SIZES, Azure, FieldError, run_vms

#: Writes its words down, prints what the caller reads, and fails where the file `fail` names a part of its words.
AZ = """\
#!/bin/sh
echo "$*" | head -n 1 >>"$(dirname "$0")/calls"
pattern=$(cat "$(dirname "$0")/fail")
case "$*" in *"$pattern"*) [ -n "$pattern" ] && { echo "WARNING: x" >&2; echo "ERROR: no quota" >&2; exit 3; };; esac
case "$1 $2" in
  "image create") echo '{"id": "/images/master"}';;
  "vm boot-diagnostics") echo "vm login: ";;
esac
"""


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    (tmp_path / "az").write_text(AZ)
    (tmp_path / "az").chmod(0o755)
    (tmp_path / "fail").write_text("")
    (tmp_path / "out").mkdir()
    return Azure(tmp_path / "out", "sub-1", str(tmp_path / "az"))


def calls(azure: Azure) -> list[str]:
    lines = Path(azure.az).with_name("calls").read_text().splitlines()
    return [
        " ".join(line.split()[: 3 if line.split()[1] in ("run-command", "boot-diagnostics") else 2]) for line in lines
    ]


def run(azure: Azure) -> None:
    run_vms(azure, "g", "westeurope", lambda: "/disks/os", azure.folder / "key.pub")


def test_a_vm_of_each_size_is_made_asked_and_deleted(azure: Azure) -> None:
    run(azure)
    each = ["vm create", "vm get-instance-view", "vm run-command invoke", "vm run-command invoke", "vm restart",
            "vm run-command invoke", "vm boot-diagnostics enable", "vm boot-diagnostics get-boot-log"]  # fmt: skip
    assert calls(azure) == ["group create", "image create", *each, *each, "group delete"]
    assert all((azure.folder / f"vm-{kind}.serial.log").read_text() == "vm login: \n" for kind in SIZES)
    assert list(azure.seconds)[-1] == "group-delete"


@pytest.mark.parametrize(
    ("fails", "error", "last"),
    [
        ("image create", "image-create: ERROR: no quota", "image create"),
        # the second VM is tried, and the console of the first is fetched
        (
            "vm create --resource-group g --name vm-scsi",
            "vm-scsi-create: ERROR: no quota",
            "vm boot-diagnostics get-boot-log",
        ),
        ("restart", "vm-scsi-restart: ERROR: no quota", "vm boot-diagnostics get-boot-log"),
    ],
)
def test_the_group_is_deleted_whatever_fails(azure: Azure, fails: str, error: str, last: str) -> None:
    Path(azure.az).with_name("fail").write_text(fails)
    with pytest.raises(FieldError) as raised:
        run(azure)
    assert str(raised.value) == error
    assert calls(azure)[-2:] == [last, "group delete"]


def test_a_group_that_cannot_be_deleted_is_named(azure: Azure) -> None:
    Path(azure.az).with_name("fail").write_text("group delete")
    with pytest.raises(FieldError, match=r"group-delete: ERROR: no quota\. Delete the resource group g yourself"):
        run(azure)


def test_nothing_is_deleted_that_was_not_made(azure: Azure) -> None:
    Path(azure.az).with_name("fail").write_text("group create")
    with pytest.raises(FieldError):
        run(azure)
    assert calls(azure) == ["group create"]


def test_without_the_program_the_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"group-create: .*No such file"):
        run(Azure(tmp_path, "sub-1", str(tmp_path / "none")))
