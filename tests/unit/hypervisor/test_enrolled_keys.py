"""Variable stores with chosen Secure Boot keys: written by virt-fw-vars, read by our reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import BuildError, HostError
from pipeline.hypervisor import console, enrolled_keys
from pipeline.hypervisor.enrolled_keys import EnrolledKeys, write_variable_store
from pipeline.hypervisor.variable_store import enrolled_stores, read_variable_store
from pipeline.prove.matrix import TARGETS

with_firmware = pytest.mark.skipif(
    not any(enrolled_stores().values()), reason="this host has no UEFI firmware with enrolled keys (ovmf)"
)


@with_firmware
@pytest.mark.parametrize(
    ("keys", "known", "revoked"),
    [
        (EnrolledKeys((2011,)), ("Microsoft UEFI CA 2011", "Windows PCA 2011"), 0),
        (EnrolledKeys((2023,), revoked=("ab" * 32,)), ("Microsoft UEFI CA 2023", "Windows UEFI CA 2023"), 1),
    ],
    ids=lambda value: value.description if isinstance(value, EnrolledKeys) else "",
)
def test_a_store_has_the_keys_that_it_is_to_have(
    keys: EnrolledKeys, known: tuple[str, ...], revoked: int, tmp_path: Path
) -> None:
    write_variable_store(keys, tmp_path / "vars.fd")
    found = read_variable_store((tmp_path / "vars.fd").read_bytes())
    (before,) = [each for each in list(enrolled_stores().values())[:1] if each is not None]
    assert found is not None and found.known == known
    assert found.revoked == before.revoked + revoked


@with_firmware
def test_what_is_no_revocation_list_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "dbx"
    bad.write_bytes(b"no list of anything" * 9)
    with pytest.raises(BuildError) as caught:
        write_variable_store(EnrolledKeys((2023,), bad), tmp_path / "vars.fd")
    assert caught.value.name == "revocation-list-invalid" and str(bad) in str(caught.value)
    assert not (tmp_path / "vars.fd").exists()


def test_a_host_without_firmware_for_secure_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(enrolled_keys, "enrolled_stores", dict)
    with pytest.raises(HostError) as caught:
        write_variable_store(EnrolledKeys((2023,)), tmp_path / "vars.fd")
    assert caught.value.name == "uefi-keys-missing"


def test_targets_of_a_year_have_its_keys_alone() -> None:
    assert {name: keys.years for name, target in TARGETS.items() if (keys := target.hardware.keys) is not None} == {
        "gen2-secure": (2011, 2023),
        "gen2-keys-2011": (2011,),
        "gen2-keys-2023": (2023,),
    }


#: As edk2 of Debian 12 prints it.
REFUSED = (
    b'BdsDxe: loading Boot0001 "UEFI QEMU QEMU HARDDISK " from PciRoot(0x0)/Pci(0x2,0x0)/Scsi(0x0,0x0)\r\n'
    b'BdsDxe: failed to load Boot0001 "UEFI QEMU QEMU HARDDISK " from PciRoot(0x0)/Pci(0x2,0x0)/Scsi(0x0,0x0): '
    b"Access Denied\r\n"
)
END = b"BdsDxe: No bootable option or device was found.\r\n"


def test_a_boot_loader_that_secure_boot_refuses_is_named() -> None:
    name, message = console.disaster(REFUSED + END, 0) or ("", "")
    assert name == "guest-boot-refused" and message.endswith("Access Denied")
    assert "guest-boot-refused" in console.HINTS
    # the firmware goes on to its next option, which may start
    assert console.disaster(REFUSED, 0) is None
    assert (console.disaster(END, 0) or ("", ""))[0] == "guest-no-boot"
