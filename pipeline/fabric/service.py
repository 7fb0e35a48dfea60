"""The fabric as a service for a store's VMs; commands call this module. Each store has one server, which outlives the
commands.

Registrations are on disk. Missing wires and a missing server are created from them again, for example after a crash
of the server or a restart of the host. The bridge of a running VM is never removed for that.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base import locks, process
from pipeline.base.errors import GoldsmithError, HostError
from pipeline.base.files import RecordDamaged
from pipeline.base.store import Store
from pipeline.fabric import control, draw_mac
from pipeline.fabric.instance import INTERNAL_DOMAIN, Exchange
from pipeline.fabric.privileged import Host, server_user
from pipeline.fabric.registration import AgentState, AgentStatus, Link, ProvisioningData
from pipeline.fabric.registrations import Registration, Registrations, suspended, to_json

__all__ = [
    "AgentState", "AgentStatus", "Link", "ProvisioningData", "Service", "ensure", "find", "label_of", "log_files",
    "read_exchanges", "read_link", "read_status",
]  # fmt: skip

log = logging.getLogger("goldsmith.fabric")

#: Seconds for a server to answer for the first time, on a busy emulated host.
START = 60.0
#: Seconds for a server to take or close the sockets that a dead command had passed to it.
SOCKETS = 10.0
#: Seconds to wait for another command that changes the fabric: each takes less than two.
LOCK = 120.0


def label_of(store: Store) -> str:
    """The label of the namespace and the bridges of a store's VMs."""
    return store.label("vms")


def network_names(active: Iterable[Registration]) -> dict[str, dict[str, str]]:
    """For each VM in a private network, by its id: the names of all members of the network, including itself. Pure.

    If two members have the same name, it leads to the one with the lower number.
    """
    members: dict[str, dict[str, str]] = {}
    inside = [each for each in active if each.data.network is not None]
    for each in sorted(inside, key=lambda registration: -registration.number):
        name = each.data.name.lower()
        own = members.setdefault(str(each.data.network), {})
        own |= {name: each.instance.address, f"{name}.{INTERNAL_DOMAIN}": each.instance.address}
    return {each.data.instance_id: members[str(each.data.network)] for each in inside}


def make_views(active: Sequence[Registration]) -> dict[str, dict[str, Any]]:
    """The server's data of each VM, by its id: its identity, the names it can resolve, and a digest of both. Pure.

    Without its custom data, which is on the medium and may hold secrets.
    """
    names = network_names(active)
    views = {}
    for each in active:
        guest = json.dumps(to_json(replace(each, data=replace(each.data, custom_data=b""))))
        known = names.get(each.data.instance_id, {})
        mark = hashlib.sha256(json.dumps([guest, known]).encode()).hexdigest()
        views[each.data.instance_id] = {"guest": guest, "names": known, "mark": mark}
    return views


