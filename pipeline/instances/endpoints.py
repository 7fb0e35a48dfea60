"""Endpoints as they run: each command of VMs brings HAProxy's slots to what the records of the VMs say.

A VM gets requests when its agent has reported Ready and its probe passes. A drained VM gets none; one that is
switched off or provisioned anew is out.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from filelock import FileLock

from pipeline.base import locks
from pipeline.base.errors import BuildError, GoldsmithError, HostError
from pipeline.base.files import RecordDamaged
from pipeline.fabric import service
from pipeline.fabric.privileged import RUNTIME, Host
from pipeline.instances.endpoint_records import EndpointRecord
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record
from pipeline.instances.set_records import members_of
from pipeline.network.balancer import Admission, Backend, Balancer, Rules, ServerState, open_public

log = logging.getLogger("goldsmith.waits")

#: Operations during which a VM gets no requests.
_OUT = ("create", "stop", "deallocate", "delete", "reimage", "redeploy")
#: Seconds to wait for another command that changes endpoints.
LOCK = 120.0
#: Seconds between two looks while something is waited for.
LOOK = 0.2


@dataclass(frozen=True)
class Outcome:
    """What was done for one endpoint. `mended` says what was found wrong, and is mended; `error`: what is not."""

    endpoint: EndpointRecord
    mended: str | None = None
    error: GoldsmithError | None = None


def balancer_of(fleet: Fleet, endpoint: EndpointRecord) -> Balancer:
    return name_balancer(fleet, endpoint.name, endpoint.rules)


def name_balancer(fleet: Fleet, name: str, rules: Rules) -> Balancer:
    """HAProxy of an endpoint of this name, whether its record can be read or not."""
    host = Host(service.label_of(fleet.store))
    return Balancer(
        fleet.endpoints.folder(name),
        RUNTIME / host.label / f"ep-{name}",
        host.namespace.path,
        rules,
    )


def admission_of(record: Record) -> Admission:
    """Which requests a VM gets, by its record. Pure."""
    busy = record.operation is not None and record.operation.kind in _OUT and record.operation.is_alive
    if record.provisioned is None or record.generalized or busy:
        return Admission.OUT
    return Admission.DRAIN if record.drained else Admission.READY


def addresses_of(fleet: Fleet, endpoint: EndpointRecord) -> dict[str, Record]:
    """The VMs of an endpoint that have an address, by it."""
    found = {}
    for record in members_of(endpoint.set, fleet.instances.all()):
        if record.allocated and record.disk is not None:
            with contextlib.suppress(RecordDamaged):
                link = service.read_link(fleet.store, record.id)
                if link is not None:
                    found[link.address] = record
    return found


def align_endpoints(fleet: Fleet) -> list[Outcome]:
    """Bring every endpoint to what the records say: its process, its configuration, its VMs.

    What is wrong with one of them is in its outcome. Raises BuildError (endpoint-locked).
    """
    if not fleet.endpoints.names():
        return []
    with hold_endpoints(fleet):
        return [_align(fleet, endpoint) for endpoint in fleet.endpoints.all()]


@contextlib.contextmanager
def hold_endpoints(fleet: Fleet) -> Iterator[None]:
    """Keep other commands from changing endpoints. Raises BuildError (endpoint-locked)."""
    fleet.endpoints.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(fleet.endpoints.root / ".lock", thread_local=False)
    locks.acquire(lock, "another command that changes endpoints", deadline=LOCK, name="endpoint-locked")
    try:
        yield
    finally:
        lock.release()


def _align(fleet: Fleet, endpoint: EndpointRecord) -> Outcome:
    try:
        return ensure_endpoint(fleet, endpoint)
    except GoldsmithError as error:
        return Outcome(endpoint, error=error)
    except OSError as error:
        lost = HostError(
            f"HAProxy of the endpoint {endpoint.name} does not answer: {error.strerror or error}",
            name="endpoint-silent",
            hint=f"run the command again; read {balancer_of(fleet, endpoint).log}",
        )
        return Outcome(endpoint, error=lost)


def ensure_endpoint(fleet: Fleet, endpoint: EndpointRecord) -> Outcome:
    """Bring one endpoint to what the records say. The caller holds the endpoints.

    Raises OSError, HostError (port-taken, haproxy-missing, endpoint-not-started, endpoint-full).
    """
    balancer, vms = balancer_of(fleet, endpoint), addresses_of(fleet, endpoint)
    if not vms:
        balancer.end()
        if endpoint.serving:
            endpoint = fleet.endpoints.save(replace(endpoint, serving=False))
        return Outcome(endpoint)
    mended = []
    if endpoint.serving and not balancer.has_config():
        balancer.write_config()
        mended.append("its configuration had been changed, and was written again")
    if not balancer.is_current():
        if endpoint.serving and balancer.find_process() is None:
            mended.append("HAProxy had ended, and was started again")
        elif endpoint.serving:
            mended.append("HAProxy did not answer or had an older configuration, and was started again")
        balancer.end()
        fleet.keep_fabric()
        with open_public(endpoint.address, endpoint.public) as public:
            balancer.start(public)
        endpoint = fleet.endpoints.save(replace(endpoint, serving=True))
    balancer.align(Backend(address, admission_of(record)) for address, record in vms.items())
    return Outcome(endpoint, "; ".join(mended) or None)


def read_states(fleet: Fleet, endpoint: EndpointRecord) -> dict[str, ServerState]:
    """HAProxy's state of each VM of an endpoint, by the VM's name; empty while it does not run."""
    try:
        states = {state.address: state for state in balancer_of(fleet, endpoint).states()}
    except OSError:
        return {}
    return {
        record.name: states[address] for address, record in addresses_of(fleet, endpoint).items() if address in states
    }


# ---- draining ----------------------------------------------------------------------------------------------------


def drain(fleet: Fleet, names: Iterable[str], *, drained: bool = True) -> None:
    """Let VMs get no new requests from any endpoint, or let them get some again."""
    for name in names:
        with fleet.hold(name) as record:
            if record.drained is not drained:
                fleet.instances.save(replace(record, drained=drained))
    align_endpoints(fleet)


def wait_drained(fleet: Fleet, set_name: str, names: Iterable[str], deadline: float) -> bool:
    """Wait until VMs have answered the requests that they had. False: some were still open after `deadline` s."""
    wanted = set(names)

    def is_idle() -> bool:
        return all(
            state.sessions == 0
            for endpoint in endpoints_of(fleet, set_name)
            for name, state in read_states(fleet, endpoint).items()
            if name in wanted
        )

    return _wait(is_idle, deadline)


def wait_serving(fleet: Fleet, set_name: str, names: Iterable[str], deadline: float) -> None:
    """Wait until VMs get requests from every endpoint of their set.

    Raises BuildError (endpoint-probe-failed) after `deadline` seconds.
    """
    wanted = list(names)

    def lacking() -> list[tuple[str, str, str]]:
        found = []
        for endpoint in endpoints_of(fleet, set_name):
            states = read_states(fleet, endpoint)
            for name in wanted:
                state = states.get(name)
                if state is None or not state.is_up:
                    found.append((endpoint.name, name, state.check if state is not None else "HAProxy does not run"))
        return found

    if _wait(lambda: not lacking(), deadline):
        return
    for endpoint, name, check in lacking():
        raise BuildError(
            f"{name} has not passed the probe of {endpoint} for {deadline:.0f} s: {check or 'no answer'}",
            name="endpoint-probe-failed",
            hint=f"goldsmith endpoint show {endpoint} shows its probe; goldsmith vm console {name}",
        )


def endpoints_of(fleet: Fleet, set_name: str) -> list[EndpointRecord]:
    """The endpoints of a set."""
    return [each for each in fleet.endpoints.all() if each.set == set_name]


def _wait(is_so: Callable[[], bool], deadline: float) -> bool:
    until = time.monotonic() + deadline
    while not is_so():
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK)
    return True
