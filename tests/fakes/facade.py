"""A facade for tests: a store with VMs that never had a disk, on libvirt's test driver, and clients of it."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.store import Store
from pipeline.facade.server import Facade, User
from pipeline.instances.fleet import Fleet
from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.disks import MIB, add_master
from tests.fakes.libvirt_host import open_host
from tests.unit.instances.test_record import record

DONE = "2026-11-26T08:05:00Z"
VERSION = "api-version=2024-07-01"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/goldsmith"
MACHINES = f"{GROUP}/providers/Microsoft.Compute/virtualMachines"


def fill(store: Store) -> Fleet:
    """A master with its golden version, and three VMs: stopped, deallocated, generalized. None needs the fabric."""
    fleet = Fleet(store, open_host)
    raw = store.tmp / "small.raw"
    with raw.open("wb") as file:
        file.truncate(MIB)
    version = add_master(fleet.gallery, "small", raw)
    common: dict[str, Any] = {"image": "small", "version": version.version, "generation": 1, "provisioned": DONE}
    for name, more in (("off", {}), ("idle", {"allocated": False}), ("done", {"generalized": True})):
        fleet.instances.add(record(name, **common, **more))
    return fleet


@dataclass
class Client:
    """Plain HTTP requests to a facade, with a token."""

    facade: Facade
    token: str | None = None

    def sign_in(self) -> Client:
        answer = self.ask("POST", f"/{self.tenant}/oauth2/v2.0/token", form=self.credentials())
        assert answer.status == 200, answer.body
        self.token = answer.body["access_token"]
        return self

    @property
    def tenant(self) -> str:
        return self.facade.home.client().tenant

    def credentials(self, **changes: str) -> dict[str, str]:
        home = self.facade.home
        known = {"client_id": home.client().client, "client_secret": home.secret() or ""}
        return {"grant_type": "client_credentials", "scope": "x/.default", **known, **changes}

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        context = ssl.create_default_context(cafile=str(self.facade.home.certificate))
        connection = http.client.HTTPSConnection("localhost", self.facade.port, timeout=60, context=context)
        sent = json.dumps(body).encode() if isinstance(body, Mapping) else body
        if form is not None:
            sent = urlencode(form).encode()
        fields = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        try:
            connection.request(method, path, sent, {**fields, **(headers or {})})
            response = connection.getresponse()
            data = response.read()
            return Answer(response.status, _parse(data), dict(response.getheaders()), data)
        finally:
            connection.close()


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]
    data: bytes


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


@contextmanager
def serving(root: Path, *, can_change: bool = True, user: User | None = None) -> Iterator[Client]:
    """A facade of a filled store, and a client that has signed in. `user`: as `Facade` has it."""
    store = Store(root).ensure()
    if not (root / "instances" / "off").exists():
        fill(store)
    facade = Facade(store, 0, lambda: Fleet(store, open_host), can_change=can_change, user=user)
    with facade.serving():
        yield Client(facade).sign_in()
