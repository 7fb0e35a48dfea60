"""VMs as the Resource Manager describes them."""

from __future__ import annotations

from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.fabric import service
from pipeline.facade.errors import not_found
from pipeline.facade.ids import CARDS, DISKS, GALLERIES, GROUP, MACHINES, resource_id
from pipeline.facade.session import Placement, Session
from pipeline.instances.disks import os_disk_name, os_disk_size
from pipeline.instances.record import Record
from pipeline.instances.sizes import smallest_size
from pipeline.instances.state import Reality, instance_view, provisioning_state, reconcile
from pipeline.operations.create import system_of

#: The name of the only gallery, which is this store's.
GALLERY = "goldsmith"
GIB = 1 << 30
#: What disks here are called in the words of Azure's price list: every disk of this host is as fast as the host's.
STORAGE_TYPE = "Premium_LRS"


def find_machine(session: Session, group: str | None, name: str) -> tuple[Record, Placement]:
    """A VM of a group; `group` None: of any. Raises ArmError (404)."""
    record = session.fleet.instances.find(name.lower())
    placement = session.placement(record.id) if record is not None else Placement()
    if record is None or not placement.is_in(group):
        where = f" in the resource group {group[:90]!r}" if group is not None else ""
        raise not_found(f"the VM {name[:80]!r}{where}")
    return record, placement


def list_machines(session: Session, group: str | None) -> list[tuple[Record, Placement]]:
    found = [(record, session.placement(record.id)) for record in session.fleet.instances.all()]
    return [(record, placement) for record, placement in found if placement.is_in(group)]


def current_state(session: Session, record: Record) -> tuple[Record, Reality]:
    """The VM as it is now. Nothing is written."""
    reality = session.fleet.look(record)
    return reconcile(record, reality), reality


def describe_machine(session: Session, record: Record, placement: Placement, *, view: bool = False) -> dict[str, Any]:
    """https://learn.microsoft.com/rest/api/compute/virtual-machines/get"""
    current, reality = current_state(session, record)
    properties: dict[str, Any] = {
        "vmId": record.id,
        "hardwareProfile": {"vmSize": record.size or smallest_size(record.cpus, record.memory).name},
        "storageProfile": _storage(session, record, placement),
        "osProfile": _os_profile(record),
        "networkProfile": {
            "networkInterfaces": [
                {"id": card, "properties": {"primary": not at}} for at, card in enumerate(cards_of(record, placement))
            ]
        },
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        "provisioningState": provisioning_state(current).capitalize(),
        "timeCreated": record.created,
    }
    if record.secure:
        properties["securityProfile"] = {
            "securityType": "TrustedLaunch",
            "uefiSettings": {"secureBootEnabled": True, "vTpmEnabled": True},
        }
    if view:
        properties["instanceView"] = describe_view(current, reality)
    return {
        "id": resource_id(placement.group, MACHINES, record.name),
        "name": record.name,
        "type": MACHINES,
        "location": placement.location,
        "tags": dict(placement.tags or {}),
        "properties": properties,
    }


def describe_view(record: Record, reality: Reality) -> dict[str, Any]:
    """The instance view, without the fields that goldsmith adds for itself."""
    view = {key: value for key, value in instance_view(record, reality).items() if key not in ("operation", "error")}
    view["vmAgent"] = {"vmAgentVersion": "Unknown", **view["vmAgent"]}
    return view


def _os_profile(record: Record) -> dict[str, Any]:
    profile: dict[str, Any] = {"computerName": record.name, "adminUsername": record.user, "secrets": []}
    if system_of(record).signs_in_by_password:
        return {**profile, "windowsConfiguration": {"provisionVMAgent": True}}
    key = {"path": f"/home/{record.user}/.ssh/authorized_keys", "keyData": record.public_key}
    return {
        **profile,
        "linuxConfiguration": {
            "disablePasswordAuthentication": True,
            "ssh": {"publicKeys": [key] if record.public_key else []},
            "provisionVMAgent": True,
        },
    }


