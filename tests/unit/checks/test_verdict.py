"""No pass on nothing: what a check says of a disk where its subject is absent, or cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed, DiskError, UsageError
from pipeline.checks import CheckResult, all_checks, inspect_disk, model, run_checks
from pipeline.checks.html_report import report
from pipeline.checks.model import ALL, REGISTRY, CannotLook, Check, Skip, Subject
from pipeline.checks.sandbox import inspect
from pipeline.cli import inspect as verb
from pipeline.definition.rules import NOT_WAIVABLE
from pipeline.disk import open_disk
from pipeline.evidence.statements import results as statement
from pipeline.gallery.verdict import count
from pipeline.systems.inspection import inspections
from pipeline.systems.questions import recorded_system
from pipeline.vhd.footer import MIB
from tests.cases import unpacked
from tests.fakes import fake_disk, fake_windows_disk

app = typer.Typer()
verb.register(app)


def call(*words: object) -> tuple[str, BaseException | None]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.stdout, result.exception


def looked_at(disk: Path, profile: str = "azure-linux", **options: object) -> dict[str, CheckResult]:
    with open_disk(disk) as opened:
        return {result.id: result for result in run_checks(opened, profile=profile, **options)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Linux root of one file, os-release, on a GPT disk."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "tree/etc").mkdir(parents=True)
    (folder / "tree/etc/os-release").write_text('PRETTY_NAME="A bare Linux"\n')
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(16 * MIB)
    fake_disk.tool("sgdisk", "-n1:2048:0", "-t1:8304", disk)
    fake_disk.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", folder / "tree", "-E", f"offset={MIB}", disk, "14M")
    return disk


# ---- the subject is absent -----------------------------------------------------------------------------------------

#: Checks that pass on a root of one file, and why that is right: what they forbid is not there.
ABSENCE_IS_RIGHT = {
    "fs-clean": "the root's own state was read",
    "linux-root": "os-release is what was asked for",
    "partition-table": "it is there",
    "gpt-backup": "it is there",
    "partition-alignment": "the partition was looked at",
    "partition-bounds": "the partition was looked at",
    "fs-bounds": "the root was looked at",
    "volumes-read": "the root can be read",
    "free-space": "the root was looked at",
    "swap": "no partition, no line, no file of swap",
    "serial-login": "no link takes away the getty that systemd starts by itself",
    "fstab-by-uuid": "no line of fstab mounts by device",
    "fstab-targets": "no line of fstab mounts what is not there",
    "persistent-net-rules": "no rule names a card",
    "account-locks": "no lock",
    "clock-utc": "the clock is UTC where nothing else is said",
    "temporary-files": "no file",
    "core-dumps": "no file",
    "failed-boot-marks": "no file",
    "netplan-cloud-init": "no file",
    "network-hardware-address": "no file names a card",
    "network-static-address": "no file gives an address",
    "resolv-conf": "no name server",
    "host-name": "no name",
    "resume-device": "no file and no entry names a device",
    "service-identity": "no service has one",
    "cloud-init-seed": "no seed",
    "ssh-host-keys": "no key",
    "random-seed": "no seed",
    "credential-secret": "no secret",
    "dhcp-leases": "no lease",
    "cloud-instance": "no instance",
    "waagent-state": "no state",
    "nvme-names": "no file names a disk",
    "azure-init": "it is not installed",
    "azure-init-state": "no mark",
    "resource-disk-place": "nothing is mounted",
    "resource-disk-fstab": "no line mounts it",
    "build-logs": "no log",
    "package-logs": "no log",
    "journal": "no journal",
    "package-cache": "no package",
    "apt-proxy": "no configuration of apt names a proxy",
    "apt-mirror": "no source is private",
    "apt-trust": "no source is trusted blindly",
    "secrets-searched": "the whole disk was searched",
}


@pytest.mark.parametrize("profile", ["azure-linux", "hyper-v", "any"])
def test_what_is_absent_passes_only_with_a_reason(bare: Path, profile: str) -> None:
    passed = {name for name, result in looked_at(bare, profile).items() if result.status == "pass"}
    asked = {check.id for check in all_checks(profile)}
    assert passed == ABSENCE_IS_RIGHT.keys() & asked


#: The same of a Windows whose hives are empty, with no file but them.
ABSENCE_IS_RIGHT_ON_WINDOWS = {
    **dict.fromkeys(("fs-clean", "partition-table", "gpt-backup", "partition-alignment", "partition-bounds",
                     "volumes-read", "windows-root", "win-ntfs-clean"), "the disk was looked at"),
    **dict.fromkeys(("private-keys", "access-tokens", "secrets-searched"), "the whole disk was searched"),
    "credential-files": "no file of that name",
    "config-passwords": "no file of that name",
    "win-answer-passwords": "no answer file",
    "win-dumps": "no dump",
}  # fmt: skip


def test_what_is_absent_on_windows_passes_only_with_a_reason(tmp_path: Path) -> None:
    fake_windows_disk.need_tools()
    hives = {name: {} for name in ("SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT")}
    empty = fake_windows_disk.Model(hives=hives, bcd={}, files={})
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(empty, tmp_path), tmp_path / "disk.vhd")
    found = looked_at(disk, "azure-windows")
    passed = {name for name, result in found.items() if result.status == "pass"}
    container = {name for name in found if name.startswith("vhd-")} | {"boot-efi"}
    assert passed - container == ABSENCE_IS_RIGHT_ON_WINDOWS.keys()
    assert "the hive SYSTEM has no " in found["win-rdp"].evidence


def test_a_loop_over_no_boot_entry_is_no_pass(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put(disk, "/boot/grub/grub.cfg", "serial\nterminal_output serial\n", tmp_path)
    found = looked_at(disk)
    assert found["grub-config"].status == "fail"
    behind = ("serial-console", "root-by-uuid", "kernel-command-line", "root-delay", "kernel-modules",
              "kernel-config", "initramfs-hyperv", "initramfs-nvme")  # fmt: skip
    assert {found[name].status for name in behind} == {"unchecked"}
    assert "on every entry" not in found["serial-console"].evidence


def test_one_kernel_without_an_initramfs_is_seen_beside_a_good_one(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    entry = f"\tlinux /boot/vmlinuz-{fake_disk.KERNEL}x root=UUID={fake_disk.ROOT_UUID} {fake_disk.COMMAND_LINE}\n"
    fake_disk.put(disk, "/boot/grub/grub.cfg", fake_disk.FILES["boot/grub/grub.cfg"] + entry, tmp_path)
    found = looked_at(disk)
    assert found["initramfs-hyperv"].status == "unchecked" and "6.1.0-13-amd64x" in found["initramfs-hyperv"].evidence
    assert found["kernel-config"].status == "unchecked"


# ---- the subject cannot be read ------------------------------------------------------------------------------------


def test_a_file_too_large_to_read_is_not_an_empty_one(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    names = {"/etc/passwd": "uid-zero", "/boot/grub/grub.cfg": "serial-console",
             "/etc/environment": "shell-proxy", "/etc/hosts": "host-name", "/etc/sudoers": "sudoers",
             "/var/lib/dpkg/status": "dpkg-state"}  # fmt: skip
    for path in names:
        fake_disk.debugfs(disk, f"sif {path} size {(64 << 20) + 1}")
    before = looked_at(good)
    assert {before[name].status for name in names.values()} == {"pass"}
    found = looked_at(disk)
    assert {name: found[name].status for name in names.values()} == dict.fromkeys(names.values(), "unchecked")
    assert found["host-name"].evidence == "could not be run: /etc/hosts has more than 16 MiB, which is the limit"
    # without it nobody knows what is mounted where: no file of the root is believed
    fake_disk.debugfs(disk, f"sif /etc/fstab size {(64 << 20) + 1}")
    found = looked_at(disk)
    assert found["linux-root"].status == "fail" and found["uid-zero"].status == "unchecked"


def test_sshd_without_its_configuration_is_not_sshd_by_its_defaults(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.debugfs(disk, "rm /etc/ssh/sshd_config")
    found = looked_at(disk)
    assert {found[name].status for name in ("ssh-root-login", "ssh-client-alive")} == {"unchecked"}
    fake_disk.put(disk, "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config\n", tmp_path)
    assert looked_at(disk)["ssh-root-login"].evidence.endswith("/etc/ssh/sshd_config includes itself")


def test_a_damaged_folder_is_not_an_empty_one(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    for path, size in (("/home", 1 << 40), ("/var/log", 1 << 40), ("/etc/ssh", 1 << 40)):
        fake_disk.debugfs(disk, f"sif {path} block[0] 0x7fffffff", f"sif {path} size {size}")
    found = looked_at(disk)
    for name in ("ssh-host-keys", "build-logs"):
        assert found[name].status == "unchecked", found[name]


def test_findings_before_a_check_stops_are_kept(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of severity fail fails with what it has; a warning that did not look further is only unchecked."""

    def stops(error: Exception) -> model.Run:
        def run(subject: Subject) -> Iterator[str]:
            yield "a first finding"
            raise error

        return run

    for severity, error, status in (
        ("fail", CannotLook("gone"), "fail"),
        ("warn", CannotLook("gone"), "unchecked"),
        ("warn", ValueError("gone"), "unchecked"),
        ("fail", DiskError("gone"), "fail"),
        ("fail", Skip("gone"), "fail"),
    ):
        check: Check = replace(REGISTRY["machine-id"], severity=severity, run=stops(error))  # type: ignore[arg-type]
        check.run.__module__ = "pipeline.checks.linux.identity"
        with monkeypatch.context() as patch:
            patch.setitem(REGISTRY, "machine-id", check)
            result = looked_at(good)["machine-id"]
        assert result.status == status and "a first finding" in result.evidence


