"""Managed disks by direct upload, against a fake Resource Manager (tests/fakes/resource_manager.py). Not Azure."""

from __future__ import annotations

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.publish.page_blob import Options
from pipeline.publish.published import clean, look, verify
from pipeline.publish.push import push
from pipeline.publish.receive import received
from pipeline.publish.retention import retire
from pipeline.publish.targets import ManagedDisks, Target
from pipeline.publish.uploader import folder_of
from tests.fakes.resource_manager import STORAGE

MIB = 1 << 20
PIECES = {0: b"\1" * MIB, 9 * MIB: b"\2" * 512}


@pytest.fixture
def disks(place) -> Target:
    return Target(disks=ManagedDisks(place))


def bytes_of_disk(service, name: str) -> bytes:
    return service.get_blob_client(STORAGE, name).download_blob().readall()


def test_a_version_becomes_a_disk(store, capture, disks, azure, service, quick) -> None:
    version = capture(PIECES)
    pushed = push(store, version, disks, azure.variables, options=Options(), retries=quick)
    name = folder_of(version).replace("/", "-")
    disk = azure.resources[f"disks/{name}"]
    assert bytes_of_disk(service, name) == version.disk.read_bytes()
    assert disk["properties"]["diskState"] == "Unattached"
    assert disk["properties"]["creationData"] == {
        "createOption": "Upload",
        "uploadSizeBytes": version.disk.stat().st_size,
    }
    assert (disk["properties"]["osType"], disk["properties"]["hyperVGeneration"]) == ("Linux", "V1")
    assert disk["sku"] == {"name": "Standard_LRS"}
    assert (disk["tags"]["goldsmith_state"], disk["tags"]["goldsmith_version"]) == ("published", version.version)
    # empty pages are not sent, and what was written is read back
    assert pushed.sent < 2 * MIB
    assert pushed.disks[0].read_back >= MIB
    again = push(store, version, disks, azure.variables, options=Options(), retries=quick)
    assert again.plan.published
    assert again.sent == 0


def test_what_a_killed_push_left_is_replaced(store, capture, disks, azure, service, quick) -> None:
    version = capture(PIECES)
    # the upload's end is refused, and what follows an error too
    azure.faults = [("POST", "/endgetaccess", 403)] * 8
    with pytest.raises(GoldsmithError) as caught:
        push(store, version, disks, azure.variables, options=Options(), retries=quick)
    assert caught.value.name == "publish-refused"
    name = folder_of(version).replace("/", "-")
    assert azure.resources[f"disks/{name}"]["tags"]["goldsmith_state"] == "uploading"
    azure.faults = []
    push(store, version, disks, azure.variables, options=Options(), retries=quick)
    assert azure.resources[f"disks/{name}"]["tags"]["goldsmith_state"] == "published"
    assert bytes_of_disk(service, name) == version.disk.read_bytes()


def test_throttled_requests_are_repeated(store, capture, disks, azure, quick) -> None:
    azure.faults = [("PUT", "/disks/", 429), ("GET", "/disks/", 503)]
    azure.faults += [("POST", "/begingetaccess", 500), ("PATCH", "/disks/", 429)]
    pushed = push(store, capture(PIECES), disks, azure.variables, options=Options(), retries=quick)
    assert pushed.repeated == 4
    assert not pushed.plan.published


def test_a_disk_of_this_name_that_is_not_ours_stays(store, capture, disks, azure, place, quick) -> None:
    version = capture(PIECES)
    name = folder_of(version).replace("/", "-")
    body = {"location": "westeurope", "properties": {"creationData": {"createOption": "Upload"}}}
    body["properties"]["creationData"]["uploadSizeBytes"] = version.disk.stat().st_size
    azure.put(f"disks/{name}", body)
    with pytest.raises(GoldsmithError) as caught:
        push(store, version, disks, azure.variables, options=Options(), retries=quick)
    assert caught.value.name == "publish-busy"
    assert f"disks/{name}" in azure.resources


def test_a_disk_that_reads_back_otherwise_is_not_published(
    store, capture, disks, azure, service, quick, monkeypatch
) -> None:
    """Bytes change on the server between the upload and the reading."""
    from pipeline.publish.resource_manager import ResourceManager

    version = capture(PIECES)
    name = folder_of(version).replace("/", "-")
    close = ResourceManager.close_disk

    def spoil(manager, disk: str) -> None:
        close(manager, disk)
        service.get_blob_client(STORAGE, name).upload_page(b"\7" * 512, offset=0, length=512)

    monkeypatch.setattr(ResourceManager, "close_disk", spoil)
    with pytest.raises(GoldsmithError) as caught:
        push(store, version, disks, azure.variables, options=Options(), retries=quick)
    assert caught.value.name == "publish-read-back"
    assert azure.resources[f"disks/{name}"]["tags"]["goldsmith_state"] == "uploading"


def test_no_signature_in_what_is_shown(store, capture, disks, azure, quick) -> None:
    """The signed URL of a disk is in no message and no record."""
    azure.faults = [("POST", "/endgetaccess", 500)] * 8
    with pytest.raises(GoldsmithError) as caught:
        push(store, capture(PIECES), disks, azure.variables, options=Options(), retries=quick)
    assert "sig=" not in f"{caught.value.message} {caught.value.hint}"
    kept = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert b"sig=" not in kept


@pytest.mark.slow
def test_show_clean_and_retention(store, capture, disks, azure, quick) -> None:
    versions = [capture({0: bytes([n]) * 512}) for n in range(1, 4)]
    for each in versions:
        push(store, each, disks, azure.variables, options=Options(), retries=quick)
    found = look("shop", disks, azure.variables)
    assert [each["version"] for each in found["versions"]] == [each.version for each in versions]
    assert found["versions"][0]["disks"][0]["size"] == versions[0].disk.stat().st_size
    assert found["versions"][0]["disks"][0]["state"] == "Unattached"
    gone = retire("shop", disks, azure.variables, versions=2, days=None)
    assert gone == [versions[0].version]
    names = {number: f"disks/{folder_of(each).replace('/', '-')}" for number, each in enumerate(versions)}
    assert set(azure.resources) == {names[1], names[2]}
    # an upload that never ended: kept for a day, as its publisher may still live
    azure.resources[names[1]]["tags"]["goldsmith_state"] = "uploading"
    assert clean(None, disks, azure.variables)[0].kept
    azure.resources[names[1]]["properties"]["timeCreated"] = "2026-01-01T00:00:00+00:00"
    assert not clean("shop", disks, azure.variables, dry_run=True)[0].kept
    assert set(azure.resources) == {names[1], names[2]}
    clean("shop", disks, azure.variables)
    assert set(azure.resources) == {names[2]}
    for refused in (
        lambda: verify("shop", None, disks, {}, store.tmp),
        lambda: received(disks, None, {}, store.tmp).__enter__(),
    ):
        with pytest.raises(GoldsmithError) as caught:
            refused()
        assert caught.value.name == "target-kind"
