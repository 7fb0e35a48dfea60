"""The command line against a fake Resource Manager: logs in by Azure's own variables, and shows no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.azurite import KEY
from tests.fakes.resource_manager import SUBSCRIPTION

ROOT = Path(__file__).parents[3]
ACCOUNT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/images/providers/Microsoft.Storage/storageAccounts/dev"


@pytest.fixture
def run(store, tmp_path, azure, azurite, container, key_file):
    azure.add_gallery("shelf")
    project = tmp_path / "project"
    (project / "images").mkdir(parents=True)
    place = f"subscription: {SUBSCRIPTION}, resource-group: images, location: westeurope, endpoint: '{azure.url}'"
    (project / "publish.yaml").write_text(f"""\
targets:
  lab: {{url: "{azurite}/{container}", credential: {{key: "file:{key_file}"}}}}
  disks:
    managed-disk: {{{place}}}
  shelf:
    gallery: {{{place}, name: shelf, staging: lab, storage-account: {ACCOUNT}}}
""")
    environment = {**os.environ, "GOLDSMITH_HOME": str(store.root), "GOLDSMITH_KEY": str(tmp_path / "no-key")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pipeline", "--project", str(project), "publish", *words]
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=300
        )
        for secret in (KEY, "canary-client-secret", "sig="):
            assert secret not in done.stdout + done.stderr
        return done

    return run


@pytest.mark.slow
def test_push_show_and_template(capture, run, azure) -> None:
    version = capture({0: b"\1" * 512}, generations=[1, 2])
    done = run("push", f"shop@{version.version}", "shelf", "--keep-days", "30")
    assert done.returncode == 0, done.stderr
    assert f"published shop {version.version}" in done.stdout
    shown = json.loads(run("show", "shop", "shelf", "--json").stdout)
    assert [disk["state"] for disk in shown["versions"][0]["disks"]] == ["latest", "latest"]
    assert version.version in run("show", "shop", "shelf").stdout
    assert len([name for name in azure.resources if name.endswith(f"versions/{version.version}")]) == 2
    assert run("push", f"shop@{version.version}", "disks").returncode == 0
    assert json.loads(run("template", f"shop@{version.version}", "shelf").stdout)["resources"]
    assert "resource gen2Version" in run("template", f"shop@{version.version}", "shelf", "--bicep").stdout
    assert run("template", f"shop@{version.version}", "lab").returncode == 2
    refused = run("push", f"shop@{version.version}", "shelf", "--key-from", "env:HOME")
    assert (refused.returncode, "takes no key" in refused.stderr) == (2, True)
