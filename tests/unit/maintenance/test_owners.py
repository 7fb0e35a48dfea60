"""The sweep asks an owner whether it lives; what it owns is gone only when the owner is of this store and dead."""

from __future__ import annotations

from pathlib import Path

from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.maintenance.owners import Owners, RunOwners, is_orphan, owners_of


class _Instances:
    """A kind of owner that does not exist yet: machines, whose labels begin with i-."""

    def claims(self, label: str) -> bool:
        return label.startswith("i-")

    def is_alive(self, label: str) -> bool:
        return label == "i-lives"

    def layers_in_use(self) -> frozenset[str]:
        return frozenset(["below-a-machine"])


def test_a_run_lives_while_its_lock_is_held(tmp_path: Path) -> None:
    store = Store(tmp_path).ensure()
    run = Run.start(store.runs, "web", "goldsmith build web")
    run.note(layers=["a", "b"])
    owners = owners_of(store)[0]
    assert isinstance(owners, RunOwners)
    label = store.label(run.id)
    assert owners.claims(label) and owners.is_alive(label) and owners.layers_in_use() == {"a", "b"}
    assert not is_orphan((owners,), label)
    run.finish("done")
    assert is_orphan((owners,), label) and owners.layers_in_use() == frozenset()
    # another store's run, and what no run is called
    assert not is_orphan((owners,), Store(tmp_path / "other").label(run.id))
    assert not is_orphan((owners,), "somebody")


def test_the_record_names_its_host(tmp_path: Path) -> None:
    import socket

    run = Run.start(tmp_path, "web", "goldsmith build web")
    assert run.record["host"] == socket.gethostname()


def test_the_instances_of_a_store_own_their_network_together(tmp_path: Path) -> None:
    store = Store(tmp_path).ensure()
    label = store.instances_label
    assert is_orphan(owners_of(store), label)  # nobody is left: the sweep may take it
    (store.instances / "web").mkdir()
    assert not is_orphan(owners_of(store), label)
    assert not is_orphan(owners_of(store), Store(tmp_path / "other").instances_label)


def test_another_kind_of_owner_answers_for_its_own(tmp_path: Path) -> None:
    owners: tuple[Owners, ...] = (RunOwners(Store(tmp_path)), _Instances())
    assert not is_orphan(owners, "i-lives")
    assert is_orphan(owners, "i-died")
