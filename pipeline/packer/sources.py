"""A source of a template to the definition's source, disk, generations and machine.

goldsmith runs no installer but Windows'. A Debian that a template installs from its medium is bootstrapped; a disk
image with a SHA-256 is used as it is; for all else there is `base`, or Debian stands in and the list says so.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.packer.imported import Imported
from pipeline.packer.limits import Unknown
from pipeline.packer.template import Attributes, Source

#: Releases of Debian by number.
_RELEASES = {"10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie"}
_SUITE = re.compile(r"\b(buster|bullseye|bookworm|trixie)\b")
_DEBIAN = re.compile(r"debian[-_/ ]?(?:cd[-_/])?v?(1[0-3])(?![0-9])")
#: What stands in for a source that goldsmith cannot have.
STAND_IN = "trixie"
#: What Azure needs of a Debian that is bootstrapped.
_PACKAGES = ["waagent", "hyperv-daemons"]
_FORMATS = {".qcow2": "qcow2", ".img": "qcow2", ".raw": "raw", ".vhd": "vhd", ".vhdx": "vhdx", ".vmdk": "vmdk"}

#: Attributes that say how Packer reaches its guest and where it puts its result. goldsmith has its own ways.
_OWN_WAYS = re.compile(
    r"(ssh|winrm|communicator|vnc|shutdown|output|keep|headless|display|accelerator|qemu_binary|qemu_img|"
    r"pause_before|post_shutdown|export|format|skip_|use_(default_display|backing_file|sudo)|disk_(interface|cache|"
    r"discard|detect_zeroes|compression|adapter|additional)|net_(device|bridge)|machine_type|cpu_model|host_|"
    r"nic_|network|hard_drive|guest_additions|guest_os_type|vboxmanage|virtualbox_version|gfx|rtc|sound|usb|"
    r"vmx_|tools_|version|vm_name|name$|boot_wait|boot_key|boot_keygroup|boot_steps_|iso_target|iso_interface|"
    r"client_|subscription_id|tenant_id|use_azure_cli|azure_tags|resource_group|managed_image|build_resource|"
    r"location|vm_size|async_|polling_|vcenter|username|password|insecure|datacenter|cluster|datastore|folder|"
    r"convert_to_template|ip_wait|ip_settle|remove_|region|access_key|secret_key|profile|tags|run_tags|ami_|"
    r"instance_type|security_group|subnet|vpc|temporary_|type$)"
)
#: Attributes of an installation from a medium, which goldsmith does not run.
_INSTALLER = ("boot_command", "http_directory", "http_content", "cd_files", "cd_content", "cd_label", "floppy_files")
#: Attributes that the functions below read.
_READ = frozenset(
    [
        "iso_url",
        "iso_urls",
        "iso_checksum",
        "iso_checksum_type",
        "iso_paths",
        "iso_file",
        "disk_image",
        "disk_size",
        "os_disk_size_gb",
        "memory",
        "RAM",
        "cpus",
        "CPUs",
        "cores",
        "cpu_cores",
        "firmware",
        "efi_boot",
        "efi_firmware_code",
        "efi_firmware_vars",
        "efi_drop_efivars",
        "generation",
        "vtpm",
        "enable_tpm",
        "enable_secure_boot",
        "storage",
        "os_type",
        "image_publisher",
        "image_offer",
        "image_sku",
        "image_version",
        "image_url",
        "source_ami",
        "source_ami_filter",
        "source_path",
        "source_image",
        "source_image_family",
    ]
)


def turn_source(source: Source, imported: Imported, *, base: str | None, runs_powershell: bool) -> None:
    """Set the definition's source, disk, generations and machine. Raises UsageError (packer-source)."""
    attributes = source.attributes
    document = imported.document
    document["os"] = "windows" if runs_powershell else "linux"
    if base is not None:
        document["source"] = {"master": f"{base}@golden"}
        imported.turned.append(f"source {source.address}: replaced by {base}@golden")
    elif runs_powershell:
        raise UsageError(
            f"{source.address} installs Windows, whose medium an import cannot fetch",
            name="packer-source",
            hint="define an image with `source: {iso: ...}` (docs/windows.md), then import with --base IMAGE",
        )
    else:
        _set_linux_source(source, imported)
    if base is None:
        _set_size(attributes, imported)
    _set_machine(attributes, imported)
    _set_generations(attributes, imported)
    _name_the_rest(source, imported)


