"""Every check finds its defect on an otherwise good disk, and nothing else does; the good disk has no finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import UsageError
from pipeline.checks import CheckResult, all_checks, run_checks
from pipeline.disk import open_disk
from pipeline.systems.inspection import inspections
from tests.fakes import fake_disk, seeded_windows_defects
from tests.fakes.seeded_defects import DEFECTS, GOOD, page_with_defects


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")


#: What no good disk has. A defect may leave checks that stand behind it unchecked.
NOT_GOOD = ("fail", "warn", "unchecked")


def results(disk: Path, **options: object) -> dict[str, CheckResult]:
    with open_disk(disk) as opened:
        return {result.id: result for result in run_checks(opened, **options)}  # type: ignore[arg-type]


def findings(disk: Path, **options: object) -> dict[str, str]:
    return {
        name: result.evidence
        for name, result in results(disk, **options).items()
        if result.status in ("fail", "warn", "waived")
    }


def test_the_good_disk_has_no_finding(good: Path) -> None:
    found = results(good)
    assert {name: result.evidence for name, result in found.items() if result.status != "pass"} == {}
    assert len(found) >= 45


@pytest.mark.parametrize("name", DEFECTS)
def test_defect(good: Path, tmp_path: Path, name: str) -> None:
    want, change = DEFECTS[name]
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    change(disk, tmp_path)
    assert list(findings(disk)) == [want], findings(disk)


#: Defects that LISA, Microsoft's tests of Linux images, looks for in a clone, and the check that finds each at rest.
LISA_DEFECTS = {
    "a password of root": "password-hash",
    "a swap file": "swap",
    "a shell history": "shell-history",
    "no serial console": "serial-console",
    "no CIFS": "kernel-config",
}


def test_the_five_defects_that_lisa_finds_are_found_at_rest(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    for name, want in LISA_DEFECTS.items():
        seeded, change = DEFECTS[name]
        assert seeded == want
        change(disk, tmp_path)
    assert set(findings(disk)) == set(LISA_DEFECTS.values())


@pytest.mark.parametrize("name", GOOD)
def test_other_good_disks(good: Path, tmp_path: Path, name: str) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    GOOD[name](disk, tmp_path)
    assert {name: result.evidence for name, result in results(disk).items() if result.status in NOT_GOOD} == {}


def test_every_check_has_a_defect() -> None:
    # these are about disks that the builder cannot make by one change
    rest = {"partition-bounds", "fs-bounds", *(each.root_check for each in inspections())}
    found = {want for corpus in (DEFECTS, seeded_windows_defects.DEFECTS) for want, _ in corpus.values()}
    assert {check.id for check in all_checks()} - found <= rest


def test_waived_and_declared(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put(
        disk, "/etc/passwd", fake_disk.FILES["etc/passwd"] + "svc-web:x:1001:1001::/srv/web:/bin/sh\n", tmp_path
    )
    fake_disk.put(
        disk, "/etc/shadow", fake_disk.FILES["etc/shadow"] + "svc-web:$6$x$y:19000:0:99999:7:::\n", tmp_path
    )
    fake_disk.put(disk, "/srv/web/.ssh/authorized_keys", "ssh-ed25519 AAAA x\n", tmp_path)
    assert set(findings(disk)) == {"undeclared-account", "password-hash", "authorized-keys"}
    assert findings(disk, accounts=["svc-web"]) == {}
    waived = results(disk, waive={"password-hash": "a lab", "swap": "unused"}, accounts=[])
    assert waived["password-hash"].status == "waived" and "a lab" in waived["password-hash"].evidence
    assert waived["swap"].status == "pass"
    with pytest.raises(UsageError, match="does not exist"):
        results(disk, waive={"pasword-hash": "a lab"})
    with pytest.raises(UsageError, match="no profile"):
        results(disk, profile="azure")


def test_generations_and_profiles(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put_esp(disk, "EFI/BOOT/BOOTX64.EFI", None, tmp_path)
    assert findings(disk, generations=[1]) == {}
    assert results(disk, generations=[1])["boot-efi"].status == "skip"
    assert "waagent-installed" not in results(disk, profile="any")


def test_what_a_disk_says_reaches_no_terminal(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put(disk, "/etc/hostname", "packer\x1b]0;owned\x07\n", tmp_path)
    assert "\x1b" not in findings(disk)["host-name"]


def test_a_password_in_an_address_is_not_repeated(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put(
        disk, "/etc/apt/apt.conf.d/90proxy", 'Acquire::http::Proxy "http://me:hunter2@proxy:3128";\n', tmp_path
    )
    evidence = findings(disk)["apt-proxy"]
    assert "hunter2" not in evidence and "me:***@proxy" in evidence


def test_the_page_is_current() -> None:
    page_file = Path(__file__).parents[3] / "docs" / "checks.md"
    assert page_file.read_text() == page_with_defects(), "python -m tests.fakes.seeded_defects > docs/checks.md"
