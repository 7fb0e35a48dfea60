"""Azure's own command line, unmodified, against the facade; skipped where it is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.facade.ids import MACHINES, resource_id
from tests.azure_clients import CommandLine, find_az
from tests.fakes.facade import Client

AZ = find_az()
Az = Callable[..., Any]


@pytest.fixture
def az(client: Client, tmp_path: Path) -> Az:
    """Runs az, signed in; its JSON, or the words of its error."""
    base = f"https://localhost:{client.facade.port}"
    return CommandLine(str(AZ), client.facade.home, base, tmp_path / "az").run


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
    place = resource_id("goldsmith", MACHINES, "done")
    version = (
        "--gallery-name",
        "goldsmith",
        "--gallery-image-definition",
        "web-gen2",
        "--resource-group",
        "goldsmith",
    )
    source = ("--virtual-machine", place)
    refused = az("sig", "image-version", "create", *version, "--gallery-image-version", "1.0.0", *source, fails=True)
    assert "the next one of web is" in refused
    az("group", "delete", "--name", "shop", "--yes")
    assert [each["name"] for each in az("group", "list")] == ["goldsmith"] and az(
        "disk", "list", "--resource-group", "goldsmith"
    ) == []
    assert "(vm-not-generalized)" in az("vm", "capture", *machine, "--vhd-name-prefix", "web", fails=True)
    assert "NotImplemented" in az("snapshot", "list", fails=True)
    az("vm", "delete", *machine, "--yes")
    assert client.facade.manager.tasks.wait_idle(60)
    assert [each["name"] for each in az("vm", "list")] == ["done", "idle"]
