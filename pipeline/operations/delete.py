"""Delete a VM with its disks, its place on the fabric and its lease."""

from __future__ import annotations

import errno
from dataclasses import replace

from pipeline.base.errors import UsageError
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Operation


def delete(fleet: Fleet, name: str, *, running: bool) -> None:
    """Delete the VM. `running`: also delete a VM that runs (it is stopped at once) or that is being created.

    Raises NotFound (vm-unknown), UsageError (vm-running), HostError (libvirt-unreachable). A deletion that was
    interrupted is finished.
    """
    fleet.instances.get(name)
    with fleet.instances.hold(name):
        record = fleet.instances.get(name)
        fleet.is_on(record)  # raises where libvirt does not answer: then nothing is begun
        if not running:
            refuse_running(fleet, name)
        deleted = replace(record, operation=Operation.begin("delete"))
        try:
            deleted = fleet.instances.save(deleted)
        except OSError as error:
            # a deletion frees a full disk: one that is interrupted is then not finished by the next command, but can
            # be begun again
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        fleet.destroy(deleted)


def refuse_running(fleet: Fleet, name: str) -> None:
    """Raise UsageError (vm-running) for a VM that runs, NotFound (vm-unknown)."""
    if fleet.is_on(fleet.instances.get(name)):
        raise UsageError(
            f"{name} is running; deleting it stops it and deletes its disks",
            name="vm-running",
            hint=f"goldsmith vm delete {name} --yes",
        )
