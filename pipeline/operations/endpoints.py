"""Endpoints: a port of this host that leads to the VMs of a set is added, and removed."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.base.files import RecordDamaged
from pipeline.base.names import INSTANCE_NAME
from pipeline.base.runs import now
from pipeline.instances.endpoint_records import PROBE_PATH, EndpointRecord
from pipeline.instances.endpoints import Outcome, balancer_of, ensure_endpoint, hold_endpoints, name_balancer
from pipeline.instances.fleet import Fleet
from pipeline.network.balancer import Rules, open_public

#: Where an endpoint listens by default: nobody outside this host reaches it.
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class EndpointWishes:
    """The user's wishes for an endpoint. `probe`: `http:/PATH`, or `tcp` for a connection alone."""

    name: str
    protocol: str
    public: int
    private: int
    set: str
    probe: str = "tcp"
    address: str = LOOPBACK


def plan_endpoint(fleet: Fleet, wishes: EndpointWishes) -> EndpointRecord:
    """The record of an endpoint. Raises UsageError (endpoint-name, probe-invalid), NotFound (set-unknown)."""
    if not INSTANCE_NAME.fullmatch(wishes.name):
        raise UsageError(
            f"{wishes.name!r} cannot be the name of an endpoint",
            name="endpoint-name",
            hint="lower case letters, digits and hyphens, at most 63, neither first nor last a hyphen",
        )
    fleet.sets.get(wishes.set)
    probe = read_probe(wishes.probe)
    return EndpointRecord(
        name=wishes.name,
        created=now(),
        protocol=wishes.protocol,
        address=wishes.address,
        public=wishes.public,
        private=wishes.private,
        set=wishes.set,
        probe=probe,
    )


def read_probe(text: str) -> str | None:
    """The path of an HTTP probe, None for a connection alone. Raises UsageError (probe-invalid). Pure."""
    kind, _, path = text.partition(":")
    if kind not in ("tcp", "http") or (kind == "tcp" and path) or (kind == "http" and not _is_path(path)):
        raise UsageError(
            f"{text!r} is not a probe",
            name="probe-invalid",
            hint="use http:/PATH, whose answer must be 200, or tcp, for a connection alone",
        )
    return path if kind == "http" else None


def _is_path(text: str) -> bool:
    return re.fullmatch(PROBE_PATH, text, re.ASCII) is not None


def add_endpoint(fleet: Fleet, wishes: EndpointWishes) -> Outcome:
    """Add an endpoint, and serve it if its set has a VM with an address. What cannot be served is not added.

    Raises UsageError (endpoint-exists), HostError (port-taken, address-unusable, haproxy-missing) and the errors of
    `plan_endpoint`.
    """
    record = plan_endpoint(fleet, wishes)
    with hold_endpoints(fleet):
        if fleet.endpoints.find(record.name) is not None:
            raise UsageError(
                f"the endpoint {record.name} exists already",
                name="endpoint-exists",
                hint=f"choose another name; goldsmith endpoint show {record.name} shows the existing endpoint",
            )
        open_public(record.address, record.public).close()
        fleet.endpoints.add(record)
        try:
            return ensure_endpoint(fleet, record)
        except BaseException as error:
            balancer_of(fleet, record).end()
            if isinstance(error, GoldsmithError):
                fleet.endpoints.remove(record.name)
            raise


def remove_endpoint(fleet: Fleet, name: str, *, dry: bool = False) -> None:
    """Remove an endpoint, also one whose record is damaged; its open connections end. `dry`: only look for it.

    Raises NotFound (endpoint-unknown).
    """
    with hold_endpoints(fleet):
        with contextlib.suppress(RecordDamaged):
            fleet.endpoints.get(name)
        if not dry:
            name_balancer(fleet, name, Rules("tcp", 1)).end()
            fleet.endpoints.remove(name)
