"""A Linux of rpm, waagent.service and /boot/grub2 is judged as one of dpkg, walinuxagent.service and /boot/grub."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.checks import inspect_disk
from pipeline.systems.questions import detect_system, list_disk
from tests.fakes import fake_disk
from tests.fakes.rpm_database import database, header

NAME, VERSION, RELEASE, ARCHITECTURE = 1000, 1001, 1002, 1022
PACKAGES = {
    "WALinuxAgent": "2.9.1.1",
    "cloud-init": "23.4",
    "kernel-core": "6.1.0",
    "openssh-server": "9.2",
    "openssl": "3.0.15",
    "python3": "3.11.2",
}
RELEASE_FILE = 'NAME="Red Hat"\nID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"\nPRETTY_NAME="RHEL 9.4"\n'
REPOSITORY = "[baseos]\nname=BaseOS\nbaseurl=https://example.org/baseos\nenabled=1\n"


def put_packages(disk: Path, folder: Path, packages: dict[str, str]) -> None:
    blobs = [
        header({NAME: name, VERSION: version, RELEASE: "1.el9", ARCHITECTURE: "x86_64"})
        for name, version in packages.items()
    ]
    fake_disk.debugfs(disk, "rm /var/lib/rpm/rpmdb.sqlite")
    fake_disk.put(disk, "/var/lib/rpm/rpmdb.sqlite", database(folder / "rpmdb", *blobs), folder)


def with_rpm(good: Path, folder: Path) -> Path:
    """The good disk as another distribution would have made it."""
    disk = fake_disk.copy(good, folder / "rpm.raw")
    menu = fake_disk.FILES["boot/grub/grub.cfg"]
    unit = fake_disk.FILES["usr/lib/systemd/system/walinuxagent.service"]
    wants = "/etc/systemd/system/multi-user.target.wants"
    fake_disk.debugfs(
        disk,
        "rm /usr/lib/os-release",
        "rm /var/lib/dpkg/status",
        "rmdir /var/lib/dpkg",
        "rm /boot/grub/grub.cfg",
        "rm /usr/lib/systemd/system/walinuxagent.service",
        f"rm {wants}/walinuxagent.service",
        "rm /etc/apt/sources.list",
        "rm /etc/apt/apt.conf.d/01autoremove",
        "rmdir /etc/apt/apt.conf.d",
        "rmdir /etc/apt",
        "rm /etc/debian_version",
        f"symlink {wants}/waagent.service /usr/lib/systemd/system/waagent.service",
        "rm /usr/lib/systemd/system/ssh.service",
        f"rm {wants}/ssh.service",
        f"symlink {wants}/sshd.service /usr/lib/systemd/system/sshd.service",
    )
    for path, text in {
        "/usr/lib/os-release": RELEASE_FILE,
        "/boot/grub2/grub.cfg": menu,
        "/usr/lib/systemd/system/waagent.service": unit,
        "/usr/lib/systemd/system/sshd.service": unit,
        "/etc/yum.repos.d/baseos.repo": REPOSITORY,
    }.items():
        fake_disk.put(disk, path, text, folder)
    put_packages(disk, folder, PACKAGES)
    return disk


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_disk.build(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def rpm(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_rpm(good, tmp_path_factory.mktemp("rpm"))


def found(disk: Path) -> dict[str, tuple[str, str]]:
    return {each.id: (each.status, each.evidence) for each in inspect_disk(disk, profile=None)}


def test_both_answer_alike(good: Path, rpm: Path) -> None:
    assert (detect_system(good).system, detect_system(rpm).system) == ("debian", "rhel")
    assert detect_system(rpm).name == "RHEL 9.4"
    by_dpkg, by_rpm = found(good), found(rpm)
    assert {name for name, (status, _) in by_dpkg.items() if status != by_rpm[name][0]} == set()
    assert by_rpm["dpkg-state"] == ("pass", "6 packages")
    assert by_rpm["waagent-installed"] == ("pass", "waagent 2.9.1.1-1.el9")
    assert [row[:2] for row in list_disk(rpm, what="packages")] == [
        [name, f"{version}-1.el9"] for name, version in sorted(PACKAGES.items())
    ]


@pytest.mark.parametrize(
    ("check", "packages", "file", "status"),
    [
        ("openssl-version", {**PACKAGES, "openssl": "1.0.2k"}, None, "warn"),
        ("waagent-installed", {**PACKAGES, "WALinuxAgent": "2.2.40"}, None, "pass"),
        ("waagent-installed", {**PACKAGES, "WALinuxAgent": "2.2.40"},
         ("/etc/waagent.conf", "Provisioning.Agent=auto\nAutoUpdate.Enabled=n\n"), "fail"),
        ("serial-console", PACKAGES, ("/boot/grub2/grub.cfg",
         fake_disk.FILES["boot/grub/grub.cfg"].replace("console=ttyS0,115200n8", "quiet")), "fail"),
        ("cloud-init-seed", PACKAGES, ("/boot/grub2/grub.cfg",
         fake_disk.FILES["boot/grub/grub.cfg"].replace("rootdelay=300", "rootdelay=300 ds=nocloud")), "fail"),
        ("dpkg-state", PACKAGES, ("/var/lib/rpm/rpmdb.sqlite-wal", "not closed"), "unchecked"),
        ("dpkg-state", PACKAGES, ("/usr/bin/dpkg", "x"), "unchecked"),
    ],
)  # fmt: skip
def test_its_faults_are_found(
    rpm: Path, tmp_path: Path, check: str, packages: dict[str, str], file: tuple[str, str] | None, status: str
) -> None:
    disk = fake_disk.copy(rpm, tmp_path / "disk.raw")
    put_packages(disk, tmp_path, packages)
    if file is not None:
        fake_disk.debugfs(disk, f"rm {file[0]}")
        fake_disk.put(disk, *file, tmp_path)
    assert found(disk)[check][0] == status


def test_an_agent_whose_unit_is_masked_or_off(rpm: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(rpm, tmp_path / "disk.raw")
    fake_disk.debugfs(disk, "rm /etc/systemd/system/multi-user.target.wants/waagent.service")
    assert found(disk)["waagent-enabled"] == (
        "fail",
        "waagent.service is enabled",
    )
    fake_disk.debugfs(disk, "symlink /etc/systemd/system/waagent.service /dev/null")
    assert "waagent.service is masked" in found(disk)["waagent-enabled"][1]