# ---- no root for the profile ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_a_disk_without_the_profile_s_root_fails(bare: Path, tmp_path: Path, profile: str) -> None:
    esp = tmp_path / "esp.raw"
    with esp.open("wb") as file:
        file.truncate(40 * MIB)
    fake_disk.tool("sgdisk", "-n1:2048:0", "-t1:EF00", esp)
    fake_disk.tool("mkfs.vfat", "--offset", "2048", esp, 38 << 10)
    disks = [esp] if profile != "azure-windows" else [esp, bare]
    for disk in disks:
        found = looked_at(disk, profile)
        root = "windows-root" if profile == "azure-windows" else "linux-root"
        assert found[root].status == "fail" and "root file system" in found[root].evidence
        needing = [check.id for check in all_checks(profile) if check.needs_root]
        assert {found[name].status for name in needing} == {"unchecked"}
        out, error = call("inspect", disk, "--profile", profile)
        assert isinstance(error, CheckFailed) and error.exit_code == 1
        numbers = count([result.to_json() for result in found.values()])
        assert out.splitlines()[-1] == str(numbers) and numbers.unchecked >= len(needing)


def test_bitlocker_is_named_and_fails(tmp_path: Path) -> None:
    disk = unpacked("files/bitlocker-system.raw.xz", tmp_path)
    out, error = call("inspect", disk, "--profile", "azure-windows")
    assert isinstance(error, CheckFailed) and error.exit_code == 1
    line = next(line for line in out.splitlines() if " windows-root " in line)
    assert line.startswith("fail") and "no Windows root" in line and "cannot read bitlocker" in line