def _storage(session: Session, record: Record, placement: Placement) -> dict[str, Any]:
    name = os_disk_name(record)
    size = _os_disk_size(session, record)
    os_disk: dict[str, Any] = {
        "osType": system_of(record).os.capitalize(),
        "name": name,
        "createOption": "FromImage",
        "caching": record.os_caching,
        "managedDisk": {"id": resource_id(placement.group, DISKS, name), "storageAccountType": STORAGE_TYPE},
        "deleteOption": "Delete",
    }
    if size:
        os_disk["diskSizeGB"] = size
    return {
        "imageReference": dict(placement.image or {"id": image_version_id(record)}),
        "osDisk": os_disk,
        "dataDisks": [*_image_disks(session, record, placement), *_attached_disks(session, record)],
    }


def _image_disks(session: Session, record: Record, placement: Placement) -> list[dict[str, Any]]:
    """The data disks that the VM's master brought."""
    rows = record.image_of_disk.data if record.disk is not None else ()
    names = {lun: f"{record.name}_DataDisk_{lun}" for lun, _ in rows}
    try:
        version = session.fleet.gallery.get(record.data_master or record.reference)
    except GoldsmithError:
        return []  # the master cannot be read: its disks are not known
    return [
        {
            "lun": disk.lun,
            "name": names[disk.lun],
            "createOption": "FromImage",
            "caching": str(disk.caching),
            "diskSizeGB": -(-disk.size // GIB),
            "managedDisk": {
                "id": resource_id(placement.group, DISKS, names[disk.lun]),
                "storageAccountType": STORAGE_TYPE,
            },
            "deleteOption": "Delete",
            "toBeDetached": False,
        }
        for disk in version.data_disks
        if disk.lun in names
    ]


def _attached_disks(session: Session, record: Record) -> list[dict[str, Any]]:
    rows = []
    for each in sorted(record.data_disks, key=lambda each: each.lun):
        disk = session.fleet.disks.find(each.disk)
        group = session.placement(each.id).group
        row = {
            "lun": each.lun,
            "name": each.disk,
            "createOption": each.create_option,
            "caching": each.caching,
            "managedDisk": {"id": resource_id(group, DISKS, each.disk), "storageAccountType": STORAGE_TYPE},
            "deleteOption": "Detach",
            "toBeDetached": False,
        }
        rows.append({**row, **({"diskSizeGB": -(-disk.size // GIB)} if disk is not None else {})})
    return rows


def _os_disk_size(session: Session, record: Record) -> int | None:
    """GiB, rounded up; None where it is that of a master that cannot be read."""
    try:
        size = os_disk_size(session.fleet.gallery.get(record.reference), record.os_disk_size)
    except GoldsmithError:
        size = record.os_disk_size
    return -(-size // GIB) or None


def image_version_id(record: Record) -> str:
    """The id of the version that a VM was made from."""
    definition = f"{record.image}-gen{record.generation}"
    return f"{resource_id(GROUP, GALLERIES, GALLERY)}/images/{definition}/versions/{record.version}"


# ---- cards ---------------------------------------------------------------------------------------------------------


def cards_of(record: Record, placement: Placement) -> tuple[str, ...]:
    """The ids of a VM's network interfaces; a VM made without the facade has one, called NAME-nic."""
    return placement.cards or (resource_id(placement.group, CARDS, f"{record.name}-nic"),)


def address_of(session: Session, record: Record) -> str | None:
    """The VM's address in its network; None where it has none now."""
    link = service.read_link(session.store, record.id)
    return link.address if link is not None else None


def implied_card(record: Record, placement: Placement) -> dict[str, Any]:
    """The network interface of a VM that was made without one."""
    card = cards_of(record, placement)[0]
    return {
        "id": card,
        "name": card.rpartition("/")[2],
        "type": CARDS,
        "location": placement.location,
        "tags": {},
        "properties": {
            "provisioningState": "Succeeded",
            "primary": True,
            "ipConfigurations": [
                {
                    "id": f"{card}/ipConfigurations/ipconfig1",
                    "name": "ipconfig1",
                    "properties": {
                        "provisioningState": "Succeeded",
                        "primary": True,
                        "privateIPAllocationMethod": "Dynamic",
                        "privateIPAddressVersion": "IPv4",
                    },
                }
            ],
        },
    }
