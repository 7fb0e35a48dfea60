"""Azure's medium for Windows, judged by cloudbase-init's own service for Azure, and by what Windows itself reads."""

from __future__ import annotations

import ctypes
import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pycdlib
import pytest
from lxml import etree

from pipeline.fabric.launch import write_medium
from pipeline.fabric.media import WINDOWS_TAG, ovf_env
from pipeline.systems import registry
from pipeline.systems.windows.unattend_schema import NS, validate
from tests.unit.fabric.test_fabric import VM

PASSWORD = "a <b> & c-Ü1"


def read(medium: Path, folder: Path) -> list[str]:
    """Copy the files of a medium to a folder, as a drive has them; their names."""
    iso = pycdlib.PyCdlib()
    iso.open(str(medium))
    names = [
        child.file_identifier().decode() for child in iso.list_children(udf_path="/") if child and child.is_file()
    ]
    for name in names:
        data = io.BytesIO()
        iso.get_file_from_iso_fp(data, udf_path=f"/{name}")
        (folder / name).write_bytes(data.getvalue())
    iso.close()
    return names


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    answers = registry.get("windows").first_boot_answers(VM, PASSWORD, "en-US")
    write_medium(tmp_path / "azure.iso", VM, password=PASSWORD, answers=answers)
    folder = tmp_path / "D"
    folder.mkdir()
    read(tmp_path / "azure.iso", folder)
    return folder


@pytest.fixture
def service(drive: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """cloudbase-init's AzureService, whose operating system has one drive: that is all it asks of Windows here."""
    pytest.importorskip("cloudbaseinit", reason="cloudbase-init is not installed: make setup")
    # its module of certificates calls Windows' own library as soon as it is imported
    monkeypatch.setitem(sys.modules, "cloudbaseinit.utils.windows.x509", ModuleType("x509"))
    monkeypatch.setattr(ctypes, "windll", None, raising=False)
    from cloudbaseinit.metadata.services import azureservice

    windows = SimpleNamespace(get_logical_drives=lambda: [str(drive)])
    monkeypatch.setattr(azureservice.osutils_factory, "get_os_utils", lambda: windows)
    return azureservice.AzureService()


def test_cloudbase_init_finds_the_medium_and_reads_it(service: Any) -> None:
    assert service.get_host_name() == VM.name
    assert service.get_admin_username() == VM.user
    assert service.get_admin_password() == PASSWORD
    assert service.get_enable_automatic_updates() is False
    assert service.get_vm_agent_package_provisioning_data() == {"provision": True, "package_name": ""}
    assert service.get_kms_host() == "kms.core.windows.net"
    assert service.get_user_data() == VM.custom_data
    assert service.get_winrm_listeners_configuration() == []


@pytest.mark.parametrize("defect", ["no tag", "a prefix"])
def test_cloudbase_init_does_not_read_what_azure_does_not_write(service: Any, drive: Path, defect: str) -> None:
    if defect == "no tag":
        (drive / WINDOWS_TAG).unlink()
    else:
        document = (drive / "ovf-env.xml").read_text()
        document = document.replace(
            '<WindowsProvisioningConfigurationSet xmlns="', '<wa:WindowsProvisioningConfigurationSet xmlns="'
        )
        document = document.replace(
            "</WindowsProvisioningConfigurationSet>", "</wa:WindowsProvisioningConfigurationSet>"
        )
        (drive / "ovf-env.xml").write_text(document)
    with pytest.raises(Exception, match=r"No drive containing file|WindowsProvisioningConfigurationSet"):
        service.get_host_name()


def test_windows_itself_is_answered_by_the_medium(drive: Path) -> None:
    """The name, and an account to sign in by: a client without one asks for it at its first boot."""
    data = (drive / "Unattend.xml").read_bytes()
    validate(data)
    root = etree.fromstring(data)
    assert root.findtext(f".//{{{NS}}}ComputerName") == VM.name
    account = root.find(f".//{{{NS}}}LocalAccount")
    assert account is not None and account.findtext(f"{{{NS}}}Name") == VM.user
    assert PASSWORD.encode() not in data


def test_a_linux_medium_has_its_document_alone(tmp_path: Path) -> None:
    write_medium(tmp_path / "azure.iso", VM)
    assert read(tmp_path / "azure.iso", tmp_path) == ["ovf-env.xml"]
    assert (tmp_path / "ovf-env.xml").read_bytes() == ovf_env(VM)
