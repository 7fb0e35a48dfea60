"""The provisioning medium: the DVD with `ovf-env.xml` that Azure puts into a VM until it has reported Ready."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pycdlib
from lxml import etree

from pipeline.fabric.instance import Instance

_ENVIRONMENT = "http://schemas.dmtf.org/ovf/environment/1"
_AZURE = "http://schemas.microsoft.com/windowsazure"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


def _sub(parent: etree._Element, tag: str, text: str | None = None) -> etree._Element:
    child = etree.SubElement(parent, f"{{{_AZURE}}}{tag}")
    child.text = text
    return child


def _linux(section: etree._Element, instance: Instance) -> None:
    asked = _sub(section, "LinuxProvisioningConfigurationSet")
    _sub(asked, "ConfigurationSetType", "LinuxProvisioningConfiguration")
    _sub(asked, "HostName", instance.name)
    _sub(asked, "UserName", instance.user)
    _sub(asked, "DisableSshPasswordAuthentication", "true")
    key = _sub(_sub(_sub(asked, "SSH"), "PublicKeys"), "PublicKey")
    _sub(key, "Fingerprint", "")
    _sub(key, "Path", f"/home/{instance.user}/.ssh/authorized_keys")
    _sub(key, "Value", instance.public_key)
    if instance.custom_data:
        _sub(asked, "CustomData", base64.b64encode(instance.custom_data).decode())


def _windows(section: etree._Element, instance: Instance, password: str) -> None:
    asked = _sub(section, "WindowsProvisioningConfigurationSet")
    _sub(asked, "ConfigurationSetType", "WindowsProvisioningConfiguration")
    _sub(asked, "ComputerName", instance.name)
    _sub(asked, "AdminUsername", instance.user)
    _sub(asked, "AdminPassword", password)
    _sub(asked, "EnableAutomaticUpdates", "false")
    if instance.custom_data:
        _sub(asked, "CustomData", base64.b64encode(instance.custom_data).decode())


def ovf_env(instance: Instance, *, windows_password: str | None = None) -> bytes:
    """`ovf-env.xml` for a Linux VM, or, with an administrator's password, for a Windows one."""
    root = etree.Element(f"{{{_ENVIRONMENT}}}Environment", nsmap={"ns0": _ENVIRONMENT, "wa": _AZURE, "i": _XSI})
    provisioning = _sub(root, "ProvisioningSection")
    _sub(provisioning, "Version", "1.0")
    if windows_password is None:
        _linux(provisioning, instance)
    else:
        _windows(provisioning, instance, windows_password)
    platform = _sub(root, "PlatformSettingsSection")
    _sub(platform, "Version", "1.0")
    settings = _sub(platform, "PlatformSettings")
    _sub(settings, "KmsServerHostname", "kms.core.windows.net")
    _sub(settings, "ProvisionGuestAgent", "true")
    _sub(settings, "GuestAgentPackageName", "")
    _sub(settings, "PreprovisionedVm", "false")
    return etree.tostring(root, encoding="utf-8", xml_declaration=True, pretty_print=True)


def write_media(path: Path, document: bytes) -> None:
    """An image with UDF, Joliet and Rock Ridge names for the same file; guests mount whichever they know."""
    iso = pycdlib.PyCdlib()
    iso.new(joliet=3, rock_ridge="1.09", udf="2.60", vol_ident="cd")
    iso.add_fp(
        io.BytesIO(document),
        len(document),
        "/OVFENV.XML;1",
        rr_name="ovf-env.xml",
        joliet_path="/ovf-env.xml",
        udf_path="/ovf-env.xml",
    )
    iso.write(str(path))
    iso.close()
    path.chmod(0o600)
