"""What one store publishes, another imports: signatures and digests are checked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.gallery import Gallery
from pipeline.gallery.export_import import import_version
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.receive import is_published, received
from pipeline.publish.targets import Target
from pipeline.publish.uploader import folder_of

MIB = 1 << 20


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other").ensure()


def take(store: Store, target: Target, reference: str | None = None):
    with received(target, reference, {}, store.tmp) as parcel:
        return import_version(Gallery(store.gallery), parcel)


def test_from_a_container(store, capture, target, other) -> None:
    first, second = (capture({0: random.randbytes(MIB), 9 * MIB: bytes([n])}) for n in (1, 2))
    for version in (first, second):
        push(store, version, target, {}, options=Options())
    made = take(other, target)
    assert made.version == second.version
    assert made.disk.read_bytes() == second.disk.read_bytes()
    assert made.manifest == second.manifest
    assert made.disk.stat().st_blocks * 512 < 4 * MIB
    assert take(other, target, f"shop@{first.version}").disk.read_bytes() == first.disk.read_bytes()
    assert list(other.tmp.iterdir()) == []
    with pytest.raises(GoldsmithError) as caught:
        take(other, target, "shop@2020.101.0")
    assert caught.value.name == "publish-unknown"


def test_from_a_folder(store, capture, tmp_path, other) -> None:
    target = Target(folder=tmp_path / "shelf")
    version = capture({0: random.randbytes(MIB)})
    push(store, version, target, {}, options=Options())
    assert is_published(tmp_path / "shelf")
    assert not is_published(tmp_path / "shelf" / folder_of(version))
    assert take(other, target).disk.read_bytes() == version.disk.read_bytes()


def test_what_was_changed_on_the_server_is_not_imported(store, capture, target, other, service, container) -> None:
    version = capture({0: random.randbytes(MIB)})
    push(store, version, target, {}, options=Options())
    blob = service.get_blob_client(container, f"{folder_of(version)}/disk.vhd")
    blob.upload_page(b"\7" * 512, offset=0, length=512)
    with pytest.raises(GoldsmithError) as caught:
        take(other, target)
    assert caught.value.name == "publish-damaged"
    assert Gallery(other.gallery).versions("shop") == []
    # bytes where the digests say zeros are not even read
    blob.upload_page(version.disk.read_bytes()[:512], offset=0, length=512)
    blob.upload_page(b"\7" * 512, offset=12 * MIB, length=512)
    assert take(other, target).disk.read_bytes() == version.disk.read_bytes()


def test_an_index_cannot_lead_out_of_its_folder(store, capture, target, other, service, container) -> None:
    push(store, capture({0: b"x"}), target, {}, options=Options())
    index = service.get_blob_client(container, "shop/index.json")
    data = json.loads(index.download_blob().readall())
    for name in ("../../escaped", "/etc/escaped", "a/../../escaped", "./x"):
        data["versions"][0]["files"][0]["file"] = name
        index.upload_blob(json.dumps(data), overwrite=True)
        with pytest.raises(GoldsmithError) as caught:
            take(other, target)
        assert caught.value.name == "publish-damaged"
