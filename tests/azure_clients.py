"""Two unmodified clients of Azure, with the same verbs: the command line `az`, and the library azure-mgmt-compute.

Each verb takes and returns Azure's own JSON, so that one walk judges both.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from pipeline.facade.home import Home
from pipeline.facade.ids import GALLERIES, GROUP, LOCATION, MACHINES, resource_id
from pipeline.gallery.versions import next_version
from pipeline.operations.arm_deployment import SUBSCRIPTION

#: Where tools/setup.sh az installs it.
INSTALLED = Path(__file__).parents[1] / ".venv" / "az" / "bin" / "az"
#: Seconds for one command: a capture builds, inspects and proves a master under TCG.
DEADLINE = 1500


def find_az() -> str | None:
    return str(INSTALLED) if INSTALLED.exists() else shutil.which("az")


def definition_id(image: str) -> str:
    """The id of the image definition of an image's generation 2."""
    return f"{resource_id(GROUP, GALLERIES, 'goldsmith')}/images/{image}-gen2"


class Walker(Protocol):
    """What the walk needs of a client. Every method ends when the operation has ended."""

    def make_group(self, group: str) -> None: ...

    def create(self, group: str, vm: str, image: str, public_key: str) -> dict[str, Any]: ...

    def attach_new(self, group: str, vm: str, disk: str, gibibytes: int, lun: int) -> None: ...

    def do(self, verb: str, group: str, vm: str) -> None: ...

    def show(self, group: str, vm: str) -> dict[str, Any]: ...

    def codes(self, group: str, vm: str) -> list[str]: ...

    def capture(self, group: str, vm: str, image: str) -> dict[str, Any]: ...

    def clone(self, group: str, vm: str, image: str, public_key: str, template: Path) -> None: ...

    def delete(self, group: str, vm: str) -> None: ...

    def empty(self, group: str) -> None: ...


