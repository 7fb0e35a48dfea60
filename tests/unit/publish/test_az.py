"""What Azure's own command line sees on a target; skipped where it is not installed (`tools/setup.sh az`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.uploader import folder_of
from tests.fakes.azurite import ACCOUNT, KEY

INSTALLED = Path(__file__).parents[3] / ".venv" / "az" / "bin" / "az"
AZ = str(INSTALLED) if INSTALLED.exists() else shutil.which("az")


Az = Callable[..., str]


@pytest.fixture
def az(azurite: str, container: str, tmp_path: Path) -> Az:
    """Runs `az storage blob` on the container; what it prints."""
    account = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azurite};"
    environment = {
        **os.environ,
        "AZURE_CONFIG_DIR": str(tmp_path / "az"),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
        "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{account}",
    }

    def run(*words: str) -> str:
        argv = [str(AZ), "storage", "blob", *words, "--container-name", container, "--output", "json"]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.skipif(AZ is None, reason="az not installed (tools/setup.sh az installs it)")
def test_az_lists_and_downloads_what_is_published(store, capture, target, az, tmp_path) -> None:
    version = capture({0: b"\1" * 512, 9 << 20: b"\2" * 512})
    push(store, version, target, {}, options=Options())
    listed = {each["name"]: each for each in json.loads(az("list", "--include", "m"))}
    disk = listed[f"{folder_of(version)}/disk.vhd"]
    assert disk["properties"]["blobType"] == "PageBlob"
    assert disk["properties"]["contentLength"] == version.disk.stat().st_size
    assert disk["metadata"]["microsoftazurecompute_osstate"] == "Generalized"
    assert disk["metadata"]["goldsmith_version"] == version.version
    assert "shop/index.json" in listed
    copy = tmp_path / "copy.vhd"
    az("download", "--name", f"{folder_of(version)}/disk.vhd", "--file", str(copy), "--no-progress")
    assert copy.read_bytes() == version.disk.read_bytes()


@pytest.mark.skipif(AZ is None, reason="az not installed (tools/setup.sh az installs it)")
def test_az_lists_lease_and_copy_of_what_is_published(store, capture, target, service, container, az) -> None:
    """The second version is a copy of the first one on the server, of which only what differs was sent."""
    pieces = {at << 21: bytes([at + 1]) * (1 << 20) for at in range(8)}
    first = capture(pieces)
    push(store, first, target, {}, options=Options())
    second = capture({**pieces, 0: b"\xff" * 512})
    push(store, second, target, {}, options=Options())
    disks = [f"{folder_of(each)}/disk.vhd" for each in (first, second)]
    lease = service.get_blob_client(container, disks[0]).acquire_lease()
    listed = {each["name"]: each for each in json.loads(az("list", "--include", "mc"))}
    lease.release()
    old, new = (listed[name]["properties"] for name in disks)
    assert (old["lease"]["state"], old["lease"]["status"]) == ("leased", "locked")
    assert (new["lease"]["state"], new["lease"]["status"]) == ("available", "unlocked")
    assert new["copy"]["status"] == "success" and disks[0] in new["copy"]["source"]
    assert old["copy"]["status"] is None
    assert [listed[name]["metadata"]["goldsmith_version"] for name in disks] == [first.version, second.version]
