"""The console's log and the screen of a VM, as boot diagnostics show them."""

from __future__ import annotations

from pipeline.facade.errors import not_found
from pipeline.facade.manager import Manager
from pipeline.hypervisor.observation import take_picture
from pipeline.hypervisor.persistent import find_domain

#: Bytes shown of the end of a console's log.
_TAIL = 1 << 20


def read_boot_file(manager: Manager, machine: str, file: str) -> tuple[str, bytes]:
    """The media type and the content of a file of a VM. Raises ArmError (404) where there is none."""
    with manager.session() as session:
        record = next((each for each in session.fleet.instances.all() if each.id == machine), None)
        if record is None:
            raise not_found("the VM")
        if file == "screen.png":
            domain = find_domain(session.fleet.connection, record.id)
            picture = (
                take_picture(session.fleet.connection, domain) if domain is not None and domain.isActive() else None
            )
            if picture is None:
                raise not_found(f"a picture of {record.name}: it does not run, or has no screen")
            return "image/png", picture
        path = session.fleet.logs(record) / "serial.log"
        if not path.is_file():
            raise not_found(f"the console's log of {record.name}")
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL))
            return "text/plain; charset=utf-8", log.read(_TAIL)