class CommandLine:
    """`az`, signed in at a facade."""

    def __init__(self, az: str, home: Home, base: str, folder: Path) -> None:
        self._az = az
        self._environment = {
            **os.environ,
            "AZURE_CONFIG_DIR": str(folder),
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
            "AZURE_CORE_INSTANCE_DISCOVERY": "false",
            "REQUESTS_CA_BUNDLE": str(home.certificate),
        }
        self.run("cloud", "register", "--name", "goldsmith", "--endpoint-resource-manager", base)
        self.run("cloud", "set", "--name", "goldsmith")
        ids = home.client()
        who = ("--tenant", ids.tenant, "--username", ids.client, "--password", f"@{home.secret_file}")
        self.run("login", "--service-principal", *who)

    def run(self, *words: str, fails: bool = False) -> Any:
        """Its JSON, or the words of its error."""
        argv = [self._az, *words, "--output", "json"]
        began = time.monotonic()
        done = subprocess.run(
            argv, env=self._environment, capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        print(f"$ az {' '.join(words)}   [{done.returncode}, {time.monotonic() - began:.1f} s]", flush=True)
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    def make_group(self, group: str) -> None:
        self.run("group", "create", "--name", group, "--location", LOCATION)

    def create(self, group: str, vm: str, image: str, public_key: str) -> dict[str, Any]:
        what = ("--image", definition_id(image), "--size", "Standard_B1ms", "--admin-username", "azureuser")
        made = self.run("vm", "create", *_of(group, vm), *what, "--ssh-key-values", public_key)
        return dict(made)

    def attach_new(self, group: str, vm: str, disk: str, gibibytes: int, lun: int) -> None:
        size = ("--size-gb", str(gibibytes), "--lun", str(lun), "--caching", "ReadWrite")
        where = ("--resource-group", group, "--vm-name", vm)
        self.run("vm", "disk", "attach", *where, "--name", disk, "--new", *size)

    def do(self, verb: str, group: str, vm: str) -> None:
        self.run("vm", verb, *_of(group, vm))

    def show(self, group: str, vm: str) -> dict[str, Any]:
        return dict(self.run("vm", "show", *_of(group, vm)))

    def codes(self, group: str, vm: str) -> list[str]:
        view = self.run("vm", "get-instance-view", *_of(group, vm))["instanceView"]
        return [each["code"] for each in view["statuses"]]

    def capture(self, group: str, vm: str, image: str) -> dict[str, Any]:
        """It prints the first resource of the result, https://learn.microsoft.com/rest/api/compute/virtual-machines/capture."""
        made = dict(self.run("vm", "capture", *_of(group, vm), "--vhd-name-prefix", image))
        assert {"apiVersion", "type", "name", "location", "properties"} <= made.keys(), made
        assert made["type"] == MACHINES, made
        profiles = {"hardwareProfile", "storageProfile", "osProfile", "networkProfile"}
        assert profiles <= made["properties"].keys(), made
        return made

    def clone(self, group: str, vm: str, image: str, public_key: str, template: Path) -> None:
        """By the image's template, with the gallery of this host."""
        subnet = resource_id(group, "Microsoft.Network/virtualNetworks", "lan") + "/subnets/one"
        values = {"vmName": vm, "vmSize": "Standard_B1ms", "adminPublicKey": public_key, "subnetId": subnet}
        values["galleryName"] = "goldsmith"
        words = [f"{name}={value}" for name, value in values.items()]
        where = ("--resource-group", group, "--name", f"{vm}-deployment")
        made = self.run(
            "deployment", "group", "create", *where, "--template-file", str(template), "--parameters", *words
        )
        assert made["properties"]["provisioningState"] == "Succeeded", made
        assert resource_id(group, MACHINES, vm) in [each["id"] for each in made["properties"]["outputResources"]]

    def delete(self, group: str, vm: str) -> None:
        self.run("vm", "delete", *_of(group, vm), "--yes")

    def empty(self, group: str) -> None:
        self.run("group", "delete", "--name", group, "--yes")


def _of(group: str, vm: str) -> tuple[str, ...]:
    return ("--resource-group", group, "--name", vm)


class Library:
    """azure-mgmt-compute. What Azure has in another library, groups and deployments, it does without."""

    def __init__(self, home: Home, base: str) -> None:
        from azure.mgmt.compute import ComputeManagementClient

        self._compute = ComputeManagementClient(
            _Credential(home, base),
            SUBSCRIPTION,
            base_url=base,
            credential_scopes=[f"{base}/.default"],
            connection_verify=str(home.certificate),
            polling_interval=1,
        )

    def make_group(self, group: str) -> None:
        assert group == GROUP, "this library makes no groups"

    def create(self, group: str, vm: str, image: str, public_key: str) -> dict[str, Any]:
        key = {"path": "/home/azureuser/.ssh/authorized_keys", "keyData": public_key.strip()}
        linux = {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}}
        properties = {
            "hardwareProfile": {"vmSize": "Standard_B1ms"},
            "storageProfile": {"imageReference": {"id": definition_id(image)}},
            "osProfile": {"computerName": vm, "adminUsername": "azureuser", "linuxConfiguration": linux},
        }
        body: Any = {"location": LOCATION, "properties": properties}
        return dict(self._compute.virtual_machines.begin_create_or_update(group, vm, body).result(DEADLINE).as_dict())

    def attach_new(self, group: str, vm: str, disk: str, gibibytes: int, lun: int) -> None:
        empty = {"creationData": {"createOption": "Empty"}, "diskSizeGB": gibibytes}
        body: Any = {"location": LOCATION, "properties": empty}
        made = self._compute.disks.begin_create_or_update(group, disk, body).result(DEADLINE)
        rows: Any = {"dataDisksToAttach": [{"diskId": made.id, "lun": lun, "caching": "ReadWrite"}]}
        self._compute.virtual_machines.begin_attach_detach_data_disks(group, vm, rows).result(DEADLINE)

    def do(self, verb: str, group: str, vm: str) -> None:
        machines = self._compute.virtual_machines
        if verb == "generalize":
            machines.generalize(group, vm)
            return
        begin = {"stop": machines.begin_power_off, "start": machines.begin_start}.get(verb, machines.begin_deallocate)
        begin(group, vm).result(DEADLINE)

    def show(self, group: str, vm: str) -> dict[str, Any]:
        found = self._compute.virtual_machines.get(group, vm).as_dict()
        # `az` writes the properties beside the id
        return {**found, **found.get("properties", {})}

    def codes(self, group: str, vm: str) -> list[str]:
        view = self._compute.virtual_machines.instance_view(group, vm)
        return [str(each.code) for each in view.statuses or ()]

    def capture(self, group: str, vm: str, image: str) -> dict[str, Any]:
        """As a version of the gallery, the way that Azure advises today."""
        from azure.core.exceptions import ResourceNotFoundError

        versions = self._compute.gallery_image_versions
        there: list[str] = []
        with contextlib.suppress(ResourceNotFoundError):  # there is no such image yet
            listed = versions.list_by_gallery_image(GROUP, "goldsmith", f"{image}-gen2")
            there = [str(each.name) for each in listed]
        number = next_version(there, datetime.now(UTC).date())
        source = {"virtualMachineId": resource_id(group, MACHINES, vm)}
        body: Any = {"location": LOCATION, "properties": {"storageProfile": {"source": source}}}
        begun = versions.begin_create_or_update(GROUP, "goldsmith", f"{image}-gen2", number, body)
        made = begun.result(DEADLINE).as_dict()
        assert made["name"] == number, made
        return dict(made)

    def clone(self, group: str, vm: str, image: str, public_key: str, template: Path) -> None:
        """From the image's definition: deployments of templates are another library's."""
        self.create(group, vm, image, public_key)

    def delete(self, group: str, vm: str) -> None:
        self._compute.virtual_machines.begin_delete(group, vm).result(DEADLINE)

    def empty(self, group: str) -> None:
        for machine in self._compute.virtual_machines.list(group):
            self.delete(group, str(machine.name))
        for disk in self._compute.disks.list_by_resource_group(group):
            self._compute.disks.begin_delete(group, str(disk.name)).result(DEADLINE)


class _Credential:
    """A token for the client's secret, as `az login` gets one."""

    def __init__(self, home: Home, base: str) -> None:
        self._home = home
        self._base = base

    def get_token(self, *_scopes: str, **_more: Any) -> Any:
        import ssl
        from urllib.request import urlopen

        from azure.core.credentials import AccessToken

        ids = self._home.client()
        form: Mapping[str, str] = {
            "grant_type": "client_credentials",
            "scope": f"{self._base}/.default",
            "client_id": ids.client,
            "client_secret": self._home.secret() or "",
        }
        context = ssl.create_default_context(cafile=str(self._home.certificate))
        url = f"{self._base}/{ids.tenant}/oauth2/v2.0/token"
        with urlopen(url, urlencode(form).encode(), timeout=60, context=context) as answer:
            found = json.load(answer)
        return AccessToken(found["access_token"], int(time.time()) + int(found["expires_in"]))
