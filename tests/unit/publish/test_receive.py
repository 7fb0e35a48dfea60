"""What one store publishes, another imports: signatures and digests are checked."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.evidence import signing
from pipeline.gallery import Gallery
from pipeline.gallery.export_import import import_version
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.receive import is_published, received
from pipeline.publish.targets import Target
from pipeline.publish.uploader import folder_of
from tests.campaigns.kills import capture_signed

ROOT = Path(__file__).parents[3]
MIB = 1 << 20


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other").ensure()


def take(store: Store, target: Target, reference: str | None = None):
    with received(target, reference, {}, store.tmp) as exported:
        return import_version(Gallery(store.gallery), exported)


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


@pytest.fixture
def run(tmp_path: Path, container: str, azurite: str, key_file: Path):
    """The command line in a store of its own, with a signing key of its own; `target` is the container."""

    def run(host: str, *words: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / host
        folder.mkdir(exist_ok=True)
        variables = {"GOLDSMITH_HOME": str(folder / "store"), "GOLDSMITH_KEY": str(folder / "signing.key")}
        argv = [sys.executable, "-m", "pipeline", *words]
        return subprocess.run(
            argv, capture_output=True, text=True, env={**os.environ, **variables}, cwd=ROOT, check=False, timeout=300
        )

    return run


@pytest.mark.slow
def test_a_signature_is_checked_by_the_importing_host(run, tmp_path, azurite, container, service, key_file) -> None:
    """Published by a host, imported by another one that trusts its key, and by one that does not."""
    url, credential = f"{azurite}/{container}", ("--key-from", f"file:{key_file}")
    (tmp_path / "maker").mkdir()
    key = signing.make(tmp_path / "maker" / "signing.key")
    version = capture_signed(Gallery(Store(tmp_path / "maker" / "store").ensure().gallery), tmp_path, key)
    pushed = run("maker", "publish", "push", f"web@{version.version}", url, *credential)
    assert pushed.returncode == 0, pushed.stderr
    trusted = ("--key", str(signing.public_path(key.path)))
    taken = run("reader", "gallery", "import", url, "web", *credential, *trusted)
    assert taken.returncode == 0, taken.stderr
    made = Gallery(tmp_path / "reader" / "store" / "gallery").get(f"web@{version.version}")
    assert made.disk.read_bytes() == version.disk.read_bytes()
    assert made.manifest == version.manifest
    assert run("reader", "gallery", "verify", "web", *trusted).returncode == 0
    stranger = signing.make(tmp_path / "stranger.key")
    refused = run(
        "other", "gallery", "import", url, "web", *credential, "--key", str(signing.public_path(stranger.path))
    )
    assert refused.returncode != 0
    assert "sign" in refused.stderr
    # without a key the import demands one; a published signature that was changed is refused
    assert run("other", "gallery", "import", url, "web", *credential).returncode != 0
    change_signature(service, container)
    changed = run("other", "gallery", "import", url, "web", *credential, *trusted)
    assert changed.returncode != 0
    assert Gallery(tmp_path / "other" / "store" / "gallery").versions("web") == []


def change_signature(service, container: str) -> None:
    """Change a letter of the published signature, and make the index agree: only the key can tell."""
    index = service.get_blob_client(container, "web/index.json")
    data = json.loads(index.download_blob().readall())
    entry = data["versions"][0]
    (record,) = (each for each in entry["files"] if each["file"] == "provenance.dsse.json")
    blob = service.get_blob_client(container, f"{entry['folder']}/{record['stored']}")
    raw = blob.download_blob().readall()
    packed = record["stored"] != record["file"]
    statement = json.loads(gzip.decompress(raw) if packed else raw)
    signature = statement["signatures"][0]["sig"]
    statement["signatures"][0]["sig"] = ("A" if signature[0] != "A" else "B") + signature[1:]
    text = json.dumps(statement).encode()
    record.update(size=len(text), sha256=hashlib.sha256(text).hexdigest())
    blob.upload_blob(gzip.compress(text) if packed else text, overwrite=True)
    index.upload_blob(json.dumps(data), overwrite=True)
