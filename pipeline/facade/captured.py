"""The result of a capture: a template of VMs of the new version, with the fields of Azure's own result.

Azure's document of it (https://learn.microsoft.com/rest/api/compute/virtual-machines/capture) has no variables, and
clients drop them; so each is written out where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.facade.ids import MACHINES
from pipeline.facade.machines import GALLERY

_VARIABLE = re.compile(r"variables\('(\w+)'\)", re.ASCII)


def capture_result(template: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`template` is the version's own `template.json`, `place` the id of the VM. The gallery has a default: the only
    one of this host. The VM is the first resource, as in Azure's result: `az vm capture` prints only that one."""
    variables = {name: str(value).removeprefix("[").removesuffix("]") for name, value in _part(template, "variables")}
    parameters = dict(_part(template, "parameters"))
    if "galleryName" in parameters:
        parameters["galleryName"] = {**parameters["galleryName"], "defaultValue": GALLERY}
    return {
        "$schema": template["$schema"],
        "contentVersion": template["contentVersion"],
        "id": place,
        "parameters": parameters,
        "resources": sorted(
            _written_out(template["resources"], variables), key=lambda each: each["type"] != MACHINES
        ),
    }


def _part(template: Mapping[str, Any], key: str) -> Any:
    return (template.get(key) or {}).items()


def _written_out(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _written_out(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_written_out(each, variables) for each in value]
    if isinstance(value, str) and value.startswith("["):
        return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), value)
    return value
