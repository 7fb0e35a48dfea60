"""The Resource Manager: requests and tasks, each with a session of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.base.store import Store
from pipeline.facade import accounts, creation, deployments, disks, groups, images, network, power
from pipeline.facade.errors import ArmError
from pipeline.facade.home import Home
from pipeline.facade.records import Records
from pipeline.facade.routing import Answer, Request, Route, Router
from pipeline.facade.session import Session
from pipeline.facade.tasks import Task, Tasks
from pipeline.facade.tokens import Tokens
from pipeline.instances.fleet import Fleet

#: Every route, in the order in which they are tried: one without a {part} before one with it.
ROUTES: tuple[Route, ...] = tuple(
    sorted(
        (
            *accounts.ROUTES,
            *groups.ROUTES,
            *network.ROUTES,
            *power.ROUTES,
            *creation.ROUTES,
            *disks.ROUTES,
            *images.ROUTES,
            *deployments.ROUTES,
        ),
        key=lambda route: route.template.count("{"),
    )
)
RUNNERS: dict[str, Callable[[Session, Task], Any]] = {
    **power.RUNNERS,
    **creation.RUNNERS,
    **disks.RUNNERS,
    **groups.RUNNERS,
    **deployments.RUNNERS,
}


class Manager:
    """Answers requests. `make_fleet` opens the VMs of the store; `can_change`: whether it may change them."""

    def __init__(self, store: Store, home: Home, make_fleet: Callable[[], Fleet], *, can_change: bool) -> None:
        self.store = store
        self.home = home
        self.tokens = Tokens(home)
        self.tasks = Tasks(home.tasks, self._run)
        self._make_fleet = make_fleet
        self._can_change = can_change
        self._router = Router(ROUTES)

    def answer(self, request: Request) -> Answer:
        """Raises ArmError, and errors of goldsmith."""
        with self.session() as session:
            return self._router.answer(session, request)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session whose connection to libvirt, if it opens one, is closed at the end."""
        fleet = self._make_fleet()
        try:
            yield Session(self.store, fleet, Records(self.home.records), self.tasks, self.tokens, self._can_change)
        finally:
            fleet.close()

    def _run(self, task: Task) -> Any:
        runner = RUNNERS.get(task.verb)
        if runner is None:
            raise ArmError(409, "OperationUnknown", f"this goldsmith does not know the operation {task.verb!r}")
        with self.session() as session:
            return runner(session, task)
