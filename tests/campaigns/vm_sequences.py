"""All verbs of `goldsmith vm` in sequences that hypothesis draws, with kills of commands, of libvirtd and the fabric.

Each batch of sequences runs on a host of its own (tests.own_host). After each step what the verbs print must be
true, nothing may be left over or missing, and a VM that no step names must run on untouched. The guests go off by
their button and do nothing else; with GOLDSMITH_IMAGE they are of that golden master, of the store that
GOLDSMITH_HOME names. GOLDSMITH_SEQUENCES says how many are drawn in this run, GOLDSMITH_HOSTS how many hosts run at a
time. With GOLDSMITH_STEPS=image every sequence generalizes, captures and reimages a VM. The page counts on: each
batch adds to it, and a run goes on where the last one ended; GOLDSMITH_FIRST is the number of its first batch, to run
a batch again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline.base.errors import GoldsmithError
from pipeline.cli.environment import locate_store
from pipeline.fabric import service
from pipeline.hypervisor.hotplug import read_disks
from pipeline.hypervisor.persistent import find_domain
from pipeline.instances.fleet import Fleet
from pipeline.instances.record import Record
from pipeline.instances.state import Reality, power_state
from pipeline.operations.attach_disk import attach, detach
from pipeline.operations.change_disk import delete_disk
from pipeline.operations.create import Wishes, begin, forget
from pipeline.operations.create_disk import DiskWishes, create_disk
from pipeline.operations.delete import delete
from pipeline.operations.find_disks import find_disk
from pipeline.operations.redeploy import redeploy
from pipeline.operations.start import start
from pipeline.operations.stop import deallocate, restart, stop
from tests import own_host
from tests.harness import ROOT, commit_id, remove
from tests.vms import PUBLIC_KEY, Vms, make_lab, virsh

NAMES = ("web", "db")
#: A VM that no step names.
BYSTANDER = "aside"
#: Verbs during which something is killed, and what each may have led to beside the state before.
KILLED: dict[str, tuple[str, ...]] = {
    "create": ("none", "running", "stopped", "deallocated"),
    "start": ("running", "stopped"),  # its slot is taken before its power
    "stop": ("stopped",),
    "deallocate": ("stopped", "deallocated"),
    "restart": ("running", "stopped"),
    "delete": ("none", "stopped"),
}
#: Verbs that press a guest's button.
BY_BUTTON = ("stop", "deallocate", "restart")
VICTIMS = ("command", "libvirtd", "fabric")
#: Disks that are attached to one of the VMs and to the other.
DISKS = ("data1", "data2")
#: What a step with a disk is, as often as it stands here.
DISK_KINDS = (*("attach", "detach") * 3, *("kill attach", "kill detach") * 2, "redeploy", "kill redeploy")
#: What an interrupted redeploy may have led to beside the state before.
REDEPLOYED = ("running", "stopped", "deallocated")
#: What a step is, as often as it stands here. A kill goes into the middle of a command.
KINDS = (
    *("create", "start", "stop", "deallocate", "restart", "delete") * 2,
    *("kill",) * 8,
    *("virsh destroy", "kill fabric", "kill libvirtd", "start", "restart"),
)
#: What the arguments of a step are drawn from, by name.
Arguments = dict[str, st.SearchStrategy[Any]]
ANY_STEP: Arguments = {
    "kind": st.sampled_from(KINDS),
    "name": st.sampled_from(NAMES),
    "verb": st.sampled_from(sorted(KILLED)),
    "victim": st.sampled_from(VICTIMS),
    "after": st.floats(0.3, 2.5),
    "down": st.floats(0.0, 0.5),
    "force": st.booleans(),
    "absent": st.sampled_from((False, False, False, True)),
}
DISK_STEP: Arguments = {
    "kind": st.sampled_from(DISK_KINDS),
    "name": st.sampled_from(NAMES),
    "disk": st.sampled_from(DISKS),
    "victim": st.sampled_from(VICTIMS),
    "after": st.floats(0.3, 2.5),
    "down": st.floats(0.0, 0.5),
}
STEPS = 10
BATCH = 10
#: Seconds for a command to end, whatever happens to it.
COMMAND = 900.0
#: Seconds for libvirt to be done with a domain.
SETTLE = 600.0
#: Seconds for a batch on a busy host.
DEADLINE = 3600.0
PAGE = ROOT / "docs/reports/campaign-vm-sequences.md"


@dataclass
class Expected:
    """What must be true of a VM."""

    state: str  # running | stopped | deallocated
    id: str
    image: str
    generalized: bool = False


class Sequences(RuleBasedStateMachine):
    """One sequence of steps on two VMs of one store."""

    lab: ClassVar[Vms]
    image: ClassVar[str] = "power"
    seen: ClassVar[Counter[str]] = Counter()
    trail: ClassVar[list[str]] = []
    #: What failed first. Hypothesis runs a failed sequence once more, which may end otherwise.
    failure: ClassVar[str] = ""
    #: Whether libvirtd may be killed: on a host of its own alone.
    own: ClassVar[bool] = False
    #: Whether the guests have a system, which takes its time to go off.
    real: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(self.lab.store)
        self.expected: dict[str, Expected] = {}
        Sequences.trail = []
        self.began = time.monotonic()

    @initialize()
    def begin_empty(self) -> None:
        self.aside = self._look_aside()
        assert left(self.lab) == []
        #: The VM that each disk is attached to.
        self.owners: dict[str, str | None] = dict.fromkeys(DISKS)
        for disk in DISKS:
            create_disk(self.fleet, DiskWishes(disk, 1 << 20))

    def _note(self, what: str, *more: str) -> None:
        """A step begins: it is counted, and kept for whoever reads a failure."""
        self.seen[what] += 1
        self.trail.append(" ".join((what, *more)))
        print(f"{time.monotonic() - self.began:6.1f} {self.trail[-1]}", flush=True)

    # ---- steps ---------------------------------------------------------------------------------------------------

    @rule(**ANY_STEP)
    def step(
        self, kind: str, name: str, verb: str, victim: str, after: float, down: float, force: bool, absent: bool
    ) -> None:
        """One step. A VM that is not there is created first, unless `absent`: its verbs would all be refused."""
        if name not in self.expected and not absent and kind not in ("create", "kill fabric", "kill libvirtd"):
            kind, verb = ("kill", "create") if kind == "kill" else ("create", verb)
        with self._kept():
            self._do(kind, name, verb, victim, after, down, force)

    @rule(**DISK_STEP)
    def step_with_disk(self, kind: str, name: str, disk: str, victim: str, after: float, down: float) -> None:
        """A step with a disk, on a VM that is created first if it is not there."""
        with self._kept():
            if name not in self.expected:
                self.create(name)
            elif kind.startswith("kill "):
                self.kill_with_disk(kind.removeprefix("kill "), name, disk, victim, after, down)
            elif kind == "redeploy":
                self.redeploy(name)
            else:
                self.change_disk(kind, name, disk)

    def redeploy(self, name: str) -> None:
        self._note("redeploy", name)
        try:
            redeploy(self.fleet, name, force=True)
        except GoldsmithError as error:
            if self.expected[name].generalized:
                assert error.name == "vm-generalized", f"{error.name}: {error.message}"
                return
            assert error.name == "vm-incomplete" and self._lacks_disk(name), f"{error.name}: {error.message}"
            return
        self.expected[name].state = "running"

    def _lacks_disk(self, name: str) -> bool:
        """Whether the creation of a VM was killed between its record and its disk: it can only be deleted."""
        return self.fleet.instances.get(name).disk is None

    def change_disk(self, verb: str, name: str, disk: str) -> None:
        self._note(f"{verb} disk", name, disk)
        owner = self.owners[disk]
        try:
            if verb == "attach":
                attach(self.fleet, name, disk)
            else:
                detach(self.fleet, name, disk)
        except GoldsmithError as error:
            if error.name == "vm-incomplete":
                assert self._lacks_disk(name), "its creation was not killed before it had a disk"
                return
            wrong = {"attach": "disk-leased" if owner else None, "detach": "disk-not-attached"}[verb]
            assert error.name == wrong and (verb == "attach" or owner != name), (
                f"{verb}: {error.name}: {error.message}"
            )
            return
        assert owner == (None if verb == "attach" else name)
        self.owners[disk] = name if verb == "attach" else None

    def kill_with_disk(self, verb: str, name: str, disk: str, victim: str, after: float, down: float) -> None:
        """A whole command of disks, and SIGKILL to it, to libvirtd or to the fabric at some moment of it."""
        if victim == "libvirtd" and not self.own:
            victim = "command"
        self._note(f"kill {victim} in {verb}", name, disk, f"after {after:.2f} s")
        words = ("redeploy", name, "--force") if verb == "redeploy" else ("disk", verb, name, disk)
        self._kill_during(self.lab.start("vm", *words), victim, after, down)
        settle(self._domain(name))
        if verb == "redeploy":
            self._learn(name, verb)
            return
        owner = find_disk(self.fleet, disk).vm
        before = self.owners[disk]
        changed = {"attach": name if before is None else before, "detach": None if before == name else before}[verb]
        assert owner in (before, changed), f"{disk} was of {before}, and is of {owner} after a killed {verb}"
        self.owners[disk] = owner

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the first failure with the steps that led to it."""
        try:
            yield
        except Exception:
            Sequences.failure = self.failure or f"{' | '.join(self.trail)}\n{traceback.format_exc()}"
            raise

    def _do(self, kind: str, name: str, verb: str, victim: str, after: float, down: float, force: bool) -> None:
        if kind == "create":
            self.create(name)
        elif kind == "kill":
            self.kill_meanwhile(name, verb, victim, after, down)
        elif kind == "kill fabric":
            self.kill_fabric()
        elif kind == "kill libvirtd":
            self.kill_libvirtd(down)
        elif kind == "virsh destroy":
            self.end_domain(name)
        else:
            self.act(name, kind, force)

    def create(self, name: str) -> None:
        self._note("create", name)
        try:
            made = begin(self.fleet, Wishes(name, self.image, "azureuser", PUBLIC_KEY))
        except GoldsmithError as error:
            assert name in self.expected and error.name == "vm-exists", error
            return
        assert name not in self.expected
        forget(self.fleet, name, made.operation)
        self.expected[name] = Expected("running", made.record.id, self.image)

    def act(self, name: str, verb: str, force: bool) -> None:
        self._note(verb, name, "--force" if force else "")
        there = self.expected.get(name)
        try:
            if verb == "start":
                start(self.fleet, name)
            elif verb == "stop":
                stop(self.fleet, name, force=force)
            elif verb == "deallocate":
                deallocate(self.fleet, name, force=force)
            elif verb == "restart":
                restart(self.fleet, name, force=force)
            else:
                delete(self.fleet, name, running=True)
        except GoldsmithError as error:
            if self.real and error.name == "guest-shutdown-timeout" and there is not None:
                # true on a host that three guests share, and it goes off later: the next step needs to know when
                virsh("destroy", self._domain(name))
                there.state = "stopped"
                return
            if error.name == "vm-incomplete" and verb == "start" and there is not None:
                assert self._lacks_disk(name), "its creation was not killed before it had a disk"
                return
            trapped = "vm-generalized" if there is not None and there.generalized else ""
            wrong = {
                "start": {"running": "vm-running", "stopped": trapped, "deallocated": trapped},
                "stop": {"stopped": "vm-stopped", "deallocated": "vm-deallocated"},
                "restart": {"running": trapped, "stopped": "vm-stopped", "deallocated": "vm-deallocated"},
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

    def kill_meanwhile(self, name: str, verb: str, victim: str, after: float, down: float) -> None:
        """A whole command, and SIGKILL to it, to libvirtd or to the fabric at some moment of it."""
        if victim == "libvirtd" and not self.own:
            victim = "command"
        self._note(f"kill {victim} in {verb}", name, f"after {after:.2f} s")
        more = {
            "create": ("--image", self.image, "--no-wait", "--ssh-key", str(self.lab.key)),
            "delete": ("--yes",),
        }
        self._kill_during(self.lab.start("vm", verb, name, *more.get(verb, ())), victim, after, down)
        settle(self._domain(name))
        if self.real and verb in BY_BUTTON and self._domain(name) in self.lab.domains_on():
            # its button may have been pressed, and then it goes off at a time of its own
            virsh("destroy", self._domain(name))
        self._learn(name, verb)

    def _kill_during(
        self, child: subprocess.Popen[str], victim: str, after: float, down: float, *, waits: bool = False
    ) -> None:
        """SIGKILL to the victim while a command runs. One that `waits` for its guest is killed itself then."""
        time.sleep(after)
        if victim == "command":
            child.kill()
        elif victim == "libvirtd":
            self._kill_libvirtd(down)
        else:
            self._kill_fabric()
        if waits and victim != "command":
            time.sleep(after)
            child.kill()
        output, _ = child.communicate(timeout=COMMAND)
        assert "Traceback" not in output, output

    def end_domain(self, name: str) -> None:
        self._note("virsh destroy", name)
        if self._domain(name) in self.lab.domains_on():
            virsh("destroy", self._domain(name))
            self.expected[name].state = "stopped"

    def kill_fabric(self) -> None:
        self._note("kill fabric")
        self.fleet.keep_fabric()
        self._kill_fabric()

    def kill_libvirtd(self, down: float) -> None:
        if not self.own:
            return
        self._note("kill libvirtd")
        self._kill_libvirtd(down, look=True)

    def _kill_fabric(self) -> None:
        try:
            os.kill(self.lab.fabric_pid(), 9)
        except (OSError, ValueError, KeyError):
            return  # it is being started just now

    def _kill_libvirtd(self, down: float, *, look: bool = False) -> None:
        own_host.kill_libvirtd()
        self.fleet.connection.close()
        self.fleet = Fleet(self.lab.store)
        if look:
            states = {power_state(record, reality) for record, reality in self.fleet.survey()}
            assert states == {"unknown"}, states
        time.sleep(down)
        own_host.start_libvirtd()
        self.fleet = Fleet(self.lab.store)

    def _domain(self, name: str) -> str:
        return f"goldsmith-{self.lab.store.instances_label}-{name}"

    def _survey(self) -> dict[str, tuple[Record, Reality]]:
        found = {record.name: (record, reality) for record, reality in self.fleet.survey()}
        assert found.pop(BYSTANDER, None) is not None
        return found

    def _learn(self, name: str, verb: str) -> None:
        """What a killed command has left: the state before, or one that the verb leads to."""
        found = self._survey()
        before = self.expected.get(name)
        was = before.state if before is not None else "none"
        state = settled_state(*found[name]) if name in found else "none"
        ends = REDEPLOYED if verb == "redeploy" else KILLED[verb]
        reachable = {was} if before is None and verb != "create" else {was, *ends}
        assert state in reachable, f"{name} was {was}, and is {state} after a killed {verb}"
        if name not in found:
            self.expected.pop(name, None)
            return
        record, _ = found[name]
        assert before is None or before.id == record.id, f"{name} is another one after a killed {verb}"
        self.expected[name] = replace(before or Expected(state, record.id, self.image), state=state)

    # ---- what must be true ---------------------------------------------------------------------------------------

    @invariant()
    def reported_states_are_true(self) -> None:
        with self._kept():
            self._look()

    def _look(self) -> None:
        found = self._survey()
        assert set(found) == set(self.expected)
        # disks of a VM that was deleted are free
        self.owners = {disk: owner if owner in found else None for disk, owner in self.owners.items()}
        on = set(self.lab.domains_on())
        for name, (record, reality) in found.items():
            output = settled_state(record, reality)
            assert (output, record.id) == (self.expected[name].state, self.expected[name].id), name
            running = self._domain(name) in on
            assert running == (output == "running"), f"{name} is said to be {output}"
            assert record.operation is None, record.operation
            assert record.generalized == self.expected[name].generalized, name
            assert record.image == self.expected[name].image, name
            self._look_at_disks(record, running)
        leased = Counter([self.image, *(record.image for record, _ in found.values())])
        held = {image: len(self.lab.held(image)) for image in self.fleet.gallery.names()}
        assert {image: count for image, count in held.items() if count} == leased, "a lease for each VM, and no other"
        assert self._look_aside() == self.aside

    def _look_at_disks(self, record: Record, running: bool) -> None:
        """Each disk is leased by its VM, is in its record, and in its machine where that runs."""
        for disk, owner in self.owners.items():
            assert find_disk(self.fleet, disk).vm == owner, f"{disk} is leased by another than {owner}"
        attached = {disk for disk, owner in self.owners.items() if owner == record.name}
        assert {each.disk for each in record.data_disks} == attached
        if running:
            domain = find_domain(self.fleet.connection, record.id)
            assert domain is not None
            present = {path.parent.name for path in read_disks(domain)}
            assert present == {record.name, *attached}, f"the machine of {record.name} has {present}"

    def _look_aside(self) -> tuple[str, str, str]:
        """The bystander: its id, its machine's process and its address."""
        record = self.fleet.instances.get(BYSTANDER)
        link = service.read_link(self.lab.store, record.id)
        assert link is not None
        pid = Path(f"/run/libvirt/qemu/{self._domain(BYSTANDER)}.pid").read_text()
        assert Path(f"/proc/{pid}").exists(), "the machine of the bystander has ended"
        return record.id, pid, link.address

    def teardown(self) -> None:
        for name in NAMES:
            if self.fleet.instances.find(name) is not None:
                delete(self.fleet, name, running=True)
        self.fleet.survey()
        for disk in DISKS:
            delete_disk(self.fleet, disk)
        self.fleet.connection.close()
        assert left(self.lab) == []
        self.seen["sequences" if len(self.trail) >= STEPS else "shorter sequences"] += 1


def left(lab: Vms) -> list[str]:
    """What is there of VMs other than the bystander."""
    found = [each for each in lab.left() if BYSTANDER not in each]
    return [each for each in found if each not in (f"/run/goldsmith/{lab.store.instances_label}", _namespace(lab))]


def _namespace(lab: Vms) -> str:
    return str(lab.store.instances_label)


def settle(domain: str) -> None:
    """Wait until libvirt is done with what a killed command had asked for: it goes on without its caller.

    A machine that is being started is not on yet, and is on a moment later. What the guest's memory statistics need
    is libvirt's own lock on the domain, which it has until it is done.
    """
    until = time.monotonic() + SETTLE
    while True:
        argv = ["virsh", "-q", "-c", "qemu:///system", "dommemstat", domain]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0 or "state change lock" not in done.stderr:
            return
        assert time.monotonic() < until, done.stderr


def settled_state(record: Record, reality: Reality) -> str:
    """running, stopped or deallocated: of a guest that never reports Ready nobody waits for more."""
    state = power_state(record, reality)
    return {"starting": "running"}.get(state, state)


def run(
    lab: Vms, count: int, *, number: int = 0, own: bool = False, machine: type[Sequences] = Sequences
) -> Counter[str]:
    """Draw and run so many sequences; how often each step was made. Raises what fails.

    `number` is what they are drawn from: the same gives the same sequences. `own`: on a host of its own. `machine`:
    with more kinds of steps.
    """
    Sequences.lab, Sequences.seen, Sequences.own = lab, Counter(), own
    fleet = Fleet(lab.store)
    made = begin(fleet, Wishes(BYSTANDER, Sequences.image, "azureuser", PUBLIC_KEY))
    forget(fleet, BYSTANDER, made.operation)
    bounds = settings(
        max_examples=count,
        stateful_step_count=STEPS + 1,  # its beginning is a step too
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        database=None,
        phases=[Phase.generate],
        print_blob=False,
    )
    try:
        run_state_machine_as_test(seed(number)(machine), settings=bounds)
    finally:
        fleet = Fleet(lab.store)
        delete(fleet, BYSTANDER, running=True)
        fleet.connection.close()
    assert lab.left() == [], "once the last VM is deleted"
    return Sequences.seen


# ---- a batch, on a host of its own -------------------------------------------------------------------------------


def run_batch(number: int, count: int, image: str) -> int:
    """Run a batch and print what came of it as JSON in the last line."""
    # it stands on this module
    from tests.campaigns.vm_image_steps import ImageSequences, RoundTrips, ToyLab

    lab: Vms = make_lab("vm-sequences") if image else ToyLab.make("vm-sequences")
    failure = ""
    try:
        if image:
            words = [
                "cp",
                "-a",
                "--sparse=always",
                str(locate_store().gallery / image),
                str(lab.store.gallery / image),
            ]
            subprocess.run(words, check=True)
            Sequences.image, Sequences.real = image, True
            run(lab, count, number=number, own=True)
        else:
            Sequences.image = ToyLab.DOWN
            machine = RoundTrips if drawn_steps() == "image" else ImageSequences
            run(lab, count, number=number, own=True, machine=machine)
    except Exception:  # whatever it is, it is the result
        failure = Sequences.failure or f"{' | '.join(Sequences.trail)}\n{traceback.format_exc()}"
    finally:
        remove(lab.home)
    print(failure)
    print(json.dumps({"seen": Sequences.seen, "failure": failure}))
    return 0


def drawn_steps() -> str:
    """What GOLDSMITH_STEPS asks for: `image`, or nothing."""
    steps = os.environ.get("GOLDSMITH_STEPS", "")
    if steps not in ("", "image"):
        sys.exit(f"GOLDSMITH_STEPS={steps} is not known; it is `image` or absent")
    if steps and os.environ.get("GOLDSMITH_IMAGE"):
        sys.exit("GOLDSMITH_STEPS=image needs the stub guests: GOLDSMITH_IMAGE must be absent")
    return steps


# ---- the page ----------------------------------------------------------------------------------------------------


class SequencesPage:
    """How many sequences have been run, and how often each step was made; each batch adds to it."""

    def __init__(self) -> None:
        text = PAGE.read_text() if PAGE.exists() else ""
        rows = re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \|$", text, re.M)
        #: Of the stub guests and of real ones.
        self.counts = [Counter({step: int(found[column]) for step, *found in rows}) for column in (0, 1)]
        self.failures = re.findall(r"^- (.+)$", text, re.M)
        self._lock = threading.Lock()

    def add(self, seen: Counter[str], failure: str, *, real: bool) -> None:
        with self._lock:
            self.counts[real] += seen
            if failure:
                self.failures.append(failure)
            self._write()

    def _write(self) -> None:
        lines = ["# Campaign: vm-sequences", ""]
        lines += [
            f"Last added to at {commit_id()}; {os.cpu_count()} processors. Sequences of {STEPS} steps on two VMs, a",
            "third one beside them, each batch on a host of its own. After every step: each status true, each VM",
            "leased, no operation left in a record, the third VM untouched; after every sequence: nothing left.",
            "",
            "| step | stub guests | real guests |",
            "|---|---|---|",
        ]
        steps = sorted({*self.counts[0], *self.counts[1]}, key=lambda step: (step != "sequences", step))
        lines += [f"| {step} | {self.counts[0][step]} | {self.counts[1][step]} |" for step in steps]
        lines += ["", f"{len(self.failures)} failures" + (":" if self.failures else "."), ""]
        lines += [f"- {each}" for each in self.failures]
        PAGE.write_text("\n".join(lines).rstrip() + "\n")


def main() -> int:
    if sys.argv[1:2] == ["--batch"]:
        # as a program this module has a second copy of its classes, on which no other module stands
        from tests.campaigns import vm_sequences

        return vm_sequences.run_batch(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    drawn_steps()
    image = os.environ.get("GOLDSMITH_IMAGE", "")
    wanted, hosts = int(os.environ.get("GOLDSMITH_SEQUENCES", "300")), int(os.environ.get("GOLDSMITH_HOSTS", "2"))
    page, failed = SequencesPage(), 0
    done = int(os.environ.get("GOLDSMITH_FIRST", page.counts[bool(image)]["sequences"]))

    def batch(number: int, count: int) -> tuple[Counter[str], str]:
        words = [sys.executable, "-m", "tests.campaigns.vm_sequences", "--batch", str(number), str(count), image]
        printed = own_host.run(words, deadline=DEADLINE).stdout
        try:
            found = next(json.loads(line) for line in reversed(printed.splitlines()) if line.startswith('{"seen"'))
        except StopIteration:
            return Counter(), f"batch {number} ended without a result: {printed[-2000:]}"
        return Counter(found["seen"]), found["failure"]

    with ThreadPoolExecutor(hosts) as pool:
        ends = range(done, done + wanted, BATCH)
        batches = {pool.submit(batch, first, min(BATCH, done + wanted - first)): first for first in ends}
        for each in as_completed(batches):
            seen, failure = each.result()
            print(f"batch {batches[each]}: {seen['sequences']} sequences", failure, flush=True)
            brief = f"batch {batches[each]}: {failure.strip().splitlines()[-1][:300]}" if failure else ""
            page.add(seen, brief, real=bool(image))
            failed += bool(failure)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
