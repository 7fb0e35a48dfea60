"""What the night publishes, what it removes from a target, and how a failure ends."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.definition.load import load
from pipeline.nightly import refresh
from pipeline.nightly.publication import make_publisher
from pipeline.publish.index import Index
from pipeline.publish.page_blob import Options
from pipeline.publish.published import look
from pipeline.publish.push import push
from pipeline.publish.retention import prunable_versions, retire
from pipeline.publish.targets import Target
from pipeline.publish.uploader import folder_of

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def accept(_folder, _manifest) -> str:
    return ""


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "project" / "images" / "shop.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("goldsmith: 1\nsource: {debian: {suite: bookworm}}\npublish: [shelf]\nkeep: {versions: 2}\n")
    return load(path, tmp_path / "project")


def numbers(target: Target) -> list[str]:
    return [each["version"] for each in look("shop", target, {})["versions"]]


def test_golden_goes_to_each_target(store, capture, definition, tmp_path) -> None:
    target = Target(folder=tmp_path / "shelf")
    publish = make_publisher(store, {"shelf": target}, {}, accept)
    publish(definition)  # nothing is golden yet
    made = []
    for n in range(4):
        made.append(capture({0: bytes([n])}).version)
        publish(definition)
        publish(definition)
    assert numbers(target) == made[-2:]
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "shelf/shop").glob("2*")) == made[-2:]


def test_retention_on_a_container(store, capture, target, service, container) -> None:
    versions = [capture({0: bytes([n]) * 512}) for n in range(1, 4)]
    for each in versions:
        push(store, each, target, {}, options=Options())
    blob = service.get_blob_client(container, f"{folder_of(versions[0])}/disk.vhd")
    lease = blob.acquire_lease(lease_duration=-1)
    assert retire("shop", target, {}, versions=1, days=None) == [versions[1].version]
    assert numbers(target) == [versions[0].version, versions[2].version]
    left = {each.name.split("/")[1] for each in service.get_container_client(container).list_blobs()}
    assert folder_of(versions[1]).split("/")[1] not in left
    lease.break_lease(0)
    assert retire("shop", target, {}, versions=1, days=None) == [versions[0].version]
    assert numbers(target) == [versions[2].version]


@pytest.mark.parametrize(
    ("versions", "days", "going"),
    [(None, None, []), (2, None, [1, 0]), (1, None, [2, 1, 0]), (None, 2, [1, 0]), (None, 0, [2, 1, 0])],
)
def test_prunable_versions(versions: int | None, days: int | None, going: list[int]) -> None:
    published = [(NOW - timedelta(days=3 - n, hours=1)).isoformat() for n in range(4)]
    index = Index("shop", None, tuple({"version": f"2026.1.{n}", "published": published[n]} for n in range(4)))
    found = prunable_versions(index, versions, days, NOW)
    assert [int(each["version"].split(".")[2]) for each in found] == going


def test_a_failure_is_the_result_of_a_refreshed_image(store, capture, definition, tmp_path, monkeypatch) -> None:
    version = capture({0: random.randbytes(100)})
    (tmp_path / "shelf").write_text("a file")
    publish = make_publisher(store, {"shelf": Target(folder=tmp_path / "shelf")}, {}, accept)
    done = refresh.ImageResult("shop", refresh.PROMOTED, version.version, None, 1.0)
    monkeypatch.setattr(refresh, "_refreshed", lambda *_: done)
    seen: list[GoldsmithError] = []
    result = refresh.refresh_image(definition, store, command="", on_failure=seen.append, publish=publish)
    assert not result.failed
    assert result.exit_code == 5
    assert result.unpublished.startswith(seen[0].name)
    assert replace(result, unpublished="", exit_code=0) == done
