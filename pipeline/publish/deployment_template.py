"""A gallery's image definitions and version as an ARM template or a Bicep file, for who deploys these instead.

The resources are those that `publish push` creates (`gallery_resources.py`). The page blob must be on the staging
target before the deployment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.gallery import Version, disks_of
from pipeline.gallery.manifest import tree_of_disk
from pipeline.publish.gallery_resources import definition, definition_name, publishing, version
from pipeline.publish.targets import ImageGallery
from pipeline.publish.uploader import folder_of

API = "2024-03-03"
_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
_GALLERY, _DEFINITION = "Microsoft.Compute/galleries", "Microsoft.Compute/galleries/images"
_VERSION = "Microsoft.Compute/galleries/images/versions"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Parameter(str):
    """A value that is a parameter of the template; the text is its name."""

    __slots__ = ()


def _resources(found: Version, target: ImageGallery, keep_days: int | None) -> list[tuple[int, dict[str, Any], Any]]:
    """For each generation its definition and its version, with parameters for what differs by deployment."""
    place = replace(target.place, location=Parameter("location"))
    named = replace(target, place=place, storage_account=Parameter("storageAccountId"))
    urls = [(disk.get("lun"), Parameter(_url_name(disk.get("lun")))) for disk in _disks(found).values()]
    profile = publishing(named, candidate=False, keep_days=keep_days)
    made = version(named, found.manifest, tree_of_disk(found.manifest["disk"]), urls, profile)
    return [
        (generation, definition(named, found.manifest, generation), made)
        for generation in found.manifest["generations"]
    ]


def _disks(found: Version) -> Mapping[str, Mapping[str, Any]]:
    return disks_of(found.manifest)


def _url_name(lun: int | None) -> str:
    return "osDiskUri" if lun is None else f"dataDisk{lun}Uri"


def _parameters(found: Version, target: ImageGallery) -> dict[str, str]:
    """Names of the parameters, and their defaults."""
    folder = f"{target.staging.url}/{folder_of(found)}"
    urls = {_url_name(disk.get("lun")): f"{folder}/{file}" for file, disk in _disks(found).items()}
    fixed = {"galleryName": target.name, "location": target.place.location}
    return {**fixed, "storageAccountId": target.storage_account, **urls}


def arm(found: Version, target: ImageGallery, keep_days: int | None = None) -> str:
    """An ARM template."""
    resources = []
    for generation, image, made in _resources(found, target, keep_days):
        name = definition_name(found.name, generation)
        resources += [
            {
                "type": _DEFINITION,
                "apiVersion": API,
                "name": f"[concat(parameters('galleryName'), '/{name}')]",
                **_arm(image),
            },
            {
                "type": _VERSION,
                "apiVersion": API,
                "name": f"[concat(parameters('galleryName'), '/{name}/{found.version}')]",
                "dependsOn": [f"[resourceId('{_DEFINITION}', parameters('galleryName'), '{name}')]"],
                **_arm(made),
            },
        ]
    parameters = {
        name: {"type": "string", "defaultValue": value} for name, value in _parameters(found, target).items()
    }
    document = {"$schema": _SCHEMA, "contentVersion": "1.0.0.0", "parameters": parameters, "resources": resources}
    return json.dumps(document, indent=2) + "\n"


def _arm(value: Any) -> Any:
    if isinstance(value, Parameter):
        return f"[parameters('{value}')]"
    if isinstance(value, Mapping):
        return {key: _arm(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_arm(each) for each in value]
    # a text that begins with a bracket would be an expression
    return f"[{value}" if isinstance(value, str) and value.startswith("[") else value


def bicep(found: Version, target: ImageGallery, keep_days: int | None = None) -> str:
    """A Bicep file."""
    lines = [f"param {name} string = {_bicep(value)}" for name, value in _parameters(found, target).items()]
    lines += ["", f"resource gallery '{_GALLERY}@{API}' existing = {{", "  name: galleryName", "}"]
    for generation, image, made in _resources(found, target, keep_days):
        name, word = definition_name(found.name, generation), f"gen{generation}"
        for symbol, kind, parent, resource in (
            (word, _DEFINITION, "gallery", {"name": name, **image}),
            (f"{word}Version", _VERSION, word, {"name": found.version, **made}),
        ):
            body = _bicep({"parent": Parameter(parent), **resource})
            lines += ["", f"resource {symbol} '{kind}@{API}' = {body}"]
    return "\n".join(lines) + "\n"


def _bicep(value: Any, indent: str = "") -> str:
    inner = indent + "  "
    if isinstance(value, Parameter):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${").replace("\n", "\\n")
        return f"'{text}'"
    if isinstance(value, Mapping):
        pairs = (f"{inner}{_bicep_key(key)}: {_bicep(each, inner)}\n" for key, each in value.items())
        return "{\n" + "".join(pairs) + f"{indent}}}"
    assert isinstance(value, list), value
    items = (f"{inner}{_bicep(each, inner)}\n" for each in value)
    return "[\n" + "".join(items) + f"{indent}]"


def _bicep_key(key: str) -> str:
    return key if _PLAIN.fullmatch(key) else f"'{key}'"