def test_linux_profiles_say_that_a_disk_is_windows(tmp_path: Path) -> None:
    fake_windows_disk.need_tools()
    disk = fake_windows_disk.build(fake_windows_disk.Model(), tmp_path)
    for profile in ("azure-linux", "hyper-v", "any"):
        found = looked_at(disk, profile)["linux-root"]
        assert found.status == "fail" and "--profile azure-windows" in found.evidence


def test_an_ntfs_that_cannot_be_opened_fails(tmp_path: Path) -> None:
    fake_windows_disk.need_tools()
    disk = fake_windows_disk.build(fake_windows_disk.Model(), tmp_path)
    with disk.open("r+b") as file:
        file.seek(fake_windows_disk.NTFS_AT + 11)
        file.write(b"\xff\xff\xff")
    found = looked_at(disk, "azure-windows")
    assert found["windows-root"].status == "fail"
    assert "pass" not in {result.status for name, result in found.items() if name.startswith("win-")}


@pytest.mark.parametrize("kind", ["empty", "passwd", "text", "zeros", "zeros in a VHD"])
@pytest.mark.parametrize("profile", ["azure-linux", "azure-windows", "any"])
def test_what_is_no_disk_is_refused(tmp_path: Path, kind: str, profile: str) -> None:
    path = tmp_path / "it"
    data = {"empty": b"", "passwd": Path("/etc/passwd").read_bytes(), "text": b"hello\n" * 4096}
    path.write_bytes(data.get(kind, bytes(8 * MIB)))
    if kind == "zeros in a VHD":
        path = fake_disk.as_vhd(path, tmp_path / "disk.vhd")
    with pytest.raises(DiskError) as caught:
        inspect_disk(path, profile=profile)
    # a file of incomplete sectors is not a raw disk
    assert caught.value.name == {"empty": "disk-empty", "passwd": "disk-size"}.get(kind, "nothing-to-inspect")
    assert caught.value.hint
    out, error = call("inspect", path, "--profile", profile)
    assert isinstance(error, DiskError) and error.exit_code == 2 and out == ""


