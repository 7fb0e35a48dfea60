"""Azure's own command line, unmodified, against the facade; skipped where it is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.facade import Client
from tests.unit.publish.test_az import INSTALLED

AZ = str(INSTALLED) if INSTALLED.exists() else shutil.which("az")
Az = Callable[..., Any]


@pytest.fixture
def az(client: Client, tmp_path: Path) -> Az:
    """Runs az, signed in; its JSON, or the words of its error."""
    home, base = client.facade.home, f"https://localhost:{client.facade.port}"
    environment = {
        **os.environ,
        "AZURE_CONFIG_DIR": str(tmp_path / "az"),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "REQUESTS_CA_BUNDLE": str(home.certificate),
    }

    def run(*words: str, fails: bool = False) -> Any:
        argv = [str(AZ), *words, "--output", "json"]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    run("cloud", "register", "--name", "goldsmith", "--endpoint-resource-manager", base)
    run("cloud", "set", "--name", "goldsmith")
    ids = home.client()
    who = ("--tenant", ids.tenant, "--username", ids.client, "--password", f"@{home.secret_file}")
    run("login", "--service-principal", *who)
    return run


@pytest.mark.slow
@pytest.mark.skipif(AZ is None, reason="az not installed (tools/setup.sh az installs it)")
def test_az_walks(az: Az, client: Client) -> None:
    assert (
        az("group", "create", "--name", "shop", "--location", "local")["properties"]["provisioningState"]
        == "Succeeded"
    )
    listed = {each["name"]: each["powerState"] for each in az("vm", "list", "--show-details")}
    assert listed == {"done": "VM stopped", "idle": "VM deallocated", "off": "VM stopped"}
    machine = ("--resource-group", "goldsmith", "--name", "off")
    az("vm", "deallocate", *machine)
    statuses = az("vm", "get-instance-view", *machine)["instanceView"]["statuses"]
    assert [each["code"] for each in statuses] == ["ProvisioningState/succeeded", "PowerState/deallocated"]
    disk = ("--resource-group", "shop", "--name", "data1")
    assert az("disk", "create", *disk, "--size-gb", "1")["diskSizeGB"] == 1
    assert "(vm-incomplete)" in az(
        "vm", "disk", "attach", "--resource-group", "goldsmith", "--vm-name", "off", "--disks",
        az("disk", "show", *disk)["id"], fails=True,
    )  # fmt: skip
    az("disk", "delete", *disk, "--yes")
    assert "(vm-not-generalized)" in az("vm", "capture", *machine, "--vhd-name-prefix", "web", fails=True)
    assert "NotImplemented" in az("snapshot", "list", fails=True)
    az("vm", "delete", *machine, "--yes")
    assert client.facade.manager.tasks.wait_idle(60)
    assert [each["name"] for each in az("vm", "list")] == ["done", "idle"]