def is_windows(source: Source, provisioners: list[str]) -> bool:
    """Whether a source makes a Windows image: by its words, or by provisioners for Windows only."""
    words = " ".join(str(source.attributes.get(key, "")) for key in ("os_type", "guest_os_type", "communicator"))
    only = {"powershell", "windows-restart", "windows-shell", "windows-update"}
    return bool(re.search(r"\b(windows|winrm)", words.lower())) or (
        bool(only & set(provisioners)) and all(each in only or each == "file" for each in provisioners)
    )


def _set_linux_source(source: Source, imported: Imported) -> None:
    attributes = source.attributes
    url, digest = _address(attributes), _sha256(attributes)
    if is_true(attributes.get("disk_image")) and url and digest:
        disk = {"url": url, "sha256": digest}
        if not url.lower().endswith((".qcow2", ".raw", ".vhd", ".vhdx", ".vmdk")):
            disk["format"] = _FORMATS.get(url[url.rfind(".") :].lower(), "qcow2")
        imported.document["source"] = {"disk": disk}
        # a disk of others may have no Azure agent; with waagent the image is deprovisioned by it
        imported.document["generalize"] = {"agent": "none"}
        imported.turned.append(f"source {source.address}: the disk image {url}")
        imported.miss("generalize", "goldsmith does not know the image's agent; write waagent if the image has it")
        return
    suite = _debian_suite(attributes)
    imported.bootstraps = True
    imported.document["source"] = {"debian": {"suite": suite or STAND_IN, "packages": list(_PACKAGES)}}
    imported.document["generalize"] = {"agent": "waagent"}
    shown = url or _azure_image(attributes) or "an image that is not named"
    if suite:
        imported.turned.append(f"source {source.address}: Debian {suite}, bootstrapped from its archive")
        if is_true(attributes.get("disk_image")):
            imported.miss(
                "source", f"{shown} has no SHA-256 in the template; Debian {suite} is bootstrapped in its place"
            )
        return
    imported.miss(
        f"source {source.address}",
        f"goldsmith cannot begin with {shown}{_why_not(attributes)}. Debian {STAND_IN} stands in: replace `source:`, "
        "for example by a disk with url and sha256",
    )


def _why_not(attributes: Attributes) -> str:
    for key in ("iso_url", "iso_checksum", "image_offer", "source_ami"):
        value = attributes.get(key)
        if isinstance(value, Unknown):
            return f" ({key} needs {value.reason})"
    if is_true(attributes.get("disk_image")):
        return " (it has no SHA-256 in the template)"
    return " (its installer is not run)" if attributes.get("boot_command") else ""


def _address(attributes: Attributes) -> str:
    urls = attributes.get("iso_urls")
    found = attributes.get("iso_url") or (urls[0] if isinstance(urls, list) and urls else "")
    if not isinstance(found, str) or "{{" in found:
        return ""
    return found if found.startswith(("http://", "https://")) else ""


def _sha256(attributes: Attributes) -> str:
    found = attributes.get("iso_checksum")
    if not isinstance(found, str):
        return ""
    word = found.removeprefix("sha256:").strip().lower()
    return word if re.fullmatch(r"[0-9a-f]{64}", word) else ""


def _azure_image(attributes: Attributes) -> str:
    words = [attributes.get(key) for key in ("image_publisher", "image_offer", "image_sku")]
    return " ".join(each for each in words if isinstance(each, str))


