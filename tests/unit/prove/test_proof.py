"""The matrix, what clones must not share, and what a clone that did not come up is told to have."""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.base.disk_format import RAW, VHD
from pipeline.base.errors import GoldsmithError, GuestError, UsageError
from pipeline.cache.layers import Image
from pipeline.cli.app import app
from pipeline.definition import TARGET_GENERATION, DataDisk
from pipeline.fabric import Exchange, Report, Request, Response
from pipeline.hypervisor.console import DISASTERS, disaster
from pipeline.hypervisor.domain import MachineFeatures, Spec
from pipeline.hypervisor.machine import Machine
from pipeline.prove.matrix import (
    MATRIX,
    TARGETS,
    UNPROVEN,
    matrix,
    plan_test_runs,
    with_revocation_list,
    without_seeds,
)
from pipeline.prove.result import CloneResult, shared_identities
from pipeline.systems.linux import assertions
from pipeline.systems.linux.diagnosis import Evidence, diagnose
from pipeline.systems.windows.machine import FEATURES
from pipeline.vhd.extents import file_extents
from pipeline.vhd.fixed import write_fixed
from pipeline.vhd.footer import EPOCH

BOOTED = "Debian GNU/Linux 12 web1 ttyS0\n\nweb1 login: "
LEASED = "DHCPDISCOVER(c0)\nDHCPOFFER(c0)\nDHCPREQUEST(c0)\nDHCPACK(c0)\n"


def test_definitions_know_the_targets_and_their_generations() -> None:
    assert {name: cell.hardware.generation for name, cell in TARGETS.items()} == TARGET_GENERATION
    assert set(MATRIX) <= set(TARGETS)


def test_a_build_boots_each_cell_once() -> None:
    cells = (TARGETS["gen1"], TARGETS["gen2"])
    assert [(t.name, t.boots) for t in plan_test_runs(cells, whole=False)] == [("gen1", 1), ("gen2", 1)]


def test_boot_messages_are_judged_by_prove_and_not_by_a_build() -> None:
    targets = matrix((1, 2), (2011, 2023))
    assert all(run.messages for run in plan_test_runs(targets, whole=True))
    assert not any(run.messages for run in plan_test_runs(targets, whole=False))


def test_the_whole_matrix_begins_with_the_longest() -> None:
    whole = plan_test_runs(matrix((1, 2), (2011, 2023)), whole=True)
    assert [(t.name, t.boots) for t in whole] == [
        ("gen2", 3), ("gen1", 2), ("gen2-secure", 1), ("gen2-keys-2011", 1), ("gen2-keys-2023", 1),
        ("gen1-two-cards", 1), ("gen2-nvme", 1), ("gen2-nocloud", 1), ("foreign", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "runs"),
    [
        (["gen1"], ["gen1", "gen1-2"]),
        # another target's clone on the same machine is the second
        (["gen1", "gen1-two-cards"], ["gen1", "gen1-two-cards"]),
        (["gen1", "gen1-nocloud", "start", "gen2"], ["gen2", "gen1", "gen1-2", "gen1-nocloud", "start"]),
    ],
)
def test_two_clones_on_the_machine_of_gen1(names: list[str], runs: list[str]) -> None:
    """Two clones of one machine show whether they share an identity; no clone is started for that alone."""
    assert [run.name for run in plan_test_runs([TARGETS[name] for name in names], whole=True)] == runs


def test_a_generation_that_is_not_the_images_is_left_out() -> None:
    assert [cell.name for cell in matrix((2,), (2011,))] == [
        "gen2", "gen2-secure", "gen2-keys-2011", "gen2-nvme", "gen2-nocloud",
    ]  # fmt: skip


def test_a_revocation_list_goes_to_all_targets_with_secure_boot() -> None:
    found = with_revocation_list(matrix((1, 2), (2023,)), Path("/dbx"))
    assert [(each.name, each.hardware.keys and each.hardware.keys.revocation_list) for each in found] == [
        ("gen1", None), ("gen2", None), ("gen2-secure", Path("/dbx")), ("gen2-keys-2023", Path("/dbx")),
        ("gen1-two-cards", None), ("gen2-nvme", None),
        ("gen2-nocloud", None), ("foreign", None),
    ]  # fmt: skip


