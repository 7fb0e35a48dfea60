"""ARM templates are read into Azure's own models, Bicep files by a parser. Nothing is compiled or deployed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.publish.deployment_template import arm, bicep
from pipeline.publish.targets import ImageGallery, Place, Target
from pipeline.publish.uploader import folder_of

ACCOUNT = "/subscriptions/s/resourceGroups/images/providers/Microsoft.Storage/storageAccounts/account"


@pytest.fixture
def gallery() -> ImageGallery:
    staging = Target(url="https://account.blob.core.windows.net/images")
    place = Place("00000000-0000-0000-0000-00000000601d", "images", "westeurope")
    return ImageGallery(place, "shelf", staging, ACCOUNT, ("westeurope", "northeurope"))


@pytest.fixture
def version(capture):
    checks = [{"id": name, "status": "pass"} for name in ("initramfs-nvme", "nvme-names", "network-sriov")]
    return capture({0: b"x"}, generations=[1, 2], checks=checks, summary="it's ${a}\nshop")


def unknown(model: Any, data: Any, at: str = "") -> list[str]:
    """Keys of `data` that a model of the SDK does not have."""
    from azure.mgmt.compute._utils.model_base import Model

    if isinstance(data, list):
        return [each for number, item in enumerate(data) for each in unknown(model[number], item, at)]
    if not isinstance(data, dict) or not isinstance(model, Model):
        return []
    fields = {each._rest_name: name for name, each in type(model)._attr_to_rest_field.items()}
    found = [f"{at}.{key}" for key in data if key not in fields]
    for key, value in data.items():
        if key in fields:
            found += unknown(getattr(model, fields[key]), value, f"{at}.{key}")
    return found


def test_arm_is_read_into_the_models_of_azure(version, gallery) -> None:
    from azure.mgmt.compute import models

    document = json.loads(arm(version, gallery, keep_days=30))
    kinds = {
        "Microsoft.Compute/galleries/images": models.GalleryImage,
        "Microsoft.Compute/galleries/images/versions": models.GalleryImageVersion,
    }
    assert [each["type"].count("/") for each in document["resources"]] == [2, 3, 2, 3]
    for resource in document["resources"]:
        body = {key: resource[key] for key in ("location", "tags", "properties")}
        assert unknown(kinds[resource["type"]](body), body) == []
        # a key that Azure does not have is found
        assert unknown(kinds[resource["type"]](body), {**body, "properties": {"osTypo": 1}}) == [".properties.osTypo"]
    first, second = document["resources"][0], document["resources"][3]
    assert first["name"] == "[concat(parameters('galleryName'), '/shop-gen1')]"
    assert second["dependsOn"] == [
        "[resourceId('Microsoft.Compute/galleries/images', parameters('galleryName'), 'shop-gen2')]"
    ]
    source = second["properties"]["storageProfile"]["osDiskImage"]["source"]
    assert source == {"storageAccountId": "[parameters('storageAccountId')]", "uri": "[parameters('osDiskUri')]"}
    uri = document["parameters"]["osDiskUri"]["defaultValue"]
    assert uri == f"https://account.blob.core.windows.net/images/{folder_of(version)}/disk.vhd"


def test_every_parameter_is_declared_and_used(version, gallery) -> None:
    document = json.loads(arm(version, gallery))
    text = json.dumps(document["resources"])
    declared = set(document["parameters"])
    assert {name for name in declared if f"parameters('{name}')" in text} == declared
    assert text.count("parameters('") == sum(text.count(f"parameters('{name}')") for name in declared)


def test_bicep_is_parsed(version, gallery) -> None:
    from pycep import BicepParser

    text = bicep(version, gallery, keep_days=30)
    parsed = BicepParser().parse(text=text)
    assert set(parsed["parameters"]) == {"galleryName", "location", "storageAccountId", "osDiskUri"}
    resources = parsed["resources"]
    assert set(resources) == {"gallery", "gen1", "gen1Version", "gen2", "gen2Version"}
    assert resources["gen2"]["config"]["properties"]["hyperVGeneration"] == "V2"
    assert r"'it\'s \${a}\nshop'" in text
    with pytest.raises(Exception, match="Unexpected"):
        BicepParser().parse(text=text.replace("{", "", 1))
