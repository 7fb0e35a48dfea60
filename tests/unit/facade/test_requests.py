"""Requests that are not as they must be, and what the facade does not do: an answer by name, and nothing changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.facade.jsonc import to_json
from pipeline.facade.manager import ROUTES
from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.facade import GROUP, MACHINES, VERSION, Client
from tests.fakes.malformed_requests import RIGHT, send_malformed
from tests.unit.operations.test_wrong_states import everything

PAGE = Path(__file__).parents[3] / "docs" / "az.md"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
#: A tenth of the requests of `make campaign-az`.
COUNT = 200


def test_the_page_has_every_route() -> None:
    rows = {
        tuple(cell.strip(" `") for cell in line.split("|")[1:4])
        for line in PAGE.read_text().splitlines()
        if "|" in line
    }
    missing = [
        route for route in ROUTES if (route.method, route.template, route.purpose.replace("|", "/")) not in rows
    ]
    assert not missing, "\n".join(
        f"| {route.method} | `{route.template}` | {route.purpose.replace('|', '/')} |" for route in missing
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", f"{GROUP}/providers/Microsoft.Compute/snapshots", 501, "Microsoft.Compute/snapshots"),
        ("PUT", f"{GROUP}/providers/Microsoft.Compute/availabilitySets/a", 501, "Microsoft.Compute/availabilitySets"),
        ("POST", f"{MACHINES}/off/runCommand", 501, "runCommand"),
        ("PUT", f"{MACHINES}/off/start", 501, "PUT Microsoft.Compute/virtualMachines"),
        ("PUT", f"{NETWORK}/loadBalancers/a", 501, "loadbalancers"),
        ("GET", f"/subscriptions/{'1' * 8}-0000-0000-0000-{'0' * 12}", 404, "subscription"),
        ("GET", f"{MACHINES}/nobody", 404, "nobody"),
        ("GET", f"{MACHINES}/%2e%2e", 400, "path"),
        ("GET", f"{MACHINES}/a%00b", 400, "path"),
    ],
)
def test_what_is_not_done_or_not_there_is_named(
    client: Client, method: str, path: str, status: int, words: str
) -> None:
    answer = client.ask(method, f"{path}?{VERSION}", {} if method == "PUT" else None)
    assert answer.status == status and words.lower() in answer.body["error"]["message"].lower()


def test_a_request_without_a_version_of_the_api_is_refused(client: Client) -> None:
    for query in ("", "?api-version=", "?api-version=latest", "?api-version=2024-07-01x"):
        answer = client.ask("GET", f"{MACHINES}{query}")
        assert (answer.status, answer.body["error"]["code"]) == (400, "MissingApiVersionParameter")


def test_paths_have_no_case(client: Client) -> None:
    answer = client.ask("GET", f"{MACHINES.upper()}/OFF?{VERSION}".replace("/SUBSCRIPTIONS", "/Subscriptions"))
    assert answer.status == 200 and answer.body["name"] == "off"


def test_the_size_of_an_os_disk_is_shown_and_a_put_cannot_change_it(client: Client) -> None:
    place = f"{MACHINES}/off?{VERSION}"
    body = client.ask("GET", place).body
    os_disk = body["properties"]["storageProfile"]["osDisk"]
    assert os_disk["diskSizeGB"] == 1
    assert client.ask("PUT", place, body).status == 200
    os_disk["diskSizeGB"] = 2
    answer = client.ask("PUT", place, body)
    assert (answer.status, answer.body["error"]["code"]) == (409, "PropertyChangeNotAllowed")
    os_disk["diskSizeGB"] = "large"
    assert client.ask("PUT", place, body).status == 400


def test_a_new_vm_has_the_os_disk_size_of_its_request(client: Client) -> None:
    image = client.ask("GET", f"{MACHINES}/off?{VERSION}").body["properties"]["storageProfile"]["imageReference"]
    for size, words in ((2041, "2041 is not a size of the OS disk"), (2040, "there is no room for web")):
        storage = {"imageReference": image, "osDisk": {"createOption": "FromImage", "diskSizeGB": size}}
        key = {"path": "/home/azureuser/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA me"}
        linux = {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}}
        profile = {"computerName": "web", "adminUsername": "azureuser", "linuxConfiguration": linux}
        body = {"location": "local", "properties": {"storageProfile": storage, "osProfile": profile}}
        answer = client.ask("PUT", f"{MACHINES}/web?{VERSION}", body)
        assert answer.status >= 400 and words in answer.body["error"]["message"], answer.body
    assert client.ask("GET", f"{MACHINES}/web?{VERSION}").status == 404


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    answer = client.ask("PUT", f"{GROUP}?{VERSION}", b'{"a": "' + b"x" * 4_000_001 + b'"}')
    assert answer.status == 413


def test_groups_and_networks_are_kept_as_they_were_given(client: Client) -> None:
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/Shop"
    made = client.ask("PUT", f"{group}?{VERSION}", {"location": "West Europe", "tags": {"a": "b"}})
    assert made.status == 201 and made.body["location"] == "westeurope"
    assert client.ask("HEAD", f"{group.lower()}?{VERSION}").status == 204
    assert client.ask("HEAD", f"{group}x?{VERSION}").status == 404
    names = [each["name"] for each in client.ask("GET", f"{group.rpartition('/')[0]}?{VERSION}").body["value"]]
    assert names == ["goldsmith", "Shop"]
    place = f"{group}/providers/Microsoft.Network/virtualNetworks/lan"
    subnets = [{"name": "one", "properties": {"addressPrefix": "10.0.0.0/24"}}]
    body = {
        "location": "westeurope",
        "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets},
    }
    assert client.ask("PUT", f"{place}?{VERSION}", body).status == 201
    assert client.ask("PUT", f"{place}?{VERSION}", body).status == 200
    found = client.ask("GET", f"{place}/subnets/one?{VERSION}").body
    assert found["id"] == f"{place}/subnets/one" and found["properties"]["addressPrefix"] == "10.0.0.0/24"
    assert client.ask("DELETE", f"{place}?{VERSION}").status == 200
    assert client.ask("DELETE", f"{place}?{VERSION}").status == 204
    card = client.ask("GET", f"{NETWORK}/networkInterfaces/off-nic?{VERSION}").body
    assert card["properties"]["virtualMachine"]["id"] == f"{MACHINES}/off"


TEMPLATE: dict[str, Any] = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "parameters": {"lan": {"type": "string"}, "word": {"type": "securestring"}},
    "resources": [
        {
            "type": "Microsoft.Network/virtualNetworks",
            "name": "[parameters('lan')]",
            "apiVersion": "2024-05-01",
            "location": "[resourceGroup().location]",
            "properties": {"subnets": [{"name": "one", "properties": {"addressPrefix": "10.0.0.0/24"}}]},
        }
    ],
    "variables": {"place": "[concat(resourceGroup().name, '/', parameters('lan'))]"},
    "outputs": {
        "where": {"type": "string", "value": "[variables('place')]"},
        "secret": {"type": "string", "value": "[parameters('word')]"},
    },
}


def test_a_template_is_deployed_as_az_sends_it(client: Client) -> None:
    place = f"{GROUP}/providers/Microsoft.Resources/deployments/first"
    parameters = {"lan": {"value": "lan"}, "word": {"value": "a secret"}}
    head = json.dumps({"properties": {"parameters": parameters, "mode": "Incremental"}})
    text = json.dumps({"id": "of a capture", **TEMPLATE}, indent=1).replace(
        '"outputs"', '/* what // it gives */ "outputs"'
    )
    sent = f"{head[:-2]}, template:{text}}}}}".encode()
    assert client.ask("POST", f"{place}/validate?{VERSION}", sent).status == 200
    assert client.ask("GET", f"{NETWORK}/virtualNetworks/lan?{VERSION}").status == 404
    answer = client.ask("PUT", f"{place}?{VERSION}", sent)
    assert answer.status == 201, answer.body
    assert client.facade.manager.tasks.wait_idle(60)
    found = client.ask("GET", f"{place}?{VERSION}").body["properties"]
    assert found["provisioningState"] == "Succeeded"
    assert found["outputs"] == {"where": {"type": "String", "value": "goldsmith/lan"}}
    assert found["parameters"] == {"lan": {"type": "String", "value": "lan"}}
    assert client.ask("GET", f"{NETWORK}/virtualNetworks/lan?{VERSION}").body["location"] == "local"
    kept = [path.read_bytes() for path in client.facade.home.root.rglob("*.json")]
    assert not [data for data in kept if b"a secret" in data]


def test_a_template_that_cannot_be_deployed_changes_nothing(client: Client) -> None:
    place = f"{GROUP}/providers/Microsoft.Resources/deployments/second"
    store = client.facade.manager.store
    before = everything(store)
    wrong = [
        ({**TEMPLATE, "resources": [{"type": "Microsoft.Sql/servers", "name": "a"}]}, 501),
        (
            {**TEMPLATE, "parameters": {"lan": {"type": "int", "minValue": "x"}, "word": {"type": "securestring"}}},
            400,
        ),
        (
            {
                **TEMPLATE,
                "resources": [{"type": "Microsoft.Compute/virtualMachines", "name": "web", "properties": 4}],
            },
            400,
        ),
        ({"resources": []}, 400),
        ({**TEMPLATE, "variables": []}, 400),
        (
            {
                **TEMPLATE,
                "resources": [*TEMPLATE["resources"], {**TEMPLATE["resources"][0], "properties": {"subnets": 4}}],
            },
            400,
        ),
    ]
    for template, status in wrong:
        values = {"lan": {"value": 4 if "minValue" in str(template) else "lan"}, "word": {"value": "x"}}
        body = {"properties": {"template": template, "parameters": values, "mode": "Incremental"}}
        answer = client.ask("PUT", f"{place}?{VERSION}", body)
        assert answer.status == status, answer.body
    assert client.ask("PUT", f"{place}?{VERSION}", {"properties": {"mode": "Complete"}}).status == 501
    assert everything(store) == before


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"a": 1, template:{"b": 2}}', {"a": 1, "template": {"b": 2}}),
        ('{"a": "template: // no comment"}', {"a": "template: // no comment"}),
        ('{"a": "\\"", /* one */ "b": 2 // two\n}', {"a": '"', "b": 2}),
    ],
)
def test_the_form_of_az_is_read(text: str, read: object) -> None:
    assert json.loads(to_json(text)) == read


def test_malformed_requests_change_nothing_and_end_in_no_fault(client: Client) -> None:
    store = client.facade.manager.store
    before = everything(store)
    statuses = send_malformed(client, COUNT)
    assert sum(statuses.values()) == COUNT
    assert not [status for status in statuses if status >= 500 and status != 501], statuses
    assert everything(store) == before


def test_a_right_body_at_a_wrong_place_changes_nothing(client: Client) -> None:
    store = client.facade.manager.store
    before = everything(store)
    for route in ROUTES:
        path = route.template.replace("{subscription}", SUBSCRIPTION).replace("{type}", "networkInterfaces")
        path = re.sub(r"\{\w+\}", "not%20a%20name", path)
        for body in RIGHT if route.method in ("PUT", "POST", "PATCH") else RIGHT[:1]:
            answer = client.ask(route.method, f"{path}?{VERSION}", None if route.method == "GET" else body)
            # what is not there is deleted already; some lists do not depend on a name
            assert answer.status >= 400 or answer.status == 204 or route.method == "GET", (route, body)
    assert everything(store) == before


@pytest.mark.parametrize("seed", [b"{", b"\xff\xfe", b"[]", b"4", b'{"a": NaN}', b'{"tags": 4}', b'{"location": {}}'])
def test_a_body_that_is_no_object_is_refused(client: Client, seed: bytes) -> None:
    answer = client.ask("PUT", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/shop?{VERSION}", seed)
    assert answer.status == 400 and answer.body["error"]["message"]
    assert client.ask("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/shop?{VERSION}").status == 404
