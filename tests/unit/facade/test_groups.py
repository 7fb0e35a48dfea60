"""A resource group with what is in it is deleted; a version of the gallery is asked for with its number."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.facade.ids import GALLERIES
from pipeline.gallery.versions import next_version
from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.facade import GROUP, MACHINES, VERSION, Client
from tests.unit.operations.test_wrong_states import everything

SHOP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/shop"
DISK = {"location": "local", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}}
IMAGES = f"{GROUP}/providers/{GALLERIES}/goldsmith/images"


def ask(client: Client, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return client.ask(method, f"{path}?{VERSION}", body)


def status(client: Client, method: str, path: str, body: dict[str, Any] | None = None) -> int:
    return int(ask(client, method, path, body).status)


def test_a_group_is_deleted_with_its_vms_disks_and_records(client: Client) -> None:
    for name in ("shop", "shop2"):
        place = SHOP.replace("shop", name)
        assert status(client, "PUT", place, {"location": "local"}) == 201
        assert status(client, "PUT", f"{place}/providers/Microsoft.Network/virtualNetworks/lan", {}) == 201
        assert status(client, "PUT", f"{place}/providers/Microsoft.Compute/disks/{name}-data", DISK) == 200
    with client.facade.manager.session() as session:
        owner = session.fleet.instances.get("off").id
        session.place(owner, session.placement(owner).__class__(group="shop"))
        session.place("image:small", session.placement("image:small").__class__(group="shop"))
    assert status(client, "GET", f"{SHOP}/providers/Microsoft.Compute/virtualMachines/off") == 200
    answer = ask(client, "DELETE", SHOP.upper().replace("/SUBSCRIPTIONS", "/subscriptions"))
    assert answer.status == 202 and "azure-asyncoperation" in {key.lower() for key in answer.headers}
    assert client.facade.manager.tasks.wait_idle(60)
    assert status(client, "HEAD", SHOP) == 404 and status(client, "DELETE", SHOP) == 404
    assert [each["name"] for each in ask(client, "GET", MACHINES).body["value"]] == ["done", "idle"]
    listed = ask(client, "GET", f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/disks").body["value"]
    assert [each["name"] for each in listed] == ["shop2-data"]
    # a group whose name begins alike, and the master, stay
    assert status(client, "GET", f"{SHOP}2/providers/Microsoft.Network/virtualNetworks/lan") == 200
    assert status(client, "PUT", SHOP, {"location": "local"}) == 201
    assert status(client, "GET", f"{SHOP}/providers/Microsoft.Network/virtualNetworks/lan") == 404
    assert status(client, "GET", f"{GROUP}/providers/Microsoft.Compute/images/small") == 200


def test_the_group_of_the_masters_is_never_deleted(client: Client) -> None:
    before = everything(client.facade.manager.store)
    answer = ask(client, "DELETE", GROUP)
    assert (answer.status, answer.body["error"]["code"]) == (409, "ResourceGroupDeletionBlocked")
    assert everything(client.facade.manager.store) == before


def source(name: str, field: str = "virtualMachineId") -> dict[str, Any]:
    return {"location": "local", "properties": {"storageProfile": {"source": {field: f"{MACHINES}/{name}"}}}}


def test_a_version_has_the_number_that_goldsmith_gives_next(client: Client) -> None:
    first = next_version([], datetime.now(UTC).date())
    before = everything(client.facade.manager.store)
    wrong: list[tuple[str, dict[str, Any], int, str]] = [
        (f"web-gen2/versions/{first}", source("nobody"), 404, "nobody"),
        (f"web-gen2/versions/{first}", source("off"), 409, "not generalized"),
        (f"web-gen2/versions/{first}", {"location": "local"}, 501, "of VMs alone"),
        ("web-gen2/versions/1.0.0", source("done"), 400, first),
        (f"web/versions/{first}", source("done"), 400, "-gen1"),
        (f"web-gen3/versions/{first}", source("done"), 400, "-gen1"),
    ]
    for path, body, code, words in wrong:
        answer = ask(client, "PUT", f"{IMAGES}/{path}", body)
        assert answer.status == code and words in answer.body["error"]["message"], (path, answer.body)
    (known,) = ask(client, "GET", f"{IMAGES}/small-gen1/versions").body["value"]
    assert status(client, "PUT", f"{IMAGES}/small-gen1/versions/{known['name']}", source("done")) == 409
    assert everything(client.facade.manager.store) == before


@pytest.mark.parametrize("field", ["virtualMachineId", "id"])
def test_a_version_is_captured_from_a_generalized_vm(client: Client, field: str) -> None:
    number = next_version([], datetime.now(UTC).date())
    answer = ask(client, "PUT", f"{IMAGES}/web-gen2/versions/{number}", source("done", field))
    assert answer.status == 201 and answer.body["properties"]["provisioningState"] == "Creating"
    headers = {key.lower(): value for key, value in answer.headers.items()}
    assert client.facade.manager.tasks.wait_idle(60)
    path = headers["azure-asyncoperation"].removeprefix(f"https://localhost:{client.facade.port}")
    found = client.ask("GET", path).body
    # this VM never had a disk that could be copied
    assert found["status"] == "Failed" and found["error"]["message"]
