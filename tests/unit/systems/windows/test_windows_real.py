"""Real hives on an NTFS disk: each check of the registry says what hivex reads there; and stale ones never pass."""

from __future__ import annotations

import copy
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.checks import inspect_disk
from pipeline.checks.model import REGISTRY, Subject
from pipeline.checks.windows.access import AUTOMATIC, ON_DEMAND
from pipeline.checks.windows.boot import HYPERV, OTHERS
from pipeline.disk import open_disk, paging
from pipeline.disk.accounts import read_accounts
from pipeline.disk.bcdstore import BootStore
from pipeline.disk.punch_holes import punch_free
from pipeline.disk.registry import Hive
from pipeline.systems.inspection import inspections
from pipeline.systems.installed import find_or_generic
from pipeline.systems.questions import list_disk
from tests.cases import unpacked
from tests.fakes import fake_hive, fake_windows_disk, hivex
from tests.fakes.fake_windows_disk import Model

PROFILE = "azure-windows"
_RDP = r"Control\Terminal Server\WinStations\RDP-Tcp"
_POLICY = r"Services\SharedAccess\Parameters\FirewallPolicy"
#: Checks whose whole answer is that values of every control set are right: the key, the value, what is right.
#: None among them: it need not be set.
VALUES: dict[str, list[tuple[str, str, tuple[object, ...]]]] = {
    "win-rdp": [
        (r"Control\Terminal Server", "fDenyTSConnections", (0,)),
        (_RDP, "PortNumber", (3389,)),
        (_RDP, "LanAdapter", (0,)),
    ],
    "win-rdp-nla": [(_RDP, "UserAuthentication", (1,)), (_RDP, "KeepAliveTimeout", (1,))],
    "win-rdp-certificate": [(_RDP, "SSLCertificateSHA1Hash", (None,))],
    "win-services": [
        *((rf"Services\{name}", "Start", (2,)) for name in AUTOMATIC),
        *((rf"Services\{name}", "Start", (2, 3)) for name in ON_DEMAND),
    ],
    "win-firewall": [
        (rf"{_POLICY}\{profile}", "EnableFirewall", (1,))
        for profile in ("DomainProfile", "StandardProfile", "PublicProfile")
    ],
    "win-utc": [(r"Control\TimeZoneInformation", "RealTimeIsUniversal", (1,))],
    "win-san-policy": [(r"Services\partmgr\Parameters", "SanPolicy", (1,))],
    "win-crash": [
        (r"Control\CrashControl", "CrashDumpEnabled", (2,)),
        (r"Control\CrashControl", "AutoReboot", (1,)),
    ],
    "win-temp": [
        (r"Control\Session Manager\Environment", name, (r"%SystemRoot%\TEMP", r"C:\Windows\TEMP"))
        for name in ("TEMP", "TMP")
    ],
    "win-boot-drivers": [(rf"Services\{name}", "Start", (0,)) for name in HYPERV],
    "win-other-drivers": [(rf"Services\{name}", "Start", (0,)) for name in OTHERS],
    "win-cdrom": [(r"Services\cdrom", "Start", (1,))],
    "win-hibernation": [(r"Control\Session Manager\Power", "HiberbootEnabled", (0, None))],
    "win-domain": [(r"Services\Tcpip\Parameters", "Domain", ("", None))],
    "win-agent": [],
}


class Hivex:
    """The values of a hive as hivex gives them."""

    def __init__(self, path: Path) -> None:
        self.keys = {tuple(part.lower() for part in keys): values for keys, values in hivex.dump(path)}
        self.sets = sorted({keys[0] for keys in self.keys if keys and keys[0].startswith("controlset")})

    def value(self, key: str, name: str) -> object:
        for each, _, data, meaning in self.keys.get(tuple(key.lower().split("\\")), []):
            if each.lower() == name.lower():
                return data if meaning is None else meaning
        return None

    def wrong(self, check: str) -> Iterator[tuple[str, str]]:
        """Control set and value that a check must name."""
        for key, name, right in VALUES[check]:
            for control in self.sets:
                found = self.value(f"{control}\\{key}", name)
                same = [each.lower() if isinstance(each, str) else each for each in right]
                if (found.lower() if isinstance(found, str) else found) not in same:
                    yield control, name


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    fake_windows_disk.need_tools()