# ---- waivers -------------------------------------------------------------------------------------------------------


def test_what_others_stand_on_cannot_be_waived(bare: Path) -> None:
    known = {check.id for check in all_checks() if not check.waivable}
    # `validate` refuses these; that of a system from a folder of its own is refused when the disk is inspected
    assert known >= NOT_WAIVABLE and known - NOT_WAIVABLE <= {each.root_check for each in inspections()}
    for name in sorted(known):
        with pytest.raises(UsageError) as caught:
            inspect_disk(bare, waive={name: "we know"})
        assert caught.value.name == "waive-not-possible" and caught.value.hint


def test_a_waiver_waives_one_check_and_nothing_behind_it(good: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(good, tmp_path / "disk.vhd")
    fake_disk.put(disk, "/boot/grub/grub.cfg", "serial\nterminal_output serial\n", tmp_path)
    waived = {"grub-config": "systemd-boot", "grub-serial": "no GRUB"}
    listed = [result.to_json() for result in looked_at(disk, waive=waived).values()]
    verdict = count(listed)
    assert verdict.unchecked > 5 and verdict.waived == 1 and not verdict.good
    assert str(verdict).endswith("1 waived (grub-config)")


# ---- the numbers ---------------------------------------------------------------------------------------------------


def test_the_four_numbers_are_everywhere(bare: Path, tmp_path: Path) -> None:
    out, error = call("inspect", bare, "--json")
    record = json.loads(out)
    numbers = record["verdict"]
    statuses = [check["status"] for check in record["checks"]]
    for key, status in (("passed", "pass"), ("failed", "fail"), ("skipped", "skip"), ("unchecked", "unchecked"),
                        ("warnings", "warn"), ("waived", "waived")):  # fmt: skip
        assert numbers[key] == statuses.count(status)
    assert numbers["unchecked"] and isinstance(error, CheckFailed) and "unchecked" in error.message
    assert record["system"] == "partition 1, ext4, A bare Linux"
    inspected = inspect(bare)
    page = report(bare, inspected.system, inspected.results)
    assert f"<b>{numbers['unchecked']}</b> unchecked" in page and f"<b>{numbers['failed']}</b> failed" in page
    manifest = {"checks": record["checks"], "prove": {}, "inputs": []}
    predicate = statement(manifest, {})["predicate"]
    seen = predicate["configuration"][-1]["annotations"]
    assert {key: seen[key] for key in numbers} == numbers and predicate["result"] == "FAILED"
    assert "check waagent-config" in seen["skipped_checks"]


def test_the_page_says_which_disk_it_is_about(bare: Path) -> None:
    inspected = inspect(bare, profile="any")
    page = report(bare, inspected.system, inspected.results)
    assert f"<dt>Detected</dt><dd>{inspected.system}</dd>" in page and "profile any)" in str(inspected.system)
    assert str(bare) in page and "16\u202f777\u202f216 bytes" in page and "A bare Linux" in page
    assert hashlib.sha256(bare.read_bytes()).hexdigest() in page
    for check in all_checks("any"):
        assert f"<code>{check.id}</code>" in page
        assert check.why.split("'")[0].split("&")[0].split('"')[0].split("<")[0] in page


def test_nothing_is_no_pass() -> None:
    assert not count([]).good and not count(None).good and count(None).short == "none"
    assert statement({"checks": [], "prove": {}, "inputs": []}, {})["predicate"]["result"] == "FAILED"
    odd = count([{"id": "x", "status": "splendid"}, "no mapping", {"id": "y", "status": "pass"}])
    assert (odd.passed, odd.unchecked, odd.good) == (1, 2, False)
    assert recorded_system([]) == "not asked"
