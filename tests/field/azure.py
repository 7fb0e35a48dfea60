"""A golden master on Azure itself, in a resource group of its own that is deleted at the end, whatever happens.

By Azure's command line `az` alone, which the user has logged in. Nothing here was run against Azure where goldsmith
is developed; the order of the calls, and that the group is deleted, are tested with a program in the place of `az`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.systems.linux.boot_messages import LOOK

#: Seconds for one call: a VM is provisioned within 10 minutes, and the deletion of a group takes as long.
DEADLINE = 1800.0
#: A size that has NVMe disks alone, and one that has SCSI disks: what a master must boot on.
SIZES = {"scsi": "Standard_D2s_v5", "nvme": "Standard_D2as_v6"}
#: Runs as root in the VM: what the agent, the cards and the disks are like there.
FACTS = """\
cat /etc/os-release; uname -a; ls -lR /dev/disk/azure; ip addr; networkctl list; lsblk -o NAME,SIZE,TYPE,MOUNTPOINT
findmnt; systemctl is-system-running; systemctl list-units --failed; cloud-init status --long; waagent --version
"""


class FieldError(Exception):
    """What stopped a field run; its archive is written all the same."""


@dataclass
class Azure:
    """Calls of `az`, one after another: each leaves what it printed in `folder`, and its seconds in `seconds`."""

    folder: Path
    subscription: str
    az: str = "az"
    seconds: dict[str, float] = field(default_factory=dict)

    def call(self, name: str, *words: str) -> str:
        """The output of a call. Raises FieldError with the last line of its errors."""
        argv = [self.az, *words, "--subscription", self.subscription, "--only-show-errors"]
        began = time.monotonic()
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FieldError(f"{name}: {error}") from None
        finally:
            self.seconds[name] = round(time.monotonic() - began, 1)
        (self.folder / f"{name}.txt").write_text(done.stdout)
        if done.returncode:
            (self.folder / f"{name}.stderr.txt").write_text(done.stderr)
            raise FieldError(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return done.stdout


def run_vms(azure: Azure, group: str, location: str, disk: Callable[[], str], public_key: Path) -> None:
    """Make the group, have `disk` upload a managed disk into it, start a VM of each size, and ask it.

    `disk` returns the id of the managed disk. The group is deleted at the end. Raises FieldError with the first
    failure, or with that of the deletion: then the user must delete the group.
    """
    azure.call("group-create", "group", "create", "--name", group, "--location", location)
    failure: FieldError | None = None
    try:
        image = _image(azure, group, disk())
        for kind, size in SIZES.items():
            try:
                _vm(azure, group, f"vm-{kind}", size, image, public_key)
            except FieldError as error:
                failure = failure or error
    except FieldError as error:
        failure = error
    finally:
        try:
            azure.call("group-delete", "group", "delete", "--name", group, "--yes")
        except FieldError as error:
            raise FieldError(f"{error}. Delete the resource group {group} yourself: it costs money") from None
    if failure is not None:
        raise failure


def _image(azure: Azure, group: str, disk: str) -> str:
    words = ("--source", disk, "--os-type", "Linux", "--hyper-v-generation", "V2", "--output", "json")
    made = azure.call("image-create", "image", "create", "--resource-group", group, "--name", "master", *words)
    return str(json.loads(made)["id"])


def _vm(azure: Azure, group: str, name: str, size: str, image: str, public_key: Path) -> None:
    """A VM without a public address, and what it says of itself. Its console is fetched where it fails, too."""
    here = ("--resource-group", group, "--name", name)
    try:
        words = (
            "--image",
            image,
            "--size",
            size,
            "--admin-username",
            "azureuser",
            "--ssh-key-values",
            str(public_key),
        )
        azure.call(f"{name}-create", "vm", "create", *here, *words, "--public-ip-address", "", "--output", "json")
        azure.call(f"{name}-view", "vm", "get-instance-view", *here, "--output", "json")
        for what, script in (("facts", FACTS), ("boot-messages", LOOK)):
            azure.call(f"{name}-{what}", *_script(here, script))
        azure.call(f"{name}-restart", "vm", "restart", *here)
        azure.call(f"{name}-again", *_script(here, FACTS))
    finally:
        azure.call(f"{name}-diagnostics", "vm", "boot-diagnostics", "enable", *here)
        log = azure.call(f"{name}-console", "vm", "boot-diagnostics", "get-boot-log", *here)
        (azure.folder / f"{name}.serial.log").write_text(log)


def _script(here: Sequence[str], script: str) -> tuple[str, ...]:
    words = ("--command-id", "RunShellScript", "--scripts", script, "--output", "json")
    return ("vm", "run-command", "invoke", *here, *words)