def _debian_suite(attributes: Attributes) -> str:
    """The suite of the Debian that a source names, or nothing. Debian's derivatives name themselves."""
    keys = ("iso_url", "iso_urls", "iso_paths", "iso_file", "image_offer", "image_sku", "source_image_family")
    words = [attributes.get(key) for key in keys]
    texts = [str(item) for each in words for item in (each if isinstance(each, list) else [each]) if each]
    text = " ".join(item for item in texts if re.search("debian", item, re.IGNORECASE)).lower()
    if not text:
        return ""
    if found := _SUITE.search(text):
        return found[1]
    number = _DEBIAN.search(text)
    return _RELEASES.get(number[1], "") if number else ""


def _set_size(attributes: Attributes, imported: Imported) -> None:
    size: Any = attributes.get("disk_size")
    storage = attributes.get("storage")
    if size is None and isinstance(storage, list) and storage and isinstance(storage[0], dict):
        size = storage[0].get("disk_size")
    if "os_disk_size_gb" in attributes:
        size = f"{attributes['os_disk_size_gb']}G"
    text = mebibytes(size)
    if text:
        imported.document["disk"] = text
        imported.turned.append(f"disk {text}")
    elif size is not None:
        imported.miss("disk_size", _reason(size))


def mebibytes(size: Any) -> str:
    """A size of Packer's, a number of MiB or 40G, as a definition writes it; empty for what is no size."""
    if isinstance(size, bool) or not isinstance(size, str | int | float):
        return ""
    found = re.fullmatch(r"(\d{1,9})(?:\.0)?\s*([KMGT]?)(?:i?B)?", str(size).strip(), re.IGNORECASE)
    if not found:
        return ""
    number, unit = int(found[1]), (found[2] or "M").upper()
    if unit == "M" and number % 1024 == 0:
        number, unit = number // 1024, "G"
    return f"{number} {unit}iB" if number else ""


def _reason(value: Any) -> str:
    return f"it needs {value.reason}" if isinstance(value, Unknown) else f"{value!r} cannot be turned"


def _set_machine(attributes: Attributes, imported: Imported) -> None:
    machine: dict[str, Any] = {}
    for keys, name in ((("cpus", "CPUs", "cores", "cpu_cores"), "cpus"), (("memory", "RAM"), "memory")):
        for key in keys:
            value = attributes.get(key)
            if value is None:
                continue
            text = mebibytes(value)
            if isinstance(value, Unknown) or not text:
                imported.miss(key, _reason(value))
            elif name == "memory":
                machine[name] = text
            elif str(value).isdecimal():
                machine[name] = int(value)
    if machine:
        imported.document["machine"] = machine
        imported.turned.append(f"machine: {', '.join(f'{key} {value}' for key, value in machine.items())}")


def _set_generations(attributes: Attributes, imported: Imported) -> None:
    firmware = attributes.get("firmware")
    generation: int | None = None
    if is_true(attributes.get("efi_boot")) or (isinstance(firmware, str) and firmware.lower().startswith("efi")):
        generation = 2
    elif attributes.get("generation") in (1, 2, "1", "2"):
        generation = int(attributes["generation"])
    elif isinstance(firmware, str) and firmware.lower() == "bios":
        generation = 1
    if generation is not None:
        imported.document["generations"] = [generation]
        imported.turned.append(f"generation {generation}")


def _name_the_rest(source: Source, imported: Imported) -> None:
    installer = [key for key in _INSTALLER if source.attributes.get(key)]
    if installer:
        imported.miss(", ".join(installer), "goldsmith does not run this installer; write its settings as steps")
    rest = [
        key
        for key, value in source.attributes.items()
        if key not in _READ and key not in _INSTALLER and not _OWN_WAYS.match(key) and value not in (None, "", [], {})
    ]
    if rest:
        imported.miss(", ".join(sorted(rest)), f"goldsmith has nothing for these of {source.address}")


def is_true(value: Any) -> bool:
    return value is True or value == "true"
