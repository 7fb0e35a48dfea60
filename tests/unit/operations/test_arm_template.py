"""The templates of a version: valid, in Azure's own models, and deployed here; what is not known has a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.base.store import Store
from pipeline.evidence.arm_template import as_text, managed_template, unmanaged_template
from pipeline.gallery import Version
from pipeline.instances.fleet import Fleet
from pipeline.instances.sizes import smallest_size
from pipeline.operations.arm_deployment import Deployment, read_deployment, resource_id
from pipeline.operations.arm_expressions import concat, evaluate
from pipeline.operations.deploy_template import plan_machines
from tests.fakes.disks import add_master

MIB = 1 << 20
MANIFEST: Mapping[str, Any] = {
    "name": "web",
    "version": "2026.1126.0",
    "summary": "a page",
    "created": "2026-11-26T08:00:00Z",
    "run": "R1",
    "state": "proven",
    "suite": "trixie",
    "agent": "waagent",
    "first_boot": None,
    "os": "linux",
    "generations": [1, 2],
    "machine": {"cpus": 2, "memory": 2 << 30},
    "prove": {},
    "disk": {"virtual_size": 3 << 30, "sha256": "a" * 64, "tree_sha256": "b" * 64},
    "data_disks": [{"lun": 1, "caching": "ReadWrite", "virtual_size": 64 * MIB}],
}
KEY = "ssh-ed25519 AAAA me"
VALUES = {"vmName": "web-2", "adminPublicKey": KEY, "subnetId": "/subnets/a", "galleryName": "shelf"}
VHD_VALUES = {"vmName": "web-3", "adminPublicKey": KEY, "subnetId": "/subnets/a", "vhdContainerUri": "https://a/vhds"}


def written(folder: Path, template: Mapping[str, Any], values: Mapping[str, Any]) -> Deployment:
    path, parameters = folder / "template.json", folder / "parameters.json"
    path.write_text(as_text(template))
    parameters.write_text(json.dumps({"parameters": {name: {"value": value} for name, value in values.items()}}))
    return read_deployment(path, parameters)


@pytest.mark.parametrize(("make", "name"), [(managed_template, "managed"), (unmanaged_template, "unmanaged")])
def test_the_templates_are_those_of_the_golden_files(make: Any, name: str, golden: Any) -> None:
    golden(f"templates/{name}.json", as_text(make(MANIFEST)))
    windows = {**MANIFEST, "os": "windows", "data_disks": [], "generations": [2]}
    golden(f"templates/{name}-windows.json", as_text(make(windows)))


@pytest.mark.parametrize(
    ("make", "values"), [(managed_template, VALUES), (unmanaged_template, VHD_VALUES)], ids=["managed", "unmanaged"]
)
def test_the_resources_are_read_into_the_models_of_azure_and_back(make: Any, values: Any, tmp_path: Path) -> None:
    from azure.mgmt.compute import models

    machine = written(tmp_path, make(MANIFEST), values).resources()[1]
    body = {key: machine.body[key] for key in ("location", "properties")}
    model = models.VirtualMachine(body)
    assert unknown_keys(model, body) == []
    assert model.as_dict() == body
    storage = model.properties.storage_profile
    assert storage is not None and storage.os_disk is not None and storage.data_disks is not None
    assert (storage.os_disk.os_type, storage.os_disk.create_option) == ("Linux", "FromImage")
    assert [(disk.lun, disk.caching) for disk in storage.data_disks] == [(1, "ReadWrite")]
    # a key that Azure does not have is found
    wrong = {**body, "properties": {"storageProfil": {}}}
    assert unknown_keys(models.VirtualMachine(wrong), wrong) == [".properties.storageProfil"]


def unknown_keys(model: Any, data: Any, at: str = "") -> list[str]:
    """Keys of `data` that a model of the SDK does not have."""
    from azure.mgmt.compute._utils.model_base import Model

    if isinstance(data, list):
        return [each for number, item in enumerate(data) for each in unknown_keys(model[number], item, at)]
    if not isinstance(data, dict) or not isinstance(model, Model):
        return []
    fields = {each._rest_name: name for name, each in type(model)._attr_to_rest_field.items()}
    found = [f"{at}.{key}" for key in data if key not in fields]
    for key, value in data.items():
        if key in fields:
            found += unknown_keys(getattr(model, fields[key]), value, f"{at}.{key}")
    return found


def test_every_parameter_is_declared_and_used() -> None:
    for template in (managed_template(MANIFEST), unmanaged_template(MANIFEST)):
        text = json.dumps(template["resources"]) + json.dumps(template["variables"])
        assert {name for name in template["parameters"] if f"parameters('{name}')" in text} == {
            *template["parameters"]
        }


def test_a_machine_of_the_image_fits_into_its_size() -> None:
    assert smallest_size(1, 1 << 30).name == "Standard_B1s"
    assert smallest_size(2, 2 << 30).name in ("Standard_B2s", "Standard_F2s_v2", "Standard_A2_v2")
    assert smallest_size(1000, 1).memory >= smallest_size(1, 1).memory


# ---- deployed here -----------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(Store(tmp_path / "store").ensure())


@pytest.fixture
def version(fleet: Fleet) -> Version:
    raw = fleet.store.tmp / "web.raw"
    raw.write_bytes(bytes(4 * MIB))
    return add_master(fleet.gallery, "web", raw, **{key: MANIFEST[key] for key in ("summary", "generations")})


def of(version: Version) -> dict[str, Any]:
    return {**MANIFEST, "version": version.version, "data_disks": []}


def test_a_template_makes_the_wishes_of_its_machine(fleet: Fleet, version: Version, tmp_path: Path) -> None:
    deployment = written(tmp_path, managed_template(of(version)), VALUES)
    (machine,) = plan_machines(fleet.gallery, deployment)
    wishes = machine.wishes
    assert (wishes.name, wishes.user, wishes.public_key) == ("web-2", "azureuser", KEY)
    assert (wishes.image, wishes.generation) == (f"web@{version.version}", 2)
    assert wishes.size is not None and wishes.size.cpus >= 2
    assert deployment.outputs() == {}
    deployment.runtime[machine.cards[0]] = {"ipConfigurations": [{"properties": {"privateIPAddress": "10.83.0.9"}}]}
    assert deployment.outputs() == {"privateIPAddress": "10.83.0.9"}
    assert machine.cards[0].endswith("/networkInterfaces/web-2-nic")


@pytest.mark.parametrize("size", [32, "32"])
def test_a_template_can_have_a_larger_os_disk(size: object, fleet: Fleet, version: Version, tmp_path: Path) -> None:
    document = _changed(managed_template(of(version)), f"{_MACHINE}.storageProfile.osDisk.diskSizeGB", size)
    (machine,) = plan_machines(fleet.gallery, written(tmp_path, document, VALUES))
    assert machine.wishes.os_disk_size == 32 << 30


def test_the_retired_form_is_deployed_too(fleet: Fleet, version: Version, tmp_path: Path) -> None:
    (machine,) = plan_machines(fleet.gallery, written(tmp_path, unmanaged_template(of(version)), VHD_VALUES))
    assert (machine.wishes.name, machine.wishes.image) == ("web-3", f"web@{version.version}")
    storage = machine.resource.properties["storageProfile"]
    assert storage["osDisk"]["vhd"]["uri"] == "https://a/vhds/web-3-osDisk.vhd"


def _changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    made = deepcopy(document)
    *places, last = path.split(".")
    place: Any = made
    for each in places:
        place = place[int(each)] if isinstance(place, list) else place[each]
    place[int(last) if isinstance(place, list) else last] = value
    return made


_MACHINE = "resources.1.properties"


@pytest.mark.parametrize(
    ("path", "value", "name", "words"),
    [
        ("resources.0.type", "Microsoft.Web/sites", "template-resource", "Microsoft.Web/sites"),
        ("resources.1.type", "Microsoft.Network/networkInterfaces", "template-resource", "no VM"),
        ("resources.1.copy", {"count": 2}, "template-resource", "`copy`"),
        ("resources.1.name", "[uniqueString('a')]", "template-function", "uniqueString"),
        ("resources.1.name", "[concat('a']", "template-expression", "concat('a'"),
        ("resources.1.name", "[parameters('nix')]", "template-unknown-name", "nix"),
        ("resources.1.name", "[reference('nix').name]", "template-reference", "nix"),
        ("resources.1.name", 7, "template-value", "no name"),
        ("variables.cardName", "[variables('cardName')]", "template-value", "stands on itself"),
        (f"{_MACHINE}.storageProfile.imageReference", {"id": "/x"}, "template-image", "/x"),
        (f"{_MACHINE}.storageProfile.imageReference", {}, "template-image", "names no image"),
        (
            f"{_MACHINE}.storageProfile.dataDisks",
            [{"lun": 3, "createOption": "Empty"}],
            "template-disk",
            "LUN 3 with createOption Empty",
        ),
        (f"{_MACHINE}.storageProfile.osDisk.diskSizeGB", True, "template-value", "True is not a size"),
        (f"{_MACHINE}.storageProfile.osDisk.diskSizeGB", "9x", "template-value", "'9x' is not a size"),
        (f"{_MACHINE}.storageProfile.osDisk.diskSizeGB", 2041, "template-value", "2041 is not a size"),
        (f"{_MACHINE}.osProfile.computerName", "other", "template-value", "another name"),
        (f"{_MACHINE}.osProfile.customData", "!", "template-value", "base64"),
        (f"{_MACHINE}.hardwareProfile.vmSize", "Huge", "size-unknown", "Huge"),
        ("parameters.imageVersion.defaultValue", "1.0.0", "gallery-unknown", "1.0.0"),
        ("surplus", 1, "template-invalid", "surplus"),
        ("resources", {}, "template-value", "resources"),
        ("parameters.vmName.type", "text", "template-parameter", "text"),
        ("parameters.vmName.allowedValues", ["a", "b"], "template-parameter", "one of a, b"),
        ("parameters.vmName.maxLength", 2, "template-parameter", "outside"),
    ],
)
def test_what_a_template_cannot_be_has_a_name(
    path: str, value: Any, name: str, words: str, fleet: Fleet, version: Version, tmp_path: Path
) -> None:
    document = _changed(managed_template(of(version)), path, value)
    with pytest.raises(GoldsmithError) as error:
        plan_machines(fleet.gallery, written(tmp_path, document, VALUES))
    assert (error.value.name, words in error.value.message) == (name, True), error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({key: value for key, value in VALUES.items() if key != "vmName"}, "vmName: it has no value"),
        ({**VALUES, "vmName": 7}, "not of the type string"),
        ({**VALUES, "nix": 7}, "none of this name"),
    ],
)
def test_a_wrong_parameter_is_named(values: Mapping[str, Any], words: str, version: Version, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        written(tmp_path, managed_template(of(version)), values)
    assert error.value.name == "template-parameter" and words in error.value.message


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000], ids=["empty", "list", "cut", "deep"])
def test_a_file_that_is_no_template_has_a_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError) as error:
        read_deployment(tmp_path / "t.json", None)
    assert error.value.name == "template-unreadable"
    with pytest.raises(UsageError) as error:
        read_deployment(tmp_path / "none.json", None)
    assert error.value.name == "template-unreadable"


# ---- expressions -------------------------------------------------------------------------------------------------

FUNCTIONS = {"concat": concat, "resourceId": resource_id, "row": lambda _words: {"a": [{"b": "c"}]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("[[plain]", "[plain]"),
        ("[concat('a', 'it''s', 7)]", "ait's7"),
        ("[ CONCAT ( concat('a') , 'b' ) ]", "ab"),
        ("[row().a[0].b]", "c"),
        ("[concat('[', ']')]", "[]"),
    ],
)
def test_expressions(text: str, value: str) -> None:
    assert evaluate({"x": [text]}, FUNCTIONS) == {"x": [value]}


@pytest.mark.parametrize(
    "text", ["[concat]", "[concat('a' 'b')]", "[concat('a',)]", "[row().b]", "[row().a[1]]", "[@]", "[]", "['a' 'b']"]
)
def test_wrong_expressions_have_a_name(text: str) -> None:
    with pytest.raises(UsageError) as error:
        evaluate(text, FUNCTIONS)
    assert error.value.name == "template-expression"
    with pytest.raises(UsageError, match="nested calls"):
        evaluate(f"[{'concat(' * 100}'a'{')' * 100}]", FUNCTIONS)


def test_ids_of_resources() -> None:
    group = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/goldsmith/providers"
    assert resource_id(["A/b", "c"]) == f"{group}/A/b/c"
    assert resource_id(["A/b/d", "c", "e"]) == f"{group}/A/b/c/d/e"
    assert resource_id(["s", "g", "A/b", "c"]) == "/subscriptions/s/resourceGroups/g/providers/A/b/c"
    for words in (["A"], ["A/b"], ["A/b", "c", "d"]):
        with pytest.raises(UsageError) as error:
            resource_id(words)
        assert error.value.name == "template-value"
