"""The registration of a VM with the fabric's service, and the service's status of it. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.definition import DataDisk
from pipeline.fabric.instance import Instance


@dataclass(frozen=True)
class ProvisioningData:
    """The data of a VM that the fabric needs. `instance_id` is a UUID, also of its domain. No password is in it.

    `certificate`: the PEM of the VM's own certificate with its private key; empty without one.
    """

    instance_id: str
    name: str
    user: str
    public_key: str
    custom_data: bytes = b""
    user_data: bytes = b""
    data_disks: tuple[DataDisk, ...] = ()
    provisioned: bool = True
    network: str | None = None
    outside: bool = False
    fault_domain: int = 0
    update_domain: int = 0
    certificate: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Link:
    """A VM's place on the fabric: the bridge of its card, the card's address, its IP address, its whole identity."""

    bridge: str
    mac: str
    address: str
    instance: Instance


class AgentState(StrEnum):
    """The state of provisioning that a guest's own agent has reported since the provisioning boot began."""

    NONE = "none"
    PROVISIONING = "provisioning"
    READY = "ready"
    FAILED = "failed"


class CertificateState(StrEnum):
    """What the agent did with the VM's certificate: it fetched it, then it reported the status of that goal state."""

    NONE = "none"
    FETCHED = "fetched"
    TAKEN = "taken"


@dataclass(frozen=True)
class AgentStatus:
    """The state, with the guest's own text (bounded by `limits.KEPT_WORDS`).

    `time`: when the report that made this state came. `heard`: the last request of any kind. UTC, ISO 8601.
    `certificate`: whether the agent has the VM's certificate since then.
    """

    state: AgentState = AgentState.NONE
    substatus: str = ""
    description: str = ""
    time: str | None = None
    heard: str | None = None
    certificate: CertificateState = CertificateState.NONE