def disk_with(tmp_path: Path, **hives: str) -> Path:
    model = Model()
    tmp_path.mkdir(exist_ok=True)
    for name, case in hives.items():
        model.foreign[name] = unpacked(case, tmp_path).read_bytes()
    return fake_windows_disk.as_vhd(fake_windows_disk.build(model, tmp_path / "disk"), tmp_path / "disk.vhd")


#: What is to be renamed at the next start, by hivex's own shell: how many files, and the first.
RENAMES = {
    "SYSTEM_B": r"8, the first \??\C:\Config.Msi\a014fa5.rbf",
    "SYSTEM_WIN_10_1709": r"101, the first \??\C:\WINDOWS\System32\drivers\SETEAC4.tmp",
}


@pytest.mark.parametrize("case", ["SYSTEM", "SYSTEM_B", "SYSTEM_WIN_10_1709"])
def test_each_fact_of_a_real_system(case: str, tmp_path: Path) -> None:
    disk = disk_with(tmp_path, SYSTEM=f"windows-hives/{case}.xz")
    measure = Hivex(tmp_path / case)
    dirty = case != "SYSTEM"
    results = {each.id: each for each in inspect_disk(disk, profile=PROFILE)}
    assert not [each.id for each in results.values() if "circles" in each.evidence or "damaged" in each.evidence]
    with open_disk(disk) as opened:
        _, _, system = find_or_generic(opened, inspections(), PROFILE)
        subject = Subject(opened, system, PROFILE, frozenset(), frozenset((1, 2)))
        for check in VALUES:
            wrong = list(measure.wrong(check))
            if check == "win-agent":
                wrong = [(control, "none of") for control in measure.sets]
            if not wrong and dirty:
                # an override of a driver's start is looked at too
                result = results[check]
                assert result.status == ("fail" if "StartOverride" in result.evidence else "unchecked"), check
                assert "its log was not beside it" in result.evidence
                continue
            findings = list(REGISTRY[check].run(subject))
            if dirty:
                assert findings.pop(0).startswith("stale values: the registry hive SYSTEM is dirty"), check
            assert results[check].status == ("pass" if not wrong else REGISTRY[check].severity), check
            for control, name in wrong:
                assert any(control in line.lower() and (name in line or name == "Domain") for line in findings), check
            counted = [line for line in findings if "StartOverride" not in line]
            assert len(counted) == len(wrong) or check == "win-services", (check, findings)
    renames = results["win-pending-renames"]
    if case in RENAMES:
        assert renames.evidence.endswith(f"ControlSet001: PendingFileRenameOperations: {RENAMES[case]}")
    assert renames.status == ("warn" if case in RENAMES else "pass")
    assert results["win-hives"].status == ("fail" if dirty else "pass")
    assert not dirty or "SYSTEM is dirty" in results["win-hives"].evidence


def test_a_real_sam_keeps_passwords(tmp_path: Path) -> None:
    found = list(read_accounts(Hive(unpacked("windows-hives/SAM.xz", tmp_path).read_bytes())))
    assert [(each.name, each.rid, each.has_password) for each in found] == [
        ("Administrator", 500, True),
        ("Guest", 501, False),
        ("Preston", 1000, True),
    ]
    disk = disk_with(tmp_path, SAM="files/SAM.xz")
    results = {each.id: each for each in inspect_disk(disk, profile=PROFILE)}
    assert results["win-account-passwords"].evidence == (
        "account Administrator (500): it has the hash of a password; "
        "account gold_administrator (1001): it has the hash of a password"
    )
    assert results["win-guest-account"].evidence == "account gold_administrator"