def test_without_cloud_init_all_is_on_the_fabric_and_nothing_twice() -> None:
    cells = without_seeds(matrix((1, 2), (2011, 2023)))
    assert [(cell.name, cell.fabric) for cell in cells] == [
        ("gen1", True), ("gen2", True), ("gen2-secure", True), ("gen2-keys-2011", True), ("gen2-keys-2023", True),
        ("gen1-two-cards", True), ("gen2-nvme", True),
        ("foreign", True),
    ]  # fmt: skip
    assert "on the fabric" in cells[-1].description
    # on the fabric, Linux would leave the IDE disks alone
    (moved,) = without_seeds([TARGETS["gen1-nocloud"]])
    assert moved.fabric and moved.hardware.bus == "scsi"
    assert without_seeds([TARGETS["gen1"], TARGETS["gen1-nocloud"]]) == (TARGETS["gen1"],)


def test_what_is_not_proven_names_a_check_that_there_is() -> None:
    from pipeline.checks import all_checks

    known = {check.id for check in all_checks()}
    assert {check for checks in UNPROVEN.values() for check in checks} <= known


def test_clones_share_no_identity() -> None:
    first, two, three = (CloneResult(name) for name in ("gen1", "gen2", "foreign"))
    for number, verdict in enumerate((first, two, three)):
        for what in ("machine-id", "host key", "uuid", "mac"):
            verdict.see(what, f"{what} {number}", True)
    shared_identities([first, two, three])
    assert not first.failures + two.failures + three.failures
    three.see("host key", "host key 0", True)
    shared_identities([first, two, three])
    assert three.failures == ["host key: the same as gen1's: host key 0"]
    assert not first.failures


def asked(target: str, method: str = "GET") -> Exchange:
    return Exchange(1.0, Request(method, 80, target), Response())


