"""The walk of Azure's own library, azure-mgmt-compute: Azure's fields, and long operations that it polls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.compute import ComputeManagementClient

from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.facade import GROUP, Client


class Credential:
    def __init__(self, client: Client) -> None:
        self._client = client

    def get_token(self, *_scopes: str, **_more: Any) -> AccessToken:
        return AccessToken(self._client.token or "", int(time.time()) + 3600)


@pytest.fixture
def compute(client: Client) -> Iterator[ComputeManagementClient]:
    base = f"https://localhost:{client.facade.port}"
    with ComputeManagementClient(
        Credential(client),
        SUBSCRIPTION,
        base_url=base,
        credential_scopes=[f"{base}/.default"],
        connection_verify=str(client.facade.home.certificate),
        polling_interval=0,
    ) as found:
        yield found


def codes(statuses: Any) -> list[str]:
    return [each.code for each in statuses]


def test_vms_are_listed_and_shown(compute: ComputeManagementClient) -> None:
    assert [each.name for each in compute.virtual_machines.list_all()] == ["done", "idle", "off"]
    assert [each.name for each in compute.virtual_machines.list("goldsmith")] == ["done", "idle", "off"]
    found = compute.virtual_machines.get("goldsmith", "off", expand="instanceView")
    assert (found.name, found.type, found.location) == ("off", "Microsoft.Compute/virtualMachines", "local")
    assert found.id == f"{GROUP}/providers/Microsoft.Compute/virtualMachines/off"
    assert (found.provisioning_state, found.hardware_profile.vm_size) == ("Succeeded", "Standard_B1s")
    assert found.os_profile.linux_configuration.ssh.public_keys[0].key_data == "ssh-ed25519 AAAA me"
    assert found.storage_profile.os_disk.caching == "ReadWrite"
    assert found.network_profile.network_interfaces[0].primary is True
    assert codes(found.instance_view.statuses) == ["ProvisioningState/succeeded", "PowerState/stopped"]
    done = compute.virtual_machines.instance_view("goldsmith", "done")
    assert codes(done.statuses) == ["ProvisioningState/succeeded", "OSState/generalized", "PowerState/stopped"]
    assert [each.display_status for each in done.statuses] == [
        "Provisioning succeeded",
        "VM generalized",
        "VM stopped",
    ]
    with pytest.raises(ResourceNotFoundError):
        compute.virtual_machines.get("goldsmith", "nobody")


def test_a_vm_is_deallocated_and_deleted(compute: ComputeManagementClient, client: Client) -> None:
    vms = compute.virtual_machines
    poller = vms.begin_deallocate("goldsmith", "off")
    assert poller.result(60) is None and poller.status() == "Succeeded"
    assert codes(vms.instance_view("goldsmith", "off").statuses)[-1] == "PowerState/deallocated"
    # a state that is reached already is a success, as on Azure
    vms.begin_deallocate("goldsmith", "off").result(60)
    vms.begin_power_off("goldsmith", "idle", skip_shutdown=True).result(60)
    vms.begin_delete("goldsmith", "off").result(60)
    vms.begin_delete("goldsmith", "off").result(60)
    assert [each.name for each in vms.list_all()] == ["done", "idle"]
    assert client.facade.manager.tasks.wait_idle(60)


def test_a_failed_operation_has_azures_code_and_goldsmiths_name(compute: ComputeManagementClient) -> None:
    for begin in (compute.virtual_machines.begin_start, compute.virtual_machines.begin_restart):
        with pytest.raises(HttpResponseError) as error:
            begin("goldsmith", "idle").result(60)
        assert error.value.error.code == "OperationNotAllowed"
        assert error.value.error.details[0].code in ("vm-incomplete", "vm-deallocated")
    with pytest.raises(HttpResponseError) as error:
        compute.virtual_machines.begin_capture(
            "goldsmith", "off", {"vhdPrefix": "web", "destinationContainerName": "c", "overwriteVhds": False}
        )
    assert error.value.error.details[0].code == "vm-not-generalized"
    source = {"id": compute.virtual_machines.get("goldsmith", "off").id}
    with pytest.raises(HttpResponseError) as error:
        compute.images.begin_create_or_update(
            "goldsmith", "web", {"location": "local", "properties": {"sourceVirtualMachine": source}}
        )
    assert error.value.error.details[0].code == "vm-not-generalized"
    assert error.value.status_code == 409


def test_a_disk_is_made_listed_and_deleted(compute: ComputeManagementClient, client: Client) -> None:
    disks = compute.disks
    made = disks.begin_create_or_update(
        "goldsmith",
        "data1",
        {
            "location": "local",
            "tags": {"a": "b"},
            "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1},
        },
    ).result(60)
    assert (made.disk_size_gb, made.disk_state, made.tags) == (1, "Unattached", {"a": "b"})
    small = compute.images.get("goldsmith", "small")
    from_image = {"createOption": "FromImage", "imageReference": {"id": small.id}}
    copy = disks.begin_create_or_update(
        "goldsmith", "data2", {"location": "local", "properties": {"creationData": from_image}}
    ).result(60)
    assert copy.creation_data.create_option == "FromImage" and copy.creation_data.image_reference.id == small.id
    assert {each.name for each in disks.list_by_resource_group("goldsmith")} == {"data1", "data2"}
    disks.begin_delete("goldsmith", "data1").result(60)
    assert client.facade.manager.tasks.wait_idle(60)
    assert {each.name for each in disks.list()} == {"data2"}
    with pytest.raises(HttpResponseError) as error:
        compute.virtual_machines.begin_attach_detach_data_disks(
            "goldsmith", "off", {"dataDisksToAttach": [{"diskId": copy.id, "lun": 1}]}
        ).result(60)
    assert error.value.error.details[0].code == "vm-incomplete"


def test_the_gallery_is_read(compute: ComputeManagementClient) -> None:
    assert [each.name for each in compute.galleries.list()] == ["goldsmith"]
    definition = compute.gallery_images.get("goldsmith", "goldsmith", "small-gen1")
    assert (definition.os_state, definition.hyper_v_generation) == ("Generalized", "V1")
    assert [each.name for each in compute.gallery_images.list_by_gallery("goldsmith", "goldsmith")] == ["small-gen1"]
    (version,) = compute.gallery_image_versions.list_by_gallery_image("goldsmith", "goldsmith", "small-gen1")
    assert version.publishing_profile.exclude_from_latest is False
    assert compute.gallery_image_versions.get("goldsmith", "goldsmith", "small-gen1", version.name).id == version.id
    for name in ("small-gen2", "small", "none-gen1"):
        with pytest.raises(ResourceNotFoundError):
            compute.gallery_images.get("goldsmith", "goldsmith", name)
    assert [each.name for each in compute.images.list()] == ["small"]


def test_a_vm_of_an_unknown_image_is_refused_before_anything_is_made(
    compute: ComputeManagementClient, client: Client
) -> None:
    body: dict[str, Any] = {
        "location": "local",
        "properties": {
            "storageProfile": {"imageReference": {"id": f"{GROUP}/providers/Microsoft.Compute/images/nix"}},
            "osProfile": {"computerName": "web", "adminUsername": "me"},
        },
    }
    with pytest.raises(HttpResponseError) as error:
        compute.virtual_machines.begin_create_or_update("goldsmith", "web", body)
    assert error.value.error.details[0].code == "gallery-unknown"
    body["properties"]["storageProfile"]["imageReference"]["id"] = f"{GROUP}/providers/Microsoft.Compute/images/small"
    with pytest.raises(HttpResponseError) as error:
        compute.virtual_machines.begin_create_or_update("goldsmith", "web", body)
    assert error.value.error.details[0].code == "ssh-key-missing"
    keys = [{"path": "/home/me/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA\nssh-rsa BBBB"}]
    body["properties"]["osProfile"]["linuxConfiguration"] = {"ssh": {"publicKeys": keys}}
    with pytest.raises(HttpResponseError) as error:
        compute.virtual_machines.begin_create_or_update("goldsmith", "web", body)
    assert error.value.error.code == "InvalidParameter"
    assert client.facade.manager.store.instances.joinpath("web").exists() is False
