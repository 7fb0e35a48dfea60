"""Requests that no client of Azure would send, drawn by hypothesis: each must be refused, and change nothing."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.facade.manager import ROUTES
from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.facade import GROUP, Client

METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")
#: Values of every JSON kind, for fields that want another one.
LEAVES = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
#: Names of fields that the facade reads.
KEYS = (
    *(
        "properties",
        "location",
        "tags",
        "storageProfile",
        "imageReference",
        "osDisk",
        "dataDisks",
        "lun",
        "name",
        "id",
    ),
    *(
        "createOption",
        "diskSizeGB",
        "managedDisk",
        "creationData",
        "osProfile",
        "linuxConfiguration",
        "ssh",
        "publicKeys",
    ),
    *(
        "keyData",
        "customData",
        "hardwareProfile",
        "vmSize",
        "networkProfile",
        "networkInterfaces",
        "template",
        "mode",
    ),
    *("parameters", "resources", "type", "outputs", "value", "vhdPrefix", "dataDisksToAttach", "diskId", "caching"),
    *("$schema", "contentVersion", "variables", "computerName", "securityProfile", "subnets", "ipConfigurations"),
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=5),
    max_leaves=25,
)
#: Names that no resource of the tests has; the last ones are not even names.
NAMES = st.sampled_from(
    ["nobody", "..", ".", "a/b", "%2e%2e", "a\x00b", "-", "x" * 300, "é", "a b", "$expand", "*", "'"]
) | st.text(min_size=1, max_size=30)


#: A whole VM, a network and a template: a request with one of them in which a single value is another one.
_VM: dict[str, Any] = {
    "location": "local",
    "tags": {"a": "b"},
    "properties": {
        "hardwareProfile": {"vmSize": "Standard_B1s"},
        "storageProfile": {
            "imageReference": {"id": f"{GROUP}/providers/Microsoft.Compute/images/small"},
            "osDisk": {"createOption": "FromImage", "caching": "ReadWrite", "managedDisk": {}},
            "dataDisks": [
                {"lun": 0, "createOption": "Empty", "diskSizeGB": 1, "name": "d1", "caching": "None"},
                {
                    "lun": 1,
                    "createOption": "Attach",
                    "managedDisk": {"id": f"{GROUP}/providers/Microsoft.Compute/disks/d"},
                },
            ],
        },
        "osProfile": {
            "computerName": "not a name",
            "adminUsername": "me",
            "customData": "aGVsbG8=",
            "linuxConfiguration": {"ssh": {"publicKeys": [{"path": "/x", "keyData": "ssh-ed25519 AAAA me"}]}},
        },
        "networkProfile": {"networkInterfaces": [{"id": "/x", "properties": {"primary": True}}]},
        "securityProfile": {"uefiSettings": {"secureBootEnabled": False}},
        "userData": "aGVsbG8=",
    },
}
_NETWORK: dict[str, Any] = {
    "location": "local",
    "sku": {"name": "Standard"},
    "properties": {
        "subnets": [{"name": "one", "properties": {"addressPrefix": "10.0.0.0/24"}}],
        "securityRules": [{"name": "one", "properties": {}}],
        "ipConfigurations": [{"name": "one", "properties": {"subnet": {"id": "/x"}}}],
        "creationData": {"createOption": "FromImage", "imageReference": {"id": "/x", "lun": 1}},
        "diskSizeGB": 1,
        "sourceVirtualMachine": {"id": f"{GROUP}/providers/Microsoft.Compute/virtualMachines/off"},
    },
    "dataDisksToAttach": [{"diskId": f"{GROUP}/providers/Microsoft.Compute/disks/d", "lun": 1, "caching": "None"}],
    "dataDisksToDetach": [{"diskId": f"{GROUP}/providers/Microsoft.Compute/disks/d"}],
}
_TEMPLATE: dict[str, Any] = {
    "properties": {
        "mode": "Incremental",
        "parameters": {"lan": {"value": "lan"}, "count": {"value": 2}},
        "template": {
            "$schema": "x",
            "contentVersion": "1.0.0.0",
            "parameters": {
                "lan": {"type": "string", "minLength": 1, "maxLength": 9, "allowedValues": ["lan"]},
                "count": {
                    "type": "int",
                    "defaultValue": 1,
                    "minValue": 1,
                    "maxValue": 4,
                    "metadata": {"description": "x"},
                },
            },
            "variables": {"place": "[concat(parameters('lan'), '-', resourceGroup().location)]"},
            "resources": [
                {"type": "Microsoft.Network/virtualNetworks", "name": "[variables('place')]", **_NETWORK},
                {"type": "Microsoft.Compute/virtualMachines", "name": "web", **_VM},
            ],
            "outputs": {"a": {"type": "string", "value": "[resourceId('Microsoft.Compute/virtualMachines', 'web')]"}},
        },
    }
}
#: Bodies that are right: what is wrong with their requests is the path, the method or the version.
RIGHT = (
    {"location": "local"},
    {"location": "local", "properties": {}},
    {"location": "local", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}},
    {"vhdPrefix": "web", "destinationContainerName": "c", "overwriteVhds": True},
    {"properties": {"mode": "Incremental", "parameters": {}, "template": {"$schema": "x", "resources": []}}},
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(each for key, below in inner for each in _places(below, (*place, key)))]


@st.composite
def changed_bodies(draw: st.DrawFn) -> Any:
    """A whole body in which one value was replaced or taken out."""
    body = copy.deepcopy(draw(st.sampled_from((_VM, _NETWORK, _TEMPLATE))))
    *way, last = draw(st.sampled_from(_places(body)[1:]))
    holder = body
    for key in way:
        holder = holder[key]
    if draw(st.integers(0, 4)):
        holder[last] = draw(
            OBJECTS | st.sampled_from(["", "[", "[x(", "[concat(1, 'a'", "[parameters('none')]", "..", "/"])
        )
    else:
        del holder[last]
    return body


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Method, path, body. The group does not exist, or the name in it is none, so that nothing is made by chance."""
    route = draw(st.sampled_from(ROUTES))
    method = route.method if draw(st.booleans()) else draw(st.sampled_from(METHODS))
    path = route.template.replace("{subscription}", SUBSCRIPTION)
    in_group = "{group}/" in path and draw(st.booleans())
    if in_group:
        path = re.sub(r"\{type\}", draw(st.sampled_from(["virtualNetworks", "networkInterfaces", "x"])), path)
        path = re.sub(r"\{\w+\}", "not%20a%20name", path.replace("{group}", "goldsmith"))
    while "{" in path:
        name = path.partition("{")[2].partition("}")[0]
        given_name = draw(NAMES)
        # a group that can exist would be made by a PUT with a right body
        value = f"no group {given_name}" if name == "group" else given_name
        path = path.replace(f"{{{name}}}", quote(value, safe="" if draw(st.booleans()) else "%"), 1)
    version = draw(st.sampled_from(["2024-07-01"] * 6 + ["", "x", "2024-07-01'"]))
    kind = draw(st.integers(0, 9))
    if in_group and kind < 8:
        body = json.dumps(draw(changed_bodies())).encode()
    elif kind < 4:
        body = json.dumps(draw(st.sampled_from(RIGHT))).encode()
    elif kind < 7:
        body = json.dumps(draw(OBJECTS)).encode()
    elif kind < 9:
        body = json.dumps(draw(VALUES)).encode()
    else:
        body = draw(st.binary(max_size=60))
    return method, f"{path}?api-version={quote(version)}", b"" if method == "GET" else body


def send_malformed(client: Client, count: int) -> Counter[int]:
    """Send so many requests; the number of answers by status. Fails at an answer that shows a fault."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=count,
        phases=(Phase.generate,),  # an answer names its whole request: to make it smaller takes minutes
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def send(request: tuple[str, str, bytes]) -> None:
        method, path, body = request
        answer = client.ask(method, path, body)
        shown: Any = f"{method} {path} {body!r}: {answer.status} {answer.data[:400]!r}"
        assert answer.status < 500 or answer.status == 501, shown
        assert b"Traceback" not in answer.data, shown
        if answer.status >= 400 and method != "HEAD" and answer.data:
            assert answer.body is None or answer.body["error"], shown
        statuses[answer.status] += 1

    send()
    return statuses