#: cloud-init restarts sshd; networkd has lost its card; then goldsmith has pressed the power button.
LISTENS = """\
Nov 25 03:45:09 web sshd[510]: Server listening on 0.0.0.0 port 22.
Nov 25 03:45:19 web sshd[510]: Received signal 15; terminating.
Nov 25 03:45:21 web sshd[525]: Server listening on 0.0.0.0 port 22.
Nov 25 03:46:13 web systemd-networkd[389]: ens3: Lost carrier
Nov 25 03:50:00 web systemd-logind[400]: Power key pressed short.
Nov 25 03:50:01 web sshd[525]: Received signal 15; terminating.
"""
CAUSES = {
    "console-silent": {"serial": "\r\n"},
    "guest-no-dhcp": {"dhcp": "dnsmasq: started"},
    "guest-no-lease": {"dhcp": "DHCPDISCOVER(c0)\nDHCPOFFER(c0)"},
    "agent-silent": {"exchanges": ()},
    "agent-not-ready": {"reports": ()},
    "provisioning-failed": {"reports": (Report("NotReady", "ProvisioningFailed", "no user name"),)},
    "guest-no-boot": {"serial": "UEFI Interactive Shell v2.2\r\nEDK II\r\n", "dhcp": "", "exchanges": ()},
    "guest-sshd-dead": {"greets": False},
    "guest-unreachable": {"greets": False, "journal": LISTENS},
    "login-refused": {},
    "not-provisioned": {"medium": False, "reports": (Report("NotReady", "ProvisioningFailed", "no OVF"),)},
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_outermost_cause_is_named(name: str, tmp_path: Path) -> None:
    good = {
        "what": "Ready: not within 9 s",
        "serial": BOOTED,
        "on_fabric": True,
        "medium": True,
        "reports": (Report("NotReady", "Provisioning", "Starting"), Report("Ready")),
        "exchanges": (asked("/machine/?comp=goalstate"),),
        "dhcp": LEASED,
        "greets": True,
        "disk": Image(tmp_path / "none", RAW),
        "store": tmp_path,
        "user": "clone",
    }
    error = diagnose(Evidence(**{**good, **CAUSES[name]}))  # type: ignore[arg-type]
    assert error.name == name
    if name == "provisioning-failed":
        assert "no user name" in error.message
    if name == "guest-unreachable":
        assert "ens3: Lost carrier" in error.message


def test_an_sshd_that_has_ended_is_dead(tmp_path: Path) -> None:
    disk = Image(tmp_path / "none", RAW)
    journal = "".join(LISTENS.splitlines(keepends=True)[:2])
    error = diagnose(Evidence("sshd", BOOTED, False, True, (), (), "", False, disk, tmp_path, "clone", journal))
    assert error.name == "guest-sshd-dead"
    assert "Received signal 15; terminating" in error.message


def test_a_clone_without_the_fabric_is_judged_by_its_sshd(tmp_path: Path) -> None:
    disk = Image(tmp_path / "none", RAW)
    error = diagnose(Evidence("sshd", BOOTED, False, True, (), (), "", False, disk, tmp_path, "clone"))
    assert error.name == "guest-sshd-dead"


@pytest.mark.parametrize(
    ("line", "explanation"),
    [
        ("sshd[612]: sshd: no hostkeys available -- exiting.", "no hostkeys available"),
        ("sshd[7]: /etc/ssh/sshd_config.d/9.conf: line 1: Bad configuration option: Nonsense", "Bad configuration"),
        ("sshd[9]: User clone from 10.0.0.1 not allowed because not listed in AllowUsers", "AllowUsers"),
        ("walinuxagent[3]: WARNING no iptables", ""),
    ],
)
def test_a_dead_sshd_is_explained_by_its_own_words(line: str, explanation: str, tmp_path: Path) -> None:
    disk = Image(tmp_path / "none", RAW)
    journal = f"Nov 22 00:05:01 web kernel: x\nNov 22 00:05:38 web {line}\n"
    error = diagnose(Evidence("sshd", BOOTED, False, True, (), (), "", False, disk, tmp_path, "clone", journal))
    assert error.message.startswith("no sshd answers: sshd: " if explanation else "no sshd answers (")
    assert explanation in error.message


@pytest.mark.parametrize(
    ("explanation", "name"),
    [
        (b"error: file `/boot/grub/x86_64-efi/bli.mod' not found.\r\n", None),
        (b"error: file `/boot/vmlinuz-6.1.0-56-amd64' not found.\r\n", "guest-no-boot"),
        (b"error: no such device: 4301d2f2.\r\n", "guest-no-boot"),
        (b"Kernel panic - not syncing: VFS: Unable to mount root fs\r\n", "guest-kernel-panic"),
    ],
)
def test_what_the_console_says_of_a_lost_guest(explanation: bytes, name: str | None) -> None:
    """A module that GRUB can do without was once taken for the end of the boot."""
    lost = disaster(explanation, 0, DISASTERS)
    assert (lost[0] if lost else None) == name
    assert disaster(explanation, len(explanation), DISASTERS) is None


@pytest.mark.parametrize(("features", "name"), [(MachineFeatures(), "guest-kernel-panic"), (FEATURES, None)])
def test_a_console_of_windows_is_not_read_as_linux(
    features: MachineFeatures, name: str | None, tmp_path: Path
) -> None:
    serial = tmp_path / "serial.log"
    serial.write_bytes(b"Kernel panic - not syncing: sysrq triggered crash\r\n")
    spec = Spec(
        "vm", "R1", "build", kvm=False, cpus=1, memory=1 << 30, disks=(), serial_log=serial, features=features
    )
    machine = Machine(None, spec, tmp_path)  # type: ignore[arg-type]  # nothing of libvirt is asked
    if name is None:
        machine.check()
        return
    with pytest.raises(GuestError) as caught:
        machine.check()
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("what", "disk"),
    [
        ("debian-12", False),
        ("debian-12@2026.1121.0", False),
        ("site-1.5", False),
        ("some.vhd", True),
        ("./debian-12", True),
        ("/srv/a.b", True),
    ],
)
def test_a_masters_version_is_no_path(what: str, disk: bool) -> None:
    from pipeline.cli.prove import is_disk

    assert is_disk(what) is disk


