"""The fabric's files about a store's VMs: `guests/ID.json` belongs to root, `records/ID/` to the server.

A registration says who a VM is and where it is attached; it survives crashes, upgrades and restarts of the host. It
holds no password. Files that the server writes are read as untrusted.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.base.files import RecordDamaged, Shape, read_json, read_usable, remove_tree, sync_folder, write_json
from pipeline.base.store import Store
from pipeline.definition import DataDisk
from pipeline.fabric import limits
from pipeline.fabric.guest_record import DHCP_LOG, EXCHANGE_LOG, parse_exchange
from pipeline.fabric.instance import Exchange, Instance
from pipeline.fabric.registration import AgentState, AgentStatus, CertificateState, ProvisioningData
from pipeline.network.namespaces import address_of

STATUS = "status.json"
#: Wires of one namespace: /29s in a /16.
NUMBERS = 8192
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


@dataclass(frozen=True)
class Registration:
    """A VM's place on the fabric. A `suspended` VM has no wire; another VM may have got its number."""

    data: ProvisioningData
    mac: str
    number: int
    suspended: bool = False

    @property
    def instance(self) -> Instance:
        data = self.data
        return Instance(
            name=data.name,
            user=data.user,
            public_key=data.public_key,
            mac=self.mac,
            address=address_of(self.number),
            vm_id=data.instance_id,
            custom_data=data.custom_data,
            user_data=data.user_data,
            data_disks=data.data_disks,
            provisioned=data.provisioned,
            fault_domain=data.fault_domain,
            update_domain=data.update_domain,
            certificate=data.certificate,
        )


class _DiskShape(Shape):
    lun: Annotated[int, Field(ge=0, le=63)]
    size: Annotated[int, Field(ge=0)]
    caching: Literal["None", "ReadOnly", "ReadWrite"]
    filesystem: str | None
    label: str | None


class RegistrationShape(Shape):
    """A registration as JSON; bytes are in base64."""

    instance_id: Annotated[str, Field(pattern=_UUID)]
    name: str
    user: str
    public_key: str
    custom_data: str
    user_data: str
    data_disks: list[_DiskShape]
    provisioned: bool
    network: str | None
    outside: bool
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
    number: Annotated[int, Field(ge=0, lt=NUMBERS)]
    suspended: bool
    fault_domain: Annotated[int, Field(ge=0)] = 0
    update_domain: Annotated[int, Field(ge=0)] = 0
    certificate: str = ""

    @classmethod
    def advice(cls) -> str:
        return "delete the VM and create it again, or restore the file from a backup"


class StatusShape(Shape):
    state: Literal["none", "provisioning", "ready", "failed"]
    substatus: Annotated[str, Field(max_length=limits.KEPT_WORDS)]
    description: Annotated[str, Field(max_length=limits.KEPT_WORDS)]
    time: Annotated[str, Field(max_length=32)] | None
    heard: Annotated[str, Field(max_length=32)] | None
    certificate: Literal["none", "fetched", "taken"] = "none"


def to_json(registration: Registration) -> dict[str, Any]:
    data = registration.data
    return {
        "instance_id": data.instance_id,
        "name": data.name,
        "user": data.user,
        "public_key": data.public_key,
        "custom_data": base64.b64encode(data.custom_data).decode(),
        "user_data": base64.b64encode(data.user_data).decode(),
        "data_disks": [vars(disk) for disk in data.data_disks],
        "provisioned": data.provisioned,
        "network": data.network,
        "outside": data.outside,
        "fault_domain": data.fault_domain,
        "update_domain": data.update_domain,
        "certificate": base64.b64encode(data.certificate).decode(),
        "mac": registration.mac,
        "number": registration.number,
        "suspended": registration.suspended,
    }


