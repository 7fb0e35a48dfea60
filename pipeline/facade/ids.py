"""Ids of resources on this host, as the Resource Manager writes them."""

from __future__ import annotations

import re

from pipeline.facade.errors import ArmError, invalid
from pipeline.operations.arm_deployment import GROUP, LOCATION, SUBSCRIPTION

__all__ = ["GROUP", "LOCATION", "SUBSCRIPTION"]  # with what is defined here: the parts of an id

MACHINES, DISKS = "Microsoft.Compute/virtualMachines", "Microsoft.Compute/disks"
IMAGES, GALLERIES = "Microsoft.Compute/images", "Microsoft.Compute/galleries"
CARDS, NETWORKS = "Microsoft.Network/networkInterfaces", "Microsoft.Network/virtualNetworks"
ADDRESSES, FILTERS = "Microsoft.Network/publicIPAddresses", "Microsoft.Network/networkSecurityGroups"
DEPLOYMENTS = "Microsoft.Resources/deployments"
#: https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
_GROUP = re.compile(r"[A-Za-z0-9_().-]{0,89}[A-Za-z0-9_()-]", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?", re.ASCII)
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/(?P<kind>[^/]+/[^/]+)/(?P<name>[^/]+)",
    re.IGNORECASE,
)


def group_id(group: str) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"


def resource_id(group: str, kind: str, name: str) -> str:
    """The id of a resource of a group. `kind` has its provider: Microsoft.Compute/disks."""
    return f"{group_id(group)}/providers/{kind}/{name}"


def name_of(resource: str, kind: str) -> str:
    """The name in the id of a resource of this kind. Raises ArmError (400)."""
    found = _ID.fullmatch(resource)
    if found is None or found["kind"].lower() != kind.lower():
        raise ArmError(400, "InvalidParameter", f"{resource[:200]!r} is not the id of a resource of the type {kind}")
    return found["name"]


def check_group(name: str) -> str:
    """The name of a resource group. Raises ArmError (400)."""
    if not _GROUP.fullmatch(name):
        raise invalid(f"{name[:100]!r} cannot be the name of a resource group")
    return name


def check_resource_name(name: str) -> str:
    """The name of a card, a network or a deployment. Raises ArmError (400)."""
    if not _NAME.fullmatch(name):
        raise invalid(f"{name[:100]!r} cannot be the name of a resource")
    return name