def test_a_disk_of_ones_own_is_proven_as_it_lies(tmp_path: Path) -> None:
    from pipeline.cli.prove import _disk

    raw = tmp_path / "own.raw"
    with raw.open("wb") as file:
        file.write(b"boots")
        file.truncate(4 << 20)
    vhd = tmp_path / "own.vhd"
    write_fixed(file_extents(raw), vhd, unique_id=uuid.UUID(int=7), timestamp=EPOCH + 1)
    subject = _disk(vhd, None)
    assert (subject.definition.name, subject.name) == ("own", "own.vhd")
    assert subject.master == Image(vhd, VHD, size=4 << 20)
    # nothing that goldsmith knows is on it: it is proven as a generic Linux, and says so
    assert subject.system is not None and not subject.system.recognized
    assert (subject.definition.os, subject.system.profile) == ("linux", "azure-linux")
    assert "no system was recognized" in str(subject.system)


def test_only_what_ships_is_proven(tmp_path: Path) -> None:
    from pipeline.cli.prove import _disk

    for words, name in (((["-f", "qcow2"]), "disk-format"), ((["-f", "vpc"]), "vhd-not-fixed")):
        disk = tmp_path / f"own.{words[1]}"
        subprocess.run(["qemu-img", "create", "-q", *words, str(disk), "4M"], check=True)
        with pytest.raises(GoldsmithError) as caught:
            _disk(disk, None)
        assert caught.value.name == name
    with pytest.raises(GoldsmithError, match="is not a file"):
        _disk(tmp_path / "none.vhd", None)


@pytest.mark.parametrize(
    ("virtio", "rows", "good"),
    [
        (True, {"disk sda": "2:0:0:0 16777216 - -", "disk sdb": "3:0:0:7 131072 ext4 data"}, True),
        (True, {"disk sdb": "3:0:0:1 131072 ext4 data"}, False),  # at another LUN
        (True, {"disk sdb": "3:0:0:7 131072 ext4 logs"}, False),
        (True, {"disk sdb": "3:0:0:7 262144 ext4 data"}, False),
        (True, {}, False),
        (False, {"disk sdb": "1:0:0:0 131072 ext4 data"}, True),  # AHCI knows no LUN
    ],
)
def test_a_data_disk_is_looked_for_at_its_lun(virtio: bool, rows: dict[str, str], good: bool) -> None:
    clone = SimpleNamespace(spec=SimpleNamespace(virtio=virtio))
    verdict = CloneResult("gen1")
    assertions.attached(clone, verdict, rows, [DataDisk(7, 64 << 20, "None", "ext4", "data")])  # type: ignore[arg-type]
    assert (verdict.failures == []) is good


@pytest.mark.parametrize(
    ("seen", "good", "explanation"),
    [
        ({"resolved": "168.63.129.16"}, True, "168.63.129.16"),
        # a name of the clone itself, or from a file, does not come from the server
        ({"resolved": "127.0.1.1", "resolver": "x"}, False, "127.0.1.1"),
        ({"resolved": "", "resolver": "../run/systemd/resolve/stub-resolv.conf without a server"}, False,
         "no name can be resolved: /etc/resolv.conf is ../run/systemd/resolve/stub-resolv.conf without a server"),
        ({}, False, "no name can be resolved: /etc/resolv.conf is not known"),
    ],
)  # fmt: skip
def test_a_clone_on_the_fabric_resolves_a_name(seen: dict[str, str], good: bool, explanation: str) -> None:
    well = {"state": "running", "date": str(int(time.time())), **seen}
    for guest, failures in ((object(), [] if good else [f"names: {explanation}"]), (None, [])):
        verdict = CloneResult("gen1")
        clone = SimpleNamespace(spec=SimpleNamespace(kvm=True), guest=guest)
        assertions.healthy(clone, verdict, well)  # type: ignore[arg-type]
        assert verdict.failures == failures
        assert verdict.checks.get("names") == (explanation if guest else None)


@pytest.mark.parametrize("option", ["--target", "--cell"])
def test_the_former_name_of_an_option_still_works(option: str) -> None:
    with pytest.raises(UsageError, match="gen3") as caught:
        app(["prove", "web", option, "gen1", option, "gen3"], standalone_mode=False)
    assert "gen2-secure" in str(caught.value.hint)
