"""Requests that no client of Azure would send, drawn by hypothesis: each must be refused, and change nothing."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.facade.manager import ROUTES
from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.facade import Client

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


#: Bodies that are right: what is wrong with their requests is the path, the method or the version.
RIGHT = (
    {"location": "local"},
    {"location": "local", "properties": {}},
    {"location": "local", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}},
    {"vhdPrefix": "web", "destinationContainerName": "c", "overwriteVhds": True},
    {"properties": {"mode": "Incremental", "parameters": {}, "template": {"$schema": "x", "resources": []}}},
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Method, path, body. The group does not exist, so that nothing that is right by chance is made."""
    route = draw(st.sampled_from(ROUTES))
    method = route.method if draw(st.booleans()) else draw(st.sampled_from(METHODS))
    path = route.template.replace("{subscription}", SUBSCRIPTION)
    while "{" in path:
        name = path.partition("{")[2].partition("}")[0]
        given_name = draw(NAMES)
        # a group that can exist would be made by a PUT with a right body
        value = f"no group {given_name}" if name == "group" else given_name
        path = path.replace(f"{{{name}}}", quote(value, safe="" if draw(st.booleans()) else "%"), 1)
    version = draw(st.sampled_from(["2024-07-01"] * 6 + ["", "x", "2024-07-01'"]))
    kind = draw(st.integers(0, 9))
    if kind < 4:
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