def test_a_real_security_keeps_the_password_of_a_logon(tmp_path: Path) -> None:
    disk = disk_with(tmp_path, SECURITY="windows-hives/SECURITY.xz")
    evidence = {each.id: each.evidence for each in inspect_disk(disk, profile=PROFILE)}["win-lsa-password"]
    assert r"SECURITY\Policy\Secrets\DefaultPassword: a password" in evidence


def test_a_real_boot_configuration(tmp_path: Path) -> None:
    """Windows 10's: one system in the menu, with the recovery environment's loader beside it."""
    store = BootStore(Hive(unpacked("windows-hives/BCD.xz", tmp_path).read_bytes()))
    (loader,) = store.loaders()
    assert loader == "{733b62e5-f608-11eb-825c-c112f60133ab}"
    assert (store.number(loader, "16000009"), store.number(loader, "260000b0")) == (1, None)
    # inherited from the loaders' settings, by way of the hypervisor's
    assert store.number(loader, "250000f5") == 115200


def test_a_boot_manager_that_starts_no_windows() -> None:
    good = fake_windows_disk._bcd()
    for change, why in (
        (lambda objects: objects.pop(fake_windows_disk.LOADER), "its default entry"),
        (lambda objects: objects.pop(fake_windows_disk.BOOTMGR), "neither a default nor a menu"),
        (lambda objects: objects[fake_windows_disk.LOADER]["Description"].update(Type=0x10200004), "is none"),
        (
            lambda objects: objects[fake_windows_disk.LOADER]["Elements"].update({"26000022": {"Element": b"\1"}}),
            "is none",
        ),
    ):
        tree = copy.deepcopy(good)
        change(tree["Objects"])
        with pytest.raises(DiskError, match=why) as caught:
            BootStore(Hive(fake_hive.build(tree))).loaders()
        assert caught.value.name == "no-loader" and caught.value.hint


# ---- hives that are not Windows' own, and large ones --------------------------------------------------------------


def test_a_hive_of_another_passes_nothing(tmp_path: Path) -> None:
    """A whole hive without the keys of a Windows: the expected keys are missing, so no check passes."""
    model = Model()
    for name in ("SYSTEM", "SOFTWARE", "SAM", "SECURITY"):
        model.hives[name] = {"Nothing": {}}
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(model, tmp_path / "disk"), tmp_path / "disk.vhd")
    results = {each.id: each for each in inspect_disk(disk, profile=PROFILE)}
    for check in (*VALUES, "win-image-state", "win-rearm", "win-autologon", "win-proxy", "win-lsa-password",
                  "win-account-passwords", "win-guest-account", "win-network", "win-driver-files", "win-pending",
                  "win-pending-renames", "win-ports", "win-firewall-rdp", "win-reserved-storage", "win-rdp-policy",
                  "win-drive-letters", "win-pagefile", "win-setup-phase", "win-control-set"):  # fmt: skip
        assert results[check].status == "unchecked" and "has no " in results[check].evidence, check
    for what in ("packages", "os"):
        with pytest.raises(DiskError) as caught:
            list_disk(disk, what=what)
        assert caught.value.name == "no-such-key" and caught.value.hint


def test_a_stale_hive_passes_nothing(tmp_path: Path) -> None:
    model = Model(dirty={"SYSTEM", "SECURITY"})
    model.control(2)["Control"]["Terminal Server"]["fDenyTSConnections"] = 1
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(model, tmp_path / "disk"), tmp_path / "disk.vhd")
    results = {each.id: each for each in inspect_disk(disk, profile=PROFILE)}
    for check in (*VALUES, "win-lsa-password", "win-hives"):
        assert results[check].status in ("fail", "unchecked"), check
    assert results["win-utc"].evidence == (
        "could not be run: the registry hive SYSTEM is dirty (sequences 9 and 1): its log was not beside it"
    )
    # what is wrong in it is said all the same
    assert "Terminal Server\\fDenyTSConnections is 1, not 0" in results["win-rdp"].evidence
    assert results["win-account-passwords"].status == "pass"


