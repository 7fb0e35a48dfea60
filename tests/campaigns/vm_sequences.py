"""All verbs of `goldsmith vm` in sequences that hypothesis draws, with kills of the command and of the fabric.

After each step what is said must be true, nothing may be left over or missing, and no other VM may be touched.
The guests are those that go off by their button and do nothing else. GOLDSMITH_SEQUENCES says how many are drawn.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline.base.errors import GoldsmithError
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record
from pipeline.instances.state import Reality, power_state
from pipeline.operations.create import Wishes, begin, forget
from pipeline.operations.delete import delete
from pipeline.operations.start import start
from pipeline.operations.stop import deallocate, restart, stop
from tests.campaigns.__main__ import Page
from tests.harness import new_home, remove
from tests.vms import Vms, virsh

NAMES = ("web", "db")
#: Verbs that a whole command is killed in, after so many seconds.
KILLED = ("create", "start", "stop", "deallocate", "restart", "delete")
STEPS = 10


@dataclass
class Expected:
    """What must be true of a VM."""

    state: str  # running | stopped | deallocated
    id: str


class Sequences(RuleBasedStateMachine):
    """One sequence of steps on two VMs of one store."""

    lab: ClassVar[Vms]
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(self.lab.store)
        self.expected: dict[str, Expected] = {}

    @initialize()
    def begin_empty(self) -> None:
        assert self.lab.left() == []

    # ---- steps ---------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES))
    def create(self, name: str) -> None:
        self.seen["create"] += 1
        try:
            made = begin(self.fleet, Wishes(name, "power", "azureuser", self.lab.key.read_text().strip()))
        except GoldsmithError as error:
            assert name in self.expected and error.name == "vm-exists", error
            return
        assert name not in self.expected
        forget(self.fleet, name, made.operation)
        self.expected[name] = Expected("running", made.record.id)

    @rule(name=st.sampled_from(NAMES), verb=st.sampled_from(("start", "stop", "deallocate", "restart", "delete")))
    def act(self, name: str, verb: str) -> None:
        self.seen[verb] += 1
        there = self.expected.get(name)
        try:
            if verb == "start":
                start(self.fleet, name)
            elif verb == "stop":
                stop(self.fleet, name)
            elif verb == "deallocate":
                deallocate(self.fleet, name)
            elif verb == "restart":
                restart(self.fleet, name)
            else:
                delete(self.fleet, name, running=True)
        except GoldsmithError as error:
            wrong = {
                "start": {"running": "vm-running"},
                "stop": {"stopped": "vm-stopped", "deallocated": "vm-deallocated"},
                "restart": {"stopped": "vm-stopped", "deallocated": "vm-deallocated"},
                "deallocate": {"deallocated": "vm-deallocated"},
                "delete": {},
            }[verb]
            name_of = wrong.get(there.state) if there is not None else "vm-unknown"
            assert error.name == name_of, f"{verb} of {there}: {error.name}: {error.message}"
            return
        assert there is not None
        if verb == "delete":
            del self.expected[name]
        else:
            there.state = {"stop": "stopped", "deallocate": "deallocated"}.get(verb, "running")

    @rule(name=st.sampled_from(NAMES), verb=st.sampled_from(KILLED), after=st.floats(0.3, 2.5))
    def kill_command(self, name: str, verb: str, after: float) -> None:
        """A whole command, ended by SIGKILL at some moment: what it came to is looked at, and must hang together."""
        self.seen[f"{verb} killed"] += 1
        more = {"create": ("--image", "power", "--no-wait", "--ssh-key", str(self.lab.key)), "delete": ("--yes",)}
        child = self.lab.start("vm", verb, name, *more.get(verb, ()))
        time.sleep(after)
        child.kill()
        child.wait()
        self._learn(name, verb)

    @rule(name=st.sampled_from(NAMES))
    def end_domain(self, name: str) -> None:
        self.seen["virsh destroy"] += 1
        domain = f"goldsmith-{self.lab.store.instances_label}-{name}"
        if domain in self.lab.domains_on():
            virsh("destroy", domain)
            self.expected[name].state = "stopped"

    @rule()
    def kill_fabric(self) -> None:
        self.seen["fabric killed"] += 1
        if any(each.state != "deallocated" for each in self.expected.values()):
            self.fleet.keep_fabric()
            os.kill(self.lab.fabric_pid(), signal.SIGKILL)

    def _learn(self, name: str, verb: str) -> None:
        """What a killed command has left: a state that the verb could have led to, or the one before."""
        found = {record.name: (record, reality) for record, reality in self.fleet.survey()}
        before = self.expected.get(name)
        if name not in found:
            assert before is None or verb == "delete", f"{name} is gone after a killed {verb}"
            self.expected.pop(name, None)
            return
        record, reality = found[name]
        assert before is None or before.id == record.id, f"{name} is another one after a killed {verb}"
        assert before is not None or verb == "create"
        state = _settled(record, reality)
        self.expected[name] = Expected(state, record.id)

    # ---- what must be true ---------------------------------------------------------------------------------------

    @invariant()
    def what_is_said_is_true(self) -> None:
        found = {record.name: (record, reality) for record, reality in self.fleet.survey()}
        assert set(found) == set(self.expected)
        on = set(self.lab.domains_on())
        for name, (record, reality) in found.items():
            output = _settled(record, reality)
            assert (output, record.id) == (self.expected[name].state, self.expected[name].id), name
            running = f"goldsmith-{self.lab.store.instances_label}-{name}" in on
            assert running == (output == "running"), f"{name} is said to be {output}"
        assert len(self.lab.held("power")) == len(found), "a lease for each VM, and no other"

    def teardown(self) -> None:
        for name in NAMES:
            if self.fleet.instances.find(name) is not None:
                delete(self.fleet, name, running=True)
        self.fleet.survey()
        left = self.lab.left()
        self.fleet.connection.close()
        assert left == [], left


def _settled(record: Record, reality: Reality) -> str:
    """running, stopped or deallocated: of a guest that never reports Ready nobody waits for more."""
    state = power_state(record, reality)
    return {"starting": "running"}.get(state, state)


def run(lab: Vms, count: int) -> Counter[str]:
    """Draw and run so many sequences; how often each step was made. Raises what fails, shrunk."""
    Sequences.lab, Sequences.seen = lab, Counter()
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    bounds = settings(
        max_examples=count, stateful_step_count=STEPS, deadline=None, suppress_health_check=health, database=None
    )
    run_state_machine_as_test(Sequences, settings=bounds)
    return Sequences.seen


def make_lab() -> Vms:
    home = new_home("vm-sequences")
    lab = Vms(home / "project", home)
    lab.store.ensure()
    lab.add_power()
    return lab


def main() -> int:
    count = int(os.environ.get("GOLDSMITH_SEQUENCES", "300"))
    page, lab, began = Page("vm_sequences"), make_lab(), time.monotonic()
    failure: BaseException | None = None
    try:
        run(lab, count)
    except Exception as error:  # whatever it is, it is the result
        failure = error
    finally:
        left: list[Any] = lab.left()
        remove(lab.home)
    rows: list[dict[str, object]] = [
        {"step": step, "times": times, "ok": True} for step, times in sorted(Sequences.seen.items())
    ]
    words = f"{type(failure).__name__}: {failure}" if failure else "every statement true after every step"
    rows.append({"step": f"{count} sequences of {STEPS}", "times": "", "ok": failure is None, "what": words[:400]})
    rows.append({"step": "left over", "times": len(left), "ok": not left, "what": ", ".join(map(str, left))})
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if failure is None and not left else 1


if __name__ == "__main__":
    sys.exit(main())
