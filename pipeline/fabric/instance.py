"""A virtual machine as Azure knows it, and its exchanges with the fabric. Plain values without behaviour."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from pipeline.definition import DataDisk
from pipeline.fabric.extension import Extension

#: Where every Azure guest finds the WireServer and the HostGAPlugin.
#: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
WIRESERVER = "168.63.129.16"
#: Where every Azure guest finds the instance metadata service.
IMDS = "169.254.169.254"
#: The domain of names inside Azure. Each name below it leads to the WireServer's address: a clone is asked to resolve
#: one that no file of its own can know.
#: https://learn.microsoft.com/azure/virtual-network/virtual-networks-name-resolution-for-vms-and-role-instances
INTERNAL_DOMAIN = "internal.cloudapp.net"
HTTP_PORT = 80
#: The HostGAPlugin's port on the WireServer's address.
PLUGIN_PORT = 32526


#: The address of the imitated web server, if guests ask for it by name (TEST-NET-2, RFC 5737).
SITE = "198.51.100.10"


@dataclass(frozen=True)
class Site:
    """A web server outside, which the fabric imitates: it has one page, whose text is each guest's own user data."""

    host: str
    port: int
    target: str

    @classmethod
    def of(cls, url: str) -> Site:
        """The site of an address that begins with http://."""
        parts = urlsplit(url)
        query = f"?{parts.query}" if parts.query else ""
        return cls(parts.hostname or "", parts.port or 80, f"{parts.path or '/'}{query}")

    @property
    def named(self) -> bool:
        """Whether guests have to ask for its address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def address(self) -> str:
        return SITE if self.named else self.host


@dataclass(frozen=True)
class Instance:
    """The data that one VM gets, and the values that identify its reports.

    `address` is pinned to `mac`; the guest's gateway is the first address of its /29. `custom_data` is on the
    provisioning medium, `user_data` in the metadata service, or on the `site`. With an `extension` its goal state
    names that, and the VM's certificate is the extension's; else it is `certificate`, a PEM with its key, where there
    is one.
    """

    name: str
    user: str
    public_key: str
    mac: str
    address: str
    vm_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    custom_data: bytes = b""
    user_data: bytes = b""
    data_disks: tuple[DataDisk, ...] = ()
    site: Site | None = None
    extension: Extension | None = None
    #: The VM's places in its availability set.
    fault_domain: int = 0
    update_domain: int = 0
    certificate: bytes = field(default=b"", repr=False)
    provisioned: bool = True  # else Azure has nothing for it: the classic portal's Start of a generalized VM

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Interface(f"{self.address}/29").network

    @property
    def gateway(self) -> str:
        return str(self.network.network_address + 1)

    @property
    def way_out(self) -> str:
        """The address of the router of the guest's own way out, if it has one: the third address of its /29."""
        return str(self.network.network_address + 3)

    def derived(self, what: str) -> str:
        """An id derived from this VM: the same VM always gets the same ids."""
        return str(uuid.uuid5(uuid.UUID(self.vm_id), what))

    @property
    def container_id(self) -> str:
        return self.derived("container")

    @property
    def deployment_id(self) -> str:
        return self.derived("deployment").replace("-", "")

    @property
    def role_instance(self) -> str:
        return f"{self.derived('role')}._{self.name}"


@dataclass(frozen=True)
class Request:
    """A guest's request. `target` is the path with its query; header names are lower case."""

    method: str
    port: int
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    host: str = WIRESERVER

    @property
    def path(self) -> str:
        return urlsplit(self.target).path.rstrip("/").lower() or "/"

    @property
    def query(self) -> dict[str, str]:
        """Names in lower case: guests spell them in more than one way."""
        return {name.lower(): value for name, value in parse_qsl(urlsplit(self.target).query, keep_blank_values=True)}


@dataclass(frozen=True)
class Response:
    """The fabric's answer. `delay` is in seconds; `drop` closes the connection without an answer."""

    status: int = 200
    body: bytes = b""
    kind: str = "text/xml; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


@dataclass(frozen=True)
class Report:
    """A guest's report about its provisioning: its state, and its own words."""

    state: str  # Ready | NotReady
    substatus: str = ""
    description: str = ""

    @property
    def ready(self) -> bool:
        return self.state == "Ready"

    @property
    def failed(self) -> bool:
        """Whether provisioning is over without success. waagent reports `Provisioning` when it begins."""
        return not self.ready and self.substatus != "Provisioning"


@dataclass(frozen=True)
class Event:
    """A report of a program in the guest about its own work, as the agent's telemetry is."""

    name: str
    operation: str
    success: bool
    message: str
    seconds: float


@dataclass(frozen=True)
class Exchange:
    """One request and its answer; `at` is in seconds since the guest was attached."""

    at: float
    request: Request
    response: Response


class FabricRecord(Protocol):
    """The fabric's record of one guest, whichever process serves it."""

    @property
    def report(self) -> Report | None:
        """The last report of the guest's provisioning."""

    @property
    def reports(self) -> Iterable[Report]: ...

    def asked(self) -> list[Exchange]:
        """The newest requests of the guest with their answers."""
