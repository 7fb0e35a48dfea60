"""libvirt's lock manager: what a host has configured, and its refusals."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest

from pipeline.base.errors import BuildError
from pipeline.hypervisor.connection import translated
from pipeline.hypervisor.host import judge_lock_manager
from pipeline.hypervisor.lock_manager import read_lock_manager

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("settings", "manager"),
    [
        ("", None),
        ('#lock_manager = "lockd"\n', None),
        ('lock_manager = "nop"\n', None),
        ('user = "root"\n  lock_manager="lockd"  # ours\n', "lockd"),
        ('lock_manager = "lockd"\nlock_manager = "sanlock"\n', "sanlock"),
    ],
)
def test_the_setting_is_read(settings: str, manager: str | None, tmp_path: Path) -> None:
    path = tmp_path / "qemu.conf"
    path.write_text(settings)
    assert read_lock_manager(path) == manager


def test_doctor_names_the_lock_manager_and_a_missing_daemon() -> None:
    assert judge_lock_manager(None, True).verdict == "ok"
    good = judge_lock_manager("lockd", True)
    assert (good.verdict, good.facts) == ("ok", {"lock_manager": "lockd"}) and "lockd" in good.text
    bad = judge_lock_manager("lockd", False)
    assert bad.verdict == "fail" and "virtlockd" in str(bad.fix)


class Refusal(libvirt.libvirtError):
    """An error as libvirt raises it; libvirt alone can make one."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def get_error_code(self) -> int:
        return self.code

    def get_error_message(self) -> str:
        return self.message


@pytest.mark.parametrize(
    ("code", "message", "name"),
    [
        (libvirt.VIR_ERR_RESOURCE_BUSY, "resource busy: Lockspace resource '/d' is locked", "disk-in-use"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, 'process exited: Failed to get "write" lock', "disk-in-use"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, 'Failed to get shared "consistent read" lock', "disk-in-use"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "cannot acquire state change lock", "libvirt-failed"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "no such device", "libvirt-failed"),
    ],
)
def test_a_disk_that_another_machine_has_is_an_error_of_its_own(code: int, message: str, name: str) -> None:
    with pytest.raises(BuildError) as error, translated("starting web"):
        raise Refusal(code, message)
    assert error.value.name == name
    assert name == "libvirt-failed" or "lslocks" in str(error.value.hint)


def test_only_this_module_names_the_settings_of_libvirt() -> None:
    """Set-up changes none of them: an administrator's `lock_manager` stays."""
    files = [
        path for folder in ("pipeline", "tools") for path in sorted((ROOT / folder).rglob("*")) if path.is_file()
    ]
    named = [path for path in files if b"qemu.conf" in path.read_bytes()]
    assert [str(path.relative_to(ROOT)) for path in named if path.suffix != ".pyc"] == [
        "pipeline/hypervisor/lock_manager.py"
    ]
