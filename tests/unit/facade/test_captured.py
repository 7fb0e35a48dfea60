"""The result of a capture is a template on its own, as clients of Azure keep it."""

from __future__ import annotations

import json
from typing import Any

from pipeline.evidence.arm_template import managed_template
from pipeline.facade.captured import capture_result
from pipeline.facade.ids import MACHINES
from pipeline.operations.arm_deployment import make_deployment
from tests.unit.operations.test_arm_template import MANIFEST

PLACE = "/subscriptions/0/resourceGroups/shop/providers/Microsoft.Compute/virtualMachines/origin"


def test_it_has_azures_fields_and_deploys_what_the_version_does() -> None:
    template = managed_template(MANIFEST)
    found = capture_result(template, PLACE)
    assert set(found) == {"$schema", "contentVersion", "id", "parameters", "resources"} and found["id"] == PLACE
    assert "variables(" in json.dumps(template) and "variables(" not in json.dumps(found)
    values: dict[str, Any] = {"vmName": "copy", "adminPublicKey": "ssh-ed25519 AAAA me", "subnetId": "/x"}
    given = {name: {"value": value} for name, value in values.items()}
    full = {**given, "galleryName": {"value": "goldsmith"}}
    sent = {key: value for key, value in found.items() if key != "id"}
    mine = make_deployment(sent, given, "the result").resources()
    theirs = make_deployment(template, full, "the template").resources()
    bodies = {each.kind: each.body for each in mine}
    assert len(mine) == len(theirs) and bodies == {each.kind: each.body for each in theirs}
    assert found["resources"][0]["type"] == MACHINES, "the one that az vm capture prints"
