"""The instance metadata service, as far as guests ask it while they are provisioned. Pure.

https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from pipeline.definition import DataDisk
from pipeline.fabric.instance import Instance, Request, Response

#: The supported API versions, oldest first; the answer to an unknown version names the newest.
API_VERSIONS = (
    "2017-04-02", "2017-08-01", "2017-12-01", "2018-02-01", "2018-10-01", "2019-02-01", "2019-03-11", "2019-06-01",
    "2019-08-15", "2019-11-01", "2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01", "2021-01-01",
    "2021-02-01", "2021-03-01", "2021-05-01", "2021-08-01", "2021-10-01", "2021-11-01", "2021-12-13",
    "2023-07-01", "2023-11-15", "2024-03-15",
)  # fmt: skip
#: userData came with this version.
USER_DATA_SINCE = "2021-01-01"
_INDEX = re.compile(r"[0-9]{1,4}", re.ASCII)
_NEWEST = {"newest-versions": list(API_VERSIONS[-1:-4:-1])}


def compute(instance: Instance, version: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "azEnvironment": "AzurePublicCloud",
        "customData": "",
        "licenseType": "",
        "location": "local",
        "name": instance.name,
        "offer": "",
        "osProfile": {
            "adminUsername": instance.user,
            "computerName": instance.name,
            "disablePasswordAuthentication": "true",
        },
        "osType": "Linux",
        "placementGroupId": "",
        "platformFaultDomain": str(instance.fault_domain),
        "platformUpdateDomain": str(instance.update_domain),
        "provider": "Microsoft.Compute",
        "publicKeys": [
            {"keyData": instance.public_key, "path": f"/home/{instance.user}/.ssh/authorized_keys"},
        ],
        "publisher": "",
        "resourceGroupName": "goldsmith",
        "resourceId": f"/subscriptions/{instance.derived('subscription')}/resourceGroups/goldsmith"
        f"/providers/Microsoft.Compute/virtualMachines/{instance.name}",
        "securityProfile": {"secureBootEnabled": "false", "virtualTpmEnabled": "false"},
        "sku": "",
        "storageProfile": {
            "dataDisks": [_data_disk(instance, disk) for disk in instance.data_disks],
            "imageReference": {},
            "osDisk": {"osType": "Linux"},
        },
        "subscriptionId": instance.derived("subscription"),
        "tags": "",
        "tagsList": [],
        "version": "",
        "vmId": instance.vm_id,
        "vmScaleSetName": "",
        "vmSize": "Standard_B2s",
        "zone": "",
    }
    if version >= USER_DATA_SINCE:
        data["userData"] = base64.b64encode(instance.user_data).decode()
    return data


def _data_disk(instance: Instance, disk: DataDisk) -> dict[str, Any]:
    """All values are text in this answer, numbers too."""
    return {
        "caching": disk.caching,
        "createOption": "FromImage",
        "diskCapacityBytes": str(disk.size),
        "diskSizeGB": str(-(-disk.size // (1 << 30))),
        "image": {"uri": ""},
        "isSharedDisk": "false",
        "isUltraDisk": "false",
        "lun": str(disk.lun),
        "managedDisk": {"id": "", "storageAccountType": "Standard_LRS"},
        "name": f"{instance.name}-data-{disk.lun}",
        "vhd": {"uri": ""},
        "writeAcceleratorEnabled": "false",
    }


def network(instance: Instance) -> dict[str, Any]:
    subnet = instance.network
    return {
        "interface": [
            {
                "ipv4": {
                    "ipAddress": [{"privateIpAddress": instance.address, "publicIpAddress": ""}],
                    "subnet": [{"address": str(subnet.network_address), "prefix": str(subnet.prefixlen)}],
                },
                "ipv6": {"ipAddress": []},
                "macAddress": instance.mac.replace(":", "").upper(),
            }
        ]
    }


def attested(instance: Instance) -> dict[str, Any]:
    """The document that Azure signs. This one is not signed, and says so."""
    document = {
        "nonce": "",
        "plan": {"name": "", "product": "", "publisher": ""},
        "subscriptionId": instance.derived("subscription"),
        "vmId": instance.vm_id,
        "note": "made by goldsmith's local fabric, not by Azure: it has no signature",
    }
    return {"encoding": "unsigned", "signature": base64.b64encode(json.dumps(document).encode()).decode()}


def _refused(status: int, why: str, **more: object) -> Response:
    return Response(status, json.dumps({"error": why, **more}).encode(), "application/json; charset=utf-8")


def answer(instance: Instance, request: Request) -> Response | None:
    """The metadata service's answer; None for an address outside it."""
    path = request.path
    if path != "/metadata" and not path.startswith("/metadata/"):
        return None
    if request.headers.get("metadata", "").lower() != "true":
        return _refused(400, "Bad request. Required metadata header not specified")
    if request.method not in ("GET", "POST"):
        return _refused(405, "Method Not Allowed")
    if path == "/metadata/versions":
        return _ok({"apiVersions": list(API_VERSIONS)})
    return _versioned(instance, request, request.query.get("api-version", ""))


def _versioned(instance: Instance, request: Request, version: str) -> Response:
    if not version:
        return _refused(400, "Bad request. api-version was not specified in the request", **_NEWEST)
    if request.path.startswith("/metadata/scheduledevents"):
        return _ok({"DocumentIncarnation": 1, "Events": []})
    if version not in API_VERSIONS:
        return _refused(400, "Bad request. api-version is invalid or unknown", **_NEWEST)
    if request.path == "/metadata/attested/document":
        return _ok(attested(instance))
    return _leaf(instance, version, request.path.removeprefix("/metadata").strip("/").split("/"), request.query)


def _leaf(instance: Instance, version: str, names: list[str], query: dict[str, str]) -> Response:
    """Any node of the instance's tree: an object as JSON, a value as text where that is asked for."""
    here: Any = {"instance": {"compute": compute(instance, version), "network": network(instance)}}
    for name in names:
        if isinstance(here, list):
            here = dict(enumerate(here)).get(int(name)) if _INDEX.fullmatch(name) else None
        elif isinstance(here, dict):
            here = next((value for key, value in here.items() if key.lower() == name), None)
        else:
            here = None
        if here is None:
            return _refused(404, "Not found")
    if query.get("format", "").lower() == "text" and not isinstance(here, dict | list):
        return Response(200, str(here).encode(), "text/plain; charset=utf-8")
    return _ok(here)


def _ok(data: object) -> Response:
    return Response(200, json.dumps(data).encode(), "application/json; charset=utf-8")
