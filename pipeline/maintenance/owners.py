"""Who owns domains, access folders, networks and scratch. The sweep asks them whether they live, and no more."""

from __future__ import annotations

from typing import Protocol

from pipeline.base.runs import alive, living_runs
from pipeline.base.store import Store
from pipeline.instances.record import Instances


class Owners(Protocol):
    """All owners of one kind in a store, by the label that what they own carries."""

    def claims(self, label: str) -> bool:
        """Whether a label names an owner of this kind, alive or dead, of this store."""
        ...

    def is_alive(self, label: str) -> bool:
        """Whether the owner that a label names lives. Asked of labels that it claims only."""
        ...

    def layers_in_use(self) -> frozenset[str]:
        """Keys of the layers that the living ones stand on or make."""
        ...


class RunOwners:
    """The runs of a store. One lives while its process holds the lock of its record."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claims(self, label: str) -> bool:
        return self._store.own_run(label) is not None

    def is_alive(self, label: str) -> bool:
        run = self._store.own_run(label)
        return run is not None and alive(self._store.runs, run)

    def layers_in_use(self) -> frozenset[str]:
        return frozenset(key for run in living_runs(self._store.runs) for key in run.get("layers", ()))


class InstanceOwners:
    """The instances of a store, which own their network and their media together. They live while there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claims(self, label: str) -> bool:
        return label == self._store.instances_label

    def is_alive(self, label: str) -> bool:
        # a record that cannot be read counts: its VM may run
        return self.claims(label) and bool(Instances(self._store.instances).names())

    def layers_in_use(self) -> frozenset[str]:
        """None: an instance stands on a version of the gallery, which it leases."""
        return frozenset()


def owners_of(store: Store) -> tuple[Owners, ...]:
    """Every kind of owner in a store."""
    return (RunOwners(store), InstanceOwners(store))


def is_orphan(owners: tuple[Owners, ...], label: str) -> bool:
    """Whether a label's owner is of this store and lives no more. What nobody claims belongs to somebody else."""
    claiming = [each for each in owners if each.claims(label)]
    return bool(claiming) and not any(each.is_alive(label) for each in claiming)
