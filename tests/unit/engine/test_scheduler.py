"""Several builds at once: order, budget, failures."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from pipeline.base.errors import BuildError, Interrupted
from pipeline.engine.scheduler import OVERHEAD, Budget, Task, run_tasks

GIB = 1 << 30


def task(name: str, *parents: str, cpus: int = 1, memory: int = GIB) -> Task:
    return Task(name, parents, cpus, memory)


class Watch:
    """Notes who ran with whom. A task of `together` goes on when `count` of them have begun."""

    def __init__(self, *bad: str, together: str = "", count: int = 0) -> None:
        self._meet, self._count = together, count
        self._met = threading.Condition()
        self._begun = 0
        self.order: list[str] = []
        self.together: set[frozenset[str]] = set()
        self._now: set[str] = set()
        self._lock = threading.Lock()
        self._bad = bad

    def __call__(self, image: Task, _stop: threading.Event) -> None:
        with self._lock:
            self.order.append(image.name)
            self._now.add(image.name)
            self.together.add(frozenset(self._now))
        if image.name in self._meet:
            with self._met:
                self._begun += 1
                self._met.notify_all()
                assert self._met.wait_for(lambda: self._begun >= self._count, 60), "they did not run together"
        time.sleep(0.05)  # one too many may come
        with self._lock:
            self._now.discard(image.name)
        if image.name in self._bad:
            raise BuildError("no", name="step-failed")


WIDE = Budget(8, 8, 64 * GIB)


def test_parents_come_first_and_children_run_together() -> None:
    watch = Watch(together="bc", count=2)
    assert run_tasks([task("a"), task("b", "a"), task("c", "a")], WIDE, watch) == {}
    assert watch.order[0] == "a"
    assert frozenset("bc") in watch.together
    assert not any({"a", "b"} <= group for group in watch.together)


def test_a_parent_that_is_not_built_here_is_no_reason_to_wait() -> None:
    watch = Watch()
    assert run_tasks([task("b", "a")], WIDE, watch) == {}
    assert watch.order == ["b"]


@pytest.mark.parametrize(
    ("budget", "most"),
    [
        (Budget(2, 8, 64 * GIB), 2),
        (Budget(8, 3, 64 * GIB), 3),
        (Budget(8, 8, 2 * (GIB + OVERHEAD)), 2),
        (Budget(8, 1, GIB // 2), 1),
    ],
)
def test_the_budget_holds(budget: Budget, most: int) -> None:
    watch = Watch(together="abcdef", count=most)
    assert run_tasks([task(name) for name in "abcdef"], budget, watch) == {}
    assert max(map(len, watch.together)) == most


@pytest.mark.parametrize("budget", [WIDE, replace(WIDE, jobs=1)])
def test_children_of_the_failed_are_skipped_and_the_others_built(budget: Budget) -> None:
    watch, skipped = Watch("a"), []
    failed = run_tasks(
        [task("a"), task("b", "a"), task("c", "b"), task("d")],
        budget,
        watch,
        lambda task, parent: skipped.append((task.name, parent)),
    )
    assert {name: error.name for name, error in failed.items()} == {
        "a": "step-failed", "b": "parent-failed", "c": "parent-failed"
    }  # fmt: skip
    assert sorted(watch.order) == ["a", "d"]
    assert skipped == [("b", "a"), ("c", "b")]


def test_one_at_a_time_runs_where_signals_arrive() -> None:
    seen: list[threading.Thread] = []

    def do(_task: Task, _stop: threading.Event) -> None:
        seen.append(threading.current_thread())
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        run_tasks([task("a"), task("b")], replace(WIDE, jobs=1), do)
    assert seen == [threading.main_thread()]
