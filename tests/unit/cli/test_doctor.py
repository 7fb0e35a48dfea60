"""goldsmith doctor: what it makes of what it sees, and how it prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.base.errors import HostError
from pipeline.cli import doctor
from pipeline.cli.environment import locate_store
from pipeline.disk import sandbox
from pipeline.hypervisor import host, host_services
from pipeline.hypervisor.accelerator import Verdict
from pipeline.hypervisor.finding import Finding
from pipeline.hypervisor.host import GIB, Firmware
from pipeline.hypervisor.host_packages import SETUP

CAPABILITIES = """
<domainCapabilities>
  <os supported='yes'>
    <enum name='firmware'>{firmware}</enum>
    <loader supported='yes'>
      <enum name='type'><value>rom</value><value>pflash</value></enum>
      <enum name='secure'>{secure}<value>no</value></enum>
    </loader>
  </os>
  <devices><tpm supported='yes'><enum name='backendModel'>{tpm}</enum></tpm></devices>
</domainCapabilities>
"""


def capabilities(firmware: str = "", secure: str = "", tpm: str = "") -> str:
    return CAPABILITIES.format(firmware=firmware, secure=secure, tpm=tpm)


def test_firmware_is_read_from_domain_capabilities() -> None:
    full = capabilities("<value>efi</value>", "<value>yes</value>", "<value>emulator</value>")
    assert host.firmware_of(capabilities(), full) == Firmware(True, True, True, True)
    assert host.firmware_of(capabilities(), capabilities()) == Firmware(True, False, False, False)
    assert host.firmware_of("<domainCapabilities/>", full).bios is False


def test_accelerator_is_told_by_its_rate() -> None:
    slow = host.judge_accelerator(Verdict("tcg", 1.4e6, 7e8, "/dev/kvm runs 1.4 M instructions/s, TCG 700 M"))
    assert (slow.verdict, slow.facts["kvm_rate"]) == ("warn", 1.4e6)
    assert "1.4 M instructions/s" in slow.text
    assert slow.fix
    fast = host.judge_accelerator(Verdict("kvm", 3e9, 7e8, "fast", cached=True))
    assert (fast.verdict, fast.fix) == ("ok", None)


@pytest.mark.parametrize(
    ("free", "verdict"), [(30 * GIB, "ok"), (20 * GIB, "ok"), (10 * GIB, "warn"), (1 * GIB, "fail")]
)
def test_sizes(free: int, verdict: str) -> None:
    finding = host.judge_size("disk", "at /x", free, 8 * GIB, 20 * GIB, "goldsmith clean")
    assert finding.verdict == verdict
    assert (finding.fix is None) == (verdict == "ok")


def test_missing_tools_are_named_with_their_package() -> None:
    finding = host.judge_tools({"mke2fs": "/sbin/mke2fs", "sgdisk": None, "mkfs.vfat": None})
    assert finding.verdict == "fail"
    assert "sgdisk" in finding.text
    assert "dosfstools gdisk" in str(finding.fix)


@pytest.mark.parametrize(
    ("is_root", "groups", "verdict"), [(True, [], "ok"), (False, ["libvirt"], "warn"), (False, ["users"], "fail")]
)
def test_rights(is_root: bool, groups: list[str], verdict: str) -> None:
    assert host.judge_rights("ann", is_root, groups).verdict == verdict


@pytest.mark.parametrize(
    ("group", "mode", "fits"),
    [("kvm", 0o660, True), ("kvm", 0o666, True), ("root", 0o660, False), ("kvm", 0o600, False)],
)
def test_the_kvm_device_is_its_groups(group: str, mode: int, fits: bool) -> None:
    finding = host.judge_kvm_device(group, mode)
    assert (finding is None) == fits
    assert finding is None or "chgrp kvm" in str(finding.fix)


def test_a_missing_store_fails_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "none"))
    (finding,) = host._store(locate_store())
    assert finding.verdict == "fail"
    assert "make setup" in str(finding.fix)


def test_what_raises_is_a_finding_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> list[Finding]:
        raise HostError("libvirt does not answer", name="libvirt-unreachable", hint="make setup starts libvirtd")

    monkeypatch.setattr(host, "_libvirt", unreachable)
    monkeypatch.setattr(host, "_accelerator", lambda _store, _refresh: [Finding("accelerator", "ok", "kvm")])
    findings = {finding.name: finding for finding in host.examine(locate_store)}
    assert findings["libvirt"].verdict == "fail"
    assert {"host", "accelerator", "disk", "memory", "rights", "store", "bootstrap"} <= set(findings)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()

    @app.callback()
    def root() -> None:
        """A verb of a program, not the program."""

    doctor.register(app)
    return app


def test_json_is_a_list_of_objects(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path))
    found = [
        Finding("libvirt", "ok", "9.0.0"),
        Finding("disk", "warn", "9 GiB free", "goldsmith clean", {"free": 9 * GIB}),
    ]
    monkeypatch.setattr(host, "examine", lambda _find_store, *, refresh: found)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [set(row) for row in rows] == [{"name", "verdict", "text", "fix", "facts"}] * 3
    assert [row["name"] for row in rows] == ["libvirt", "disk", "sandbox"]
    assert rows[1]["fix"] == "goldsmith clean"


def test_what_the_store_holds_is_told(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path))
    monkeypatch.setattr(host, "examine", lambda _find_store, *, refresh: [])
    layer = tmp_path / "layers" / "key"
    layer.mkdir(parents=True)
    (layer / "disk.qcow2").write_bytes(b"x" * 8192)
    record = {"key": "key", "stage": "provision", "image": None, "created": "?", "inputs": {}, "source": None}
    (layer / "record.json").write_text(json.dumps(record))
    rows = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert [row["name"] for row in rows] == ["sandbox", "store-use"]
    assert rows[1]["facts"]["layers"] >= 8192 and rows[1]["facts"]["saved_guests"] == 0


def test_a_failed_line_is_exit_code_3(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host, "examine", lambda _find_store, *, refresh: [Finding("store", "fail", "missing: /x", "make setup")]
    )
    result = CliRunner().invoke(app, ["doctor"])
    assert isinstance(result.exception, HostError)
    assert result.exception.exit_code == 3
    assert "fail  store         missing: /x\n" in result.stdout
    assert "-> make setup" in result.stdout


ALL = ["ipc", "mount", "network", "pid", "root", "uts"]


@pytest.mark.parametrize(
    ("namespaces", "landlock", "seccomp", "missing", "verdict"),
    [
        (ALL, 7, True, {}, "ok"),
        (ALL, 0, True, {"landlock": "Function not implemented"}, "warn"),
        ([], 4, True, dict.fromkeys(("mount", "pid"), "Operation not permitted"), "warn"),
        # no tool starts there
        ([], 0, True, {"mount": "Operation not permitted", "landlock": "Function not implemented"}, "fail"),
        (["mount"], 0, True, {"root": "Operation not permitted", "landlock": "not there"}, "fail"),
        (ALL, 7, False, {}, "fail"),
    ],
)
def test_what_confines_readers(
    namespaces: list[str], landlock: int, seccomp: bool, missing: dict[str, str], verdict: str
) -> None:
    applied = {"namespaces": namespaces, "landlock": landlock, "seccomp": seccomp, "missing": missing}
    finding = doctor.judge_confinement(applied)
    assert (finding.name, finding.verdict, finding.fix is None) == ("sandbox", verdict, verdict == "ok")
    assert finding.facts == applied
    assert all(f"{name} ({why})" in finding.text for name, why in missing.items())


def test_the_sandbox_of_this_host() -> None:
    """A worker is started and asked for it; what it says is what a reader of disks gets."""
    finding = doctor._sandbox()
    assert finding.facts["seccomp"] and finding.text.startswith("seccomp")


def test_a_host_without_libseccomp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name that is not a library takes its place."""
    (tmp_path / "libseccomp.so.2").write_text("no library")
    monkeypatch.setattr(sandbox.process, "open_child", without_libseccomp(tmp_path))
    finding = doctor._sandbox()
    assert (finding.verdict, "libseccomp2" in str(finding.fix)) == ("fail", True)
    assert "libseccomp.so.2" in finding.text


def without_libseccomp(folder: Path) -> Any:
    """The real door to child processes, whose children look for libraries in `folder` first."""
    start = sandbox.process.open_child

    def open_child(argv: Any, *, env: Mapping[str, str], **named: Any) -> Any:
        return start(argv, env={**env, "LD_LIBRARY_PATH": str(folder)}, **named)

    return open_child


def test_a_host_without_the_user_of_ansible_gets_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_services, "ANSIBLE_USER", "nobody-of-that-name")
    (finding,) = host_services.judge_ansible_user()
    assert (finding.name, finding.verdict, finding.fix) == ("ansible-user", "warn", SETUP)
    assert "as nobody" in finding.text


def test_a_host_without_the_user_of_the_facade_gets_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_services, "FACADE_USER", "nobody-of-that-name")
    (finding,) = host_services.judge_facade()
    assert (finding.name, finding.verdict, finding.fix) == ("facade", "warn", SETUP)
    assert "nobody-of-that-name" in finding.text