def from_json(found: dict[str, Any]) -> Registration:
    """A registration from JSON of its shape. Raises ValueError where bytes are not base64."""
    names = ("instance_id", "name", "user", "public_key", "provisioned", "network", "outside")
    data = ProvisioningData(
        **{name: found[name] for name in names},
        # registrations of older versions lack the domains and the certificate
        fault_domain=found.get("fault_domain", 0),
        update_domain=found.get("update_domain", 0),
        certificate=base64.b64decode(found.get("certificate", ""), validate=True),
        custom_data=base64.b64decode(found["custom_data"], validate=True),
        user_data=base64.b64decode(found["user_data"], validate=True),
        data_disks=tuple(
            DataDisk(disk["lun"], disk["size"], disk["caching"], disk["filesystem"], disk["label"])
            for disk in found["data_disks"]
        ),
    )
    return Registration(data, found["mac"], found["number"], found["suspended"])


@dataclass(frozen=True)
class Registrations:
    """The registrations of one store, below its folder `fabric`."""

    root: Path
    guests: Path = field(init=False)
    records: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "guests", self.root / "guests")
        object.__setattr__(self, "records", self.root / "records")

    @classmethod
    def of(cls, store: Store) -> Registrations:
        return cls(store.root / "fabric")

    def find(self, instance_id: str) -> Registration | None:
        """Raises RecordDamaged."""
        return self._read(self.guests / f"{instance_id}.json")

    def all(self) -> list[Registration]:
        """Every registration that can be read; a damaged one is named in a warning and skipped."""
        found = []
        for path in sorted(self.guests.glob("*.json")):
            if (record := read_usable(path, RegistrationShape)) is not None:
                found.append(from_json(record))
        return found

    def active(self) -> list[Registration]:
        return [each for each in self.all() if not each.suspended]

    def is_empty(self) -> bool:
        return next(self.guests.glob("*.json"), None) is None

    def _read(self, path: Path) -> Registration | None:
        record = read_json(path, RegistrationShape)
        try:
            return from_json(record) if record is not None else None
        except ValueError:
            raise RecordDamaged(path, "its data is not base64", RegistrationShape.advice()) from None

    def write(self, registration: Registration) -> None:
        for folder, mode in ((self.root, 0o711), (self.guests, 0o700), (self.records, 0o711)):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
        path = self.guests / f"{registration.data.instance_id}.json"
        write_json(path, to_json(registration))
        path.chmod(0o600)

    def remove(self, instance_id: str) -> None:
        (self.guests / f"{instance_id}.json").unlink(missing_ok=True)
        if self.guests.is_dir():
            sync_folder(self.guests)
        remove_tree(self.records / instance_id)

    def give_record(self, instance_id: str, uid: int, gid: int) -> None:
        """Create the folder for the server's record of this VM. Its parent belongs to root, so the server cannot
        replace it.
        """
        folder = self.records / instance_id
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, uid, gid, follow_symlinks=False)

    # ---- what the server wrote -----------------------------------------------------------------------------------

    def status(self, instance_id: str) -> AgentStatus:
        found = read_usable(self.records / instance_id / STATUS, StatusShape, limit=1 << 16)
        if found is None:
            return AgentStatus()
        fields = {name: found[name] for name in StatusShape.model_fields if name in found}
        certificate = CertificateState(found.get("certificate", CertificateState.NONE))
        return AgentStatus(**{**fields, "state": AgentState(found["state"]), "certificate": certificate})

    def logs(self, instance_id: str) -> dict[str, Path]:
        paths = (self.records / instance_id / name for name in (EXCHANGE_LOG, DHCP_LOG))
        return {path.name: path for path in paths if path.is_file() and not path.is_symlink()}

    def exchanges(self, instance_id: str) -> list[Exchange]:
        """The newest exchanges that the log has, oldest first."""
        found: list[Exchange] = []
        for line in _last_lines(self.records / instance_id / EXCHANGE_LOG, limits.KEPT_EXCHANGES):
            try:
                data = json.loads(line)
            except ValueError:
                continue  # the line that is being written, or was when the host died
            if isinstance(data, dict) and (exchange := parse_exchange(data)) is not None:
                found.append(exchange)
        return found

    def lowest_free(self) -> int | None:
        taken = {each.number for each in self.active()}
        return next((number for number in range(NUMBERS) if number not in taken), None)


def _last_lines(path: Path, count: int) -> Iterator[bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(fd).st_size
        file.seek(max(0, size - limits.LOG))
        yield from file.read(limits.LOG).splitlines()[-count:]


def suspended(registration: Registration) -> Registration:
    return replace(registration, suspended=True)