class Service:
    """A store's fabric. Every method looks at the real state; nothing is remembered between two calls."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.label = label_of(store)
        self._host = Host(self.label)
        self._registrations = Registrations.of(store)

    def attach(self, data: ProvisioningData) -> Link:
        """Register a VM, or change its data; its wire is there and it is served when this returns.

        A new VM, and one that was suspended, gets the lowest free address; a VM keeps its card's address for ever.
        Raises HostError (fabric-full, fabric-not-started, namespace-refused, needs-root).
        """
        with self._locked():
            known = self._registrations.find(data.instance_id)
            if known is None or known.suspended:
                number = self._registrations.lowest_free()
                if number is None:
                    raise HostError(
                        "the fabric has no free address", name="fabric-full", hint="delete or deallocate a VM"
                    )
                registration = Registration(data, known.mac if known else draw_mac(), number)
            else:
                registration = replace(known, data=data)
            if registration != known:
                self._registrations.write(registration)
            self._bring_up(data.instance_id)
            return self._link(registration)

    def begin(self, instance_id: str) -> None:
        """Forget all reports, because a provisioning boot begins. Raises HostError (fabric-unknown-vm)."""
        with self._locked():
            self._bring_up(instance_id)
            self._ask({"do": "begin", "id": instance_id})

    def suspend(self, instance_id: str) -> None:
        """Detach a VM from its wire; its registration stays."""
        with self._locked():
            registration = self._registrations.find(instance_id)
            if registration is None or registration.suspended:
                return
            self._registrations.write(suspended(registration))
            self._bring_up()

    def detach(self, instance_id: str) -> None:
        """Remove a VM from the fabric, with its registration and its record."""
        with self._locked():
            try:
                registration = self._registrations.find(instance_id)
            except RecordDamaged:
                self._registrations.remove(instance_id)
                self._bring_up()  # its place is not known: everything without a registration is removed
                return
            if registration is not None and not registration.suspended:
                self._registrations.write(suspended(registration))
                self._bring_up()
            self._registrations.remove(instance_id)

    def connect(self, instance_id: str, port: int, timeout: float) -> socket.socket:
        """A connection to a port of the VM. Raises OSError, as socket.create_connection does."""
        registration = self._registrations.find(instance_id)
        if registration is None or registration.suspended:
            raise ConnectionError(f"{instance_id} is not attached to the fabric")
        return self._host.namespace.connect(registration.instance.address, port, timeout)

    def is_running(self) -> bool:
        """Whether the server answers."""
        return self._hello() is not None

    def ensure(self) -> None:
        """Bring back what is missing: namespace, wires, server. Raises as `attach` does."""
        with self._locked():
            self._bring_up()

    # ---- what is there, and what is missing ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._host.make_folder()
        lock = FileLock(self._host.folder / "lock")
        locks.acquire(lock, f"the fabric of {self.store.root}", deadline=LOCK, name="fabric-locked")
        try:
            yield
        finally:
            lock.release()

    def _bring_up(self, subject: str | None = None) -> None:
        """Create what the registrations need and is missing; remove what no registration needs.

        A way out that cannot be created is an error for the VM `subject`; for other VMs it is a warning.
        """
        wanted = self._registrations.active()
        if not wanted:
            self._end()
            return
        served = self._hello()
        if served is None or not self._host.namespace.is_laid:
            self._host.end_server()
            self._host.lay()
            served = {}
        # a command may have died between any two steps, so the real state is compared
        for stranger in served.keys() - {each.data.instance_id for each in wanted}:
            self._ask({"do": "detach", "id": stranger})
        self._host.sweep_wires(wanted)
        views = make_views(wanted)
        changed = [
            each for each in wanted if served.get(each.data.instance_id) != views[each.data.instance_id]["mark"]
        ]
        missing = [
            each for each in wanted if each.data.instance_id not in served or not self._host.has_wire(each.number)
        ]
        for registration in missing:
            self._host.attach_wire(registration)
        if missing or changed or any(each.data.network is not None for each in wanted):
            self._host.connect_networks(wanted)
        if self._hello() is None:
            self._start()
        for registration in missing:
            self._serve(registration, views[registration.data.instance_id])
        for registration in changed:
            if registration not in missing:
                self._ask({"do": "change", **views[registration.data.instance_id]})
        for registration in wanted:
            self._open_way_out(registration, strict=registration.data.instance_id == subject)

    def _open_way_out(self, registration: Registration, *, strict: bool) -> None:
        if not registration.data.outside:
            self._host.close_way_out(registration.number)
            return
        try:
            self._host.open_way_out(registration)
        except HostError as error:
            if strict:
                raise
            log.warning("%s has no way out: %s", registration.data.name, error.message)

    def _serve(self, registration: Registration, view: dict[str, Any]) -> None:
        self._registrations.give_record(registration.data.instance_id, *server_user())
        sockets = self._open_sockets(registration)
        try:
            self._ask({"do": "attach", **view}, sockets)
        finally:
            for each in sockets:
                each.close()

    def _open_sockets(self, registration: Registration) -> Sequence[socket.socket]:
        """New sockets of a VM's wire, for which the server has none.

        Raises HostError (fabric-address-taken) if another process keeps them longer than SOCKETS seconds.
        """
        until = time.monotonic() + SOCKETS
        while True:
            # its wire was lost while it was served: the old wire's sockets receive nothing
            self._ask({"do": "detach", "id": registration.data.instance_id})
            try:
                return self._host.open_sockets(registration)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > until:
                    name = registration.data.name
                    raise HostError(
                        f"the addresses of {name} are taken on the fabric",
                        name="fabric-address-taken",
                        hint=f"run goldsmith vm deallocate {name}, then goldsmith vm start {name}; "
                        f"{self._host.log} has the details",
                    ) from None
            # a command that died had passed sockets, which the server has not read yet
            time.sleep(0.05)

    def _start(self) -> None:
        child = self._host.start_server(self._registrations.records)
        until = time.monotonic() + START
        while self._greet() is None:
            if child.poll() is not None or time.monotonic() > until:
                process.end(child)
                raise HostError(
                    f"the fabric's server did not start: {self._last_line()}",
                    name="fabric-not-started",
                    hint=f"read {self._host.log}",
                )
            time.sleep(0.02)
        listeners = self._host.open_listeners()
        try:
            self._ask({"do": "listen"}, listeners)
        finally:
            for each in listeners:
                each.close()

    def _last_line(self) -> str:
        try:
            lines = self._host.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it printed nothing"

    def _end(self) -> None:
        """End the server and remove the fabric, because no VM needs it."""
        if not self._host.namespace.path.exists():
            return
        with contextlib.suppress(OSError, ValueError):
            control.ask(self._host.control, {"do": "end"})
        self._host.remove()

    def _hello(self) -> dict[str, str] | None:
        """The VMs that the server serves, each with the digest of the data that it has.

        None if no server of this version answers, or if it never got sockets because its command died.
        """
        answer = self._greet()
        if answer is None or not answer.get("listening"):
            return None
        return {str(each): str(mark) for each, mark in answer["attached"].items()}

    def _greet(self) -> dict[str, Any] | None:
        try:
            answer = control.ask(self._host.control, {"do": "hello"})
        except (OSError, ValueError):
            return None
        return answer if answer.get("protocol") == control.PROTOCOL else None

    def _ask(self, question: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> dict[str, Any]:
        try:
            answer = control.ask(self._host.control, question, sockets)
        except (OSError, ValueError) as error:
            raise HostError(
                f"the fabric's server does not answer: {error}",
                name="fabric-not-started",
                hint=f"run the command again; read {self._host.log}",
            ) from None
        if "error" in answer:
            raise GoldsmithError(
                f"the fabric's server refused {question['do']}: {answer['error']}",
                name="fabric-refused",
                hint=f"read {self._host.log}",
            )
        return answer

    def _link(self, registration: Registration) -> Link:
        wire = self._host.namespace.name_wire(registration.number)
        return Link(wire.bridge, registration.mac, registration.instance.address, registration.instance)


def ensure(store: Store) -> Service:
    """A store's fabric, with everything that its registrations want. Raises as `Service.attach` does."""
    service = Service(store)
    service.ensure()
    return service


def find(store: Store) -> Service | None:
    """A store's fabric if a VM is registered there; starts nothing."""
    return None if Registrations.of(store).is_empty() else Service(store)


def read_status(store: Store, instance_id: str) -> AgentStatus:
    """The state that the VM's agent reported. Starts nothing."""
    return Registrations.of(store).status(instance_id)


def read_link(store: Store, instance_id: str) -> Link | None:
    """Where a VM is attached, or will be attached again; None if it is not registered. Raises RecordDamaged."""
    registration = Registrations.of(store).find(instance_id)
    return Service(store)._link(registration) if registration is not None else None


def log_files(store: Store, instance_id: str) -> dict[str, Path]:
    """The VM's logs on the fabric by their names, as far as they exist."""
    return Registrations.of(store).logs(instance_id)


def read_exchanges(store: Store, instance_id: str) -> list[Exchange]:
    """The newest exchanges of the VM with the fabric, oldest first."""
    return Registrations.of(store).exchanges(instance_id)