def test_the_inventory_of_a_software_of_100_mib(tmp_path: Path) -> None:
    model = Model(size=192 << 20)
    whole = fake_hive.build(model.hives["SOFTWARE"], "SOFTWARE", fill=100 << 20)
    # dirty, with its log beside it: the reader's memory has no room for a second one
    before = fake_hive.torn(whole[:5000] + bytes(100) + whole[5100:])
    model.foreign["SOFTWARE"] = before
    model.files["Windows/System32/config/SOFTWARE.LOG1"] = fake_hive.log(before, whole, 10)
    disk = fake_windows_disk.build(model, tmp_path / "disk")
    began = time.perf_counter()
    assert [row[0] for row in list_disk(disk, what="packages")] == ["QEMU guest agent", "KB5034439"]
    assert time.perf_counter() - began < 120
    results = {each.id: each for each in inspect_disk(disk, profile=PROFILE)}
    assert results["win-hives"].evidence == "SOFTWARE: its log was replayed as Windows does, entries: 1"
    assert not [each for each in results.values() if each.status == "unchecked"]


# ---- paging files -------------------------------------------------------------------------------------------------


def test_what_a_page_file_holds_does_not_leave_the_house(tmp_path: Path) -> None:
    model = Model()
    secret = b"memory of the build's machine " * 40000
    model.files |= {"pagefile.sys": secret, "swapfile.sys": secret, "Windows/other": secret}
    disk = fake_windows_disk.as_vhd(fake_windows_disk.build(model, tmp_path / "disk"), tmp_path / "disk.vhd")
    assert _pagefile(disk) == "partition 2: pagefile.sys holds data; partition 2: swapfile.sys holds data"
    assert punch_free(disk) > len(secret)
    assert _pagefile(disk) == ""
    with open_disk(disk) as opened:
        for name in ("/pagefile.sys", "/swapfile.sys"):
            assert opened.windows.read(name) == bytes(len(secret))
        assert opened.windows.read("/Windows/other") == secret


def _pagefile(disk: Path) -> str:
    return {each.id: each.evidence for each in inspect_disk(disk, profile=PROFILE)}["win-pagefile"]


def test_the_page_file_of_a_disk_that_is_not_at_rest_is_left_alone(tmp_path: Path) -> None:
    model = Model()
    model.files |= {"pagefile.sys": b"x" * 200_000, "hiberfil.sys": b"hibr"}
    raw = fake_windows_disk.build(model, tmp_path / "hibernated")
    punch_free(raw)
    with open_disk(raw) as opened:
        assert opened.windows.read("/pagefile.sys") == b"x" * 200_000
    del model.files["hiberfil.sys"]
    raw = fake_windows_disk.build(model, tmp_path / "open")
    with open_disk(raw) as opened:
        (volume,) = [each for each in opened.filesystems if each.kind == "ntfs"]
        at = opened.filesystem(volume).runs(2)[0][0]
    for flags, in_use, empty in ((0, 0, False), (2, 0, True), (0, 0xFFFF, True)):
        with raw.open("r+b") as file:
            for page in (at, at + 4096):
                file.seek(page)
                head = bytearray(4096)
                head[:4] = b"RSTR"
                struct.pack_into("<H", head, 24, 0x30)
                struct.pack_into("<HH", head, 0x30 + 12, in_use, flags)
                file.write(head)
        with open_disk(raw) as opened:
            assert paging.is_at_rest(opened.filesystem(volume)) is empty
        if not empty:
            punch_free(raw)
            with open_disk(raw) as opened:
                assert opened.windows.read("/pagefile.sys") == b"x" * 200_000
