"""Versions in a gallery, against a fake Resource Manager (tests/fakes/resource_manager.py). Not Azure."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.gallery import Gallery
from pipeline.publish.page_blob import Options
from pipeline.publish.published import clean, look
from pipeline.publish.push import push
from pipeline.publish.retention import retire
from pipeline.publish.targets import ImageGallery, Target
from tests.fakes.resource_manager import SUBSCRIPTION

MIB = 1 << 20
PIECES = {0: b"\1" * MIB, 9 * MIB: b"\2" * 512}
ACCOUNT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/images/providers/Microsoft.Storage/storageAccounts/dev"
PASSED = ("initramfs-nvme", "nvme-names", "network-sriov", "boot-efi-signed")


def passed(*names: str) -> list[dict[str, str]]:
    return [{"id": name, "status": "pass"} for name in names]


@pytest.fixture
def gallery(place, target, azure) -> Target:
    azure.add_gallery("shelf")
    regions = ("westeurope", "northeurope")
    return Target(gallery=ImageGallery(place, "shelf", target, ACCOUNT, regions))


@pytest.fixture
def send(store, gallery, azure, quick):
    def send(version, to: Target = gallery, **options):
        return push(store, version, to, azure.variables, options=Options(), retries=quick, **options)

    return send


def names_of(service, container: str) -> list[str]:
    return [each.name for each in service.get_container_client(container).list_blobs()]


def version_of(azure, generation: int, number: str) -> dict:
    return azure.resources[f"galleries/shelf/images/shop-gen{generation}/versions/{number}"]


def test_two_definitions_and_a_version_of_each(capture, send, azure, service, container) -> None:
    version = capture(PIECES, generations=[1, 2], checks=passed(*PASSED))
    pushed = send(version, keep_days=30)
    assert pushed.sent < 3 * MIB
    first, second = (azure.resources[f"galleries/shelf/images/shop-gen{n}"]["properties"] for n in (1, 2))
    assert (first["hyperVGeneration"], second["hyperVGeneration"]) == ("V1", "V2")
    assert first["identifier"] == {"publisher": "goldsmith", "offer": "shop", "sku": "gen1"}
    assert {each["name"]: each["value"] for each in first["features"]} == {"IsAcceleratedNetworkSupported": "True"}
    assert {each["name"]: each["value"] for each in second["features"]} == {
        "DiskControllerTypes": "SCSI,NVMe",
        "IsAcceleratedNetworkSupported": "True",
        "SecurityType": "TrustedLaunchSupported",
    }
    for generation in (1, 2):
        found = version_of(azure, generation, version.version)["properties"]
        profile = found["publishingProfile"]
        assert [each["name"] for each in profile["targetRegions"]] == ["westeurope", "northeurope"]
        assert profile["excludeFromLatest"] is False
        end = datetime.fromisoformat(profile["endOfLifeDate"])
        assert timedelta(days=29) < end - datetime.now(UTC) <= timedelta(days=30)
    # every region had it before the staged blob went
    digest = hashlib.sha256(version.disk.read_bytes()).hexdigest()
    assert list(azure.replicated.values()) == [digest, digest]
    assert names_of(service, container) == ["shop/index.json"]
    again = send(version, keep_days=30)
    assert again.plan.published
    assert again.sent == 0


def test_a_feature_without_its_checks_is_not_promised(capture, send, azure) -> None:
    checks = [*passed("nvme-names", "network-sriov"), {"id": "initramfs-nvme", "status": "warn"}]
    send(capture(PIECES, generations=[2], checks=checks))
    properties = azure.resources["galleries/shelf/images/shop-gen2"]["properties"]
    assert [each["name"] for each in properties["features"]] == ["IsAcceleratedNetworkSupported"]
    assert "galleries/shelf/images/shop-gen1" not in azure.resources


def test_a_candidate_is_not_latest_until_it_is_golden(store, capture, send, azure, gallery) -> None:
    version = capture(PIECES, golden=False)
    send(version)
    assert version_of(azure, 1, version.version)["properties"]["publishingProfile"]["excludeFromLatest"] is True
    shown = look("shop", gallery, azure.variables)
    assert [disk["state"] for disk in shown["versions"][0]["disks"]] == ["candidate"]
    Gallery(store.gallery).promote(version)
    pushed = send(version)
    assert (pushed.disks, pushed.sent) == ([], 0)
    assert version_of(azure, 1, version.version)["properties"]["publishingProfile"]["excludeFromLatest"] is False


def test_the_staged_blob_may_stay_for_the_next_difference(capture, send, gallery, service, container) -> None:
    assert gallery.gallery is not None
    kept = replace(gallery, gallery=replace(gallery.gallery, keep_staging=True))
    first = capture(PIECES)
    send(first, kept)
    second = capture({**PIECES, 16 * MIB: b"\3" * 512})
    pushed = send(second, kept)
    assert pushed.disks[0].base == first.version
    assert pushed.disks[0].written == 65536
    # only the newest stays
    assert {name.split("/")[1].split("-")[0] for name in names_of(service, container)} == {
        "index.json",
        second.version,
    }


def test_a_failed_replication_keeps_the_staged_blob(capture, send, azure, service, container) -> None:
    version = capture(PIECES)
    azure.fail.add(f"galleries/shelf/images/shop-gen1/versions/{version.version}")
    with pytest.raises(GoldsmithError) as caught:
        send(version)
    assert caught.value.name == "publish-azure-failed"
    assert any(name.endswith("disk.vhd") for name in names_of(service, container))
    azure.fail.clear()
    pushed = send(version)
    assert pushed.disks == []  # nothing is sent again
    assert names_of(service, container) == ["shop/index.json"]


def test_what_is_refused(capture, send, azure, gallery) -> None:
    version = capture(PIECES)
    send(version)
    # a definition of the same name that promises something else
    azure.resources["galleries/shelf/images/shop-gen1"]["properties"]["osType"] = "Windows"
    with pytest.raises(GoldsmithError) as caught:
        send(capture({0: b"\4" * 512}))
    assert caught.value.name == "publish-definition"
    assert "osType" in caught.value.message
    version_of(azure, 1, version.version)["tags"]["goldsmith_tree"] = "0" * 64
    with pytest.raises(GoldsmithError) as caught:
        send(version)
    assert caught.value.name == "publish-version-exists"
    assert gallery.gallery is not None
    with pytest.raises(GoldsmithError) as caught:
        send(version, replace(gallery, gallery=replace(gallery.gallery, name="nowhere")))
    assert caught.value.name == "publish-missing"
    assert "az sig create" in caught.value.hint


@pytest.mark.slow
def test_retention_in_a_gallery(capture, send, azure, gallery) -> None:
    versions = [capture({0: bytes([n]) * 512}, generations=[1, 2]) for n in range(1, 3)]
    for each in versions:
        send(each)
    assert [each["version"] for each in look("shop", gallery, azure.variables)["versions"]] == [
        each.version for each in versions
    ]
    assert retire("shop", gallery, azure.variables, versions=1, days=None) == [versions[0].version]
    left = [name.rsplit("/", 1)[1] for name in azure.resources if "/versions/" in name]
    assert left == [versions[1].version] * 2
    with pytest.raises(GoldsmithError) as caught:
        clean(None, gallery, azure.variables)
    assert caught.value.name == "target-kind"
