"""The provisioning medium: the DVD that Azure puts into a VM until it has reported Ready."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import pycdlib
from lxml import etree

from pipeline.fabric.instance import Instance

_ENVIRONMENT = "http://schemas.dmtf.org/ovf/environment/1"
_AZURE = "http://schemas.microsoft.com/windowsazure"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
#: The file by which cloudbase-init finds Azure's medium among the drives. Source: its azureservice.py.
WINDOWS_TAG = "E6DA6616-8EC4-48E0-BE93-58CE6ACE3CFB.tag"
#: Where Azure puts the custom data of a Windows VM, beside the document that has them too. Same source.
WINDOWS_CUSTOM_DATA = "CustomData.bin"


def _sub(parent: etree._Element, tag: str, text: str | None = None) -> etree._Element:
    child = etree.SubElement(parent, f"{{{_AZURE}}}{tag}")
    child.text = text
    return child


def _section(root: etree._Element, section: str, content: str) -> etree._Element:
    """A section and what it contains. Azure gives the section a prefix and its content none; some agents parse both
    names by their prefix instead of their namespace.
    """
    outer = _sub(root, section)
    _sub(outer, "Version", "1.0")
    # lxml takes None as the default namespace's prefix; its stubs do not know that
    names: dict[str, str] = {None: _AZURE, "i": _XSI}  # type: ignore[dict-item]
    return etree.SubElement(outer, f"{{{_AZURE}}}{content}", nsmap=names)


def _linux(settings: etree._Element, instance: Instance) -> None:
    _sub(settings, "ConfigurationSetType", "LinuxProvisioningConfiguration")
    _sub(settings, "HostName", instance.name)
    _sub(settings, "UserName", instance.user)
    _sub(settings, "DisableSshPasswordAuthentication", "true")
    key = _sub(_sub(_sub(settings, "SSH"), "PublicKeys"), "PublicKey")
    _sub(key, "Fingerprint", "")
    _sub(key, "Path", f"/home/{instance.user}/.ssh/authorized_keys")
    _sub(key, "Value", instance.public_key)
    if instance.custom_data:
        _sub(settings, "CustomData", base64.b64encode(instance.custom_data).decode())


def _windows(settings: etree._Element, instance: Instance, password: str) -> None:
    _sub(settings, "ConfigurationSetType", "WindowsProvisioningConfiguration")
    _sub(settings, "ComputerName", instance.name)
    _sub(settings, "AdminUsername", instance.user)
    _sub(settings, "AdminPassword", password)
    _sub(settings, "EnableAutomaticUpdates", "false")
    if instance.custom_data:
        _sub(settings, "CustomData", base64.b64encode(instance.custom_data).decode())


def ovf_env(instance: Instance, *, windows_password: str | None = None) -> bytes:
    """`ovf-env.xml` for a Linux VM, or, with an administrator's password, for a Windows one."""
    names: dict[str, str] = {None: _ENVIRONMENT, "wa": _AZURE, "i": _XSI}  # type: ignore[dict-item]
    root = etree.Element(f"{{{_ENVIRONMENT}}}Environment", nsmap=names)
    system = "Linux" if windows_password is None else "Windows"
    provisioning = _section(root, "ProvisioningSection", f"{system}ProvisioningConfigurationSet")
    if windows_password is None:
        _linux(provisioning, instance)
    else:
        _windows(provisioning, instance, windows_password)
    platform = _section(root, "PlatformSettingsSection", "PlatformSettings")
    _sub(platform, "KmsServerHostname", "kms.core.windows.net")
    _sub(platform, "ProvisionGuestAgent", "true")
    _sub(platform, "GuestAgentPackageName", "")
    _sub(platform, "PreprovisionedVm", "false")
    return etree.tostring(root, encoding="utf-8", xml_declaration=True, pretty_print=True)


def medium_files(instance: Instance, *, windows_password: str | None = None) -> dict[str, bytes]:
    """The files of the medium by their names, as `ovf_env`; what Windows itself reads there is its system's."""
    files = {"ovf-env.xml": ovf_env(instance, windows_password=windows_password)}
    if windows_password is not None:
        files[WINDOWS_TAG] = b""
        if instance.custom_data:
            files[WINDOWS_CUSTOM_DATA] = instance.custom_data
    return files


def write_media(path: Path, files: Mapping[str, bytes]) -> None:
    """An image with UDF, Joliet and Rock Ridge names for the same files; guests mount whichever they know."""
    iso = pycdlib.PyCdlib()
    iso.new(joliet=3, rock_ridge="1.09", udf="2.60", vol_ident="cd")
    for name, data in files.items():
        iso.add_fp(
            io.BytesIO(data),
            len(data),
            f"/{_short_name(name)};1",
            rr_name=name,
            joliet_path=f"/{name}",
            udf_path=f"/{name}",
        )
    iso.write(str(path))
    iso.close()
    path.chmod(0o600)


def _short_name(name: str) -> str:
    """The name of ISO 9660 at its first level: eight letters or digits, and three (ECMA-119, 10.1)."""
    stem, _, suffix = name.upper().rpartition(".")
    return f"{''.join(filter(str.isalnum, stem))[:8]}.{suffix[:3]}"
