"""Move a VM to other hardware, as Azure does: it is switched off and on, and its resource disk is a new one."""

from __future__ import annotations

from pipeline.base.errors import UsageError
from pipeline.instances.fleet import Fleet, refuse_generalized
from pipeline.operations.start import Started, start
from pipeline.operations.stop import deallocate


def redeploy(fleet: Fleet, name: str, *, force: bool = False) -> Started:
    """Deallocate a VM and start it again. `force` cuts its power. A VM that is off is started, too.

    Raises as `deallocate` and `start` do. If it is interrupted, or cannot start again, the VM is deallocated; one
    without a disk (vm-incomplete) stays as it is.
    """
    record = fleet.instances.get(name)
    refuse_generalized(record)
    if record.disk is None:
        record.image_of_disk  # noqa: B018  raises, before it is deallocated
    try:
        deallocate(fleet, name, force=force)
    except UsageError as error:
        if error.name != "vm-deallocated":
            raise
    return start(fleet, name)
