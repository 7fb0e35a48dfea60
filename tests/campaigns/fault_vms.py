"""Faults of VMs for tests/campaigns/faults.py, on a host of its own, with a stub guest that goes off by its button.

The store lies on a file system of its own here too; libvirtd, virtlogd, the fabric and the machine may end at the
moments of a command. `python -m tests.campaigns.fault_vms SECONDS CASE...` runs there and prints a row a line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import own_host
from tests.campaigns import fault_injection as injection
from tests.campaigns.__main__ import Row
from tests.campaigns.fault_bench import FILE_SYSTEMS, Bench, Ended, Verb
from tests.campaigns.fault_table import Case, damage, read_table
from tests.harness import commit_id, new_home, remove, wait_for
from tests.processes import other_processes
from tests.vms import PUBLIC_KEY, Vms, virsh

#: A VM that no row names, and where on its disk its data are.
KEEP, PLACE = "keep", "768k"
#: Bytes of the file system: goldsmith wants room for whole disks, which stay sparse here.
SIZE = 8 << 30
KEY = ("--ssh-key", "{root}/key.pub")
CREATE = ("vm", "create", "web", "--image", "power", "--no-wait", *KEY)


def _state(bench: Bench) -> str:
    assert isinstance(bench, VmBench)
    return bench.state()


def _is(*states: str) -> Callable[[Bench], bool]:
    return lambda bench: _state(bench) in states


def _attached(bench: Bench) -> bool:
    assert isinstance(bench, VmBench)
    return any(each["name"] == "data1" for each in bench.disks())


ON = ("starting", "running")
#: Each verb's command, its end; by name the state that it begins with, and those that it may go through.
VERBS: Mapping[str, Verb] = {
    "create": Verb(CREATE, _is(*ON)),
    "start": Verb(("vm", "start", "web"), _is(*ON)),
    "stop": Verb(("vm", "stop", "web"), _is("stopped")),
    "deallocate": Verb(("vm", "deallocate", "web"), _is("deallocated")),
    "delete": Verb(("vm", "delete", "web", "--yes"), _is("none")),
    "attach": Verb(("vm", "disk", "attach-new", "web", "--size", "1GiB", "--name", "data1"), _attached),
}
BEGIN = {"create": "none", "start": "stopped", "stop": "on", "deallocate": "on", "delete": "on", "attach": "stopped"}
BETWEEN = {
    "create": ("none", "stopped", "deallocated", *ON),
    "start": ("stopped", *ON),
    "stop": ("stopped", *ON),
    "deallocate": ("stopped", "deallocated", *ON),
    "delete": ("none", "stopped", "deallocated", *ON),
    "attach": ("stopped",),
}


class VmBench(Bench):
    """A store with the master `power` and the VM `keep`, whose disk has data that nobody may lose."""

    def __init__(self, beside: Path) -> None:
        super().__init__(beside, "ext4")
        self.golden = ""

    @property
    def lab(self) -> Vms:
        return Vms(self.root / "project", self.store.root)

    def make(self) -> None:
        argv, _, _ = FILE_SYSTEMS[self.kind]
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run([*argv, self.image], check=True)
        self.mount()
        self.root.chmod(0o755)
        (self.root / "tmp").mkdir()
        (self.root / "key.pub").write_text(f"{PUBLIC_KEY}\n")
        self.store.ensure()
        self.lab.add_power()
        self.golden = self._digest()
        self.must("vm", "create", KEEP, "--image", "power", "--no-wait", *KEY)
        self.must("vm", "deallocate", KEEP)
        self._io(f"write -P 171 {PLACE} 64k")

    def _digest(self) -> str:
        return hashlib.sha256(self.gallery.get("power").disk.read_bytes()).hexdigest()

    def _io(self, command: str) -> subprocess.CompletedProcess[str]:
        disk = next(self.store.instances.glob(f"{KEEP}/*.qcow2"))
        argv = ["qemu-io", "-f", "qcow2", "-c", command, str(disk)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def list(self) -> list[dict[str, object]]:
        ended = self.run("vm", "list", "--json")
        assert ended.code == 0, f"vm list: {ended.how}: {ended.output}"
        found: list[dict[str, object]] = json.loads(ended.output[ended.output.index("[") :])
        return found

    def state(self) -> str:
        return next((str(each["powerState"]) for each in self.list() if each["name"] == "web"), "none")

    def disks(self) -> list[dict[str, object]]:
        profile = next((each["storageProfile"] for each in self.list() if each["name"] == "web"), {})
        assert isinstance(profile, dict)
        return list(profile.get("dataDisks", ()))

    def begin_with(self, state: str) -> None:
        if state == "none":
            return
        self.must(*CREATE)
        if state == "stopped":
            self.must("vm", "stop", "web")

    def lost(self) -> list[str]:
        """What of the master and of the VM that nobody names is lost."""
        found = [] if self._digest() == self.golden else ["the master has changed"]
        read = self._io(f"read -P 171 {PLACE} 64k")
        if read.returncode or "failed" in read.stdout:
            found.append(f"the data of {KEEP} are lost: {read.stdout}{read.stderr}")
        if [each["powerState"] for each in self.list() if each["name"] == KEEP] != ["deallocated"]:
            found.append(f"{KEEP} is not as it was")
        return found

    def left_of_vm(self) -> list[str]:
        found = [each for each in self.lab.left() if KEEP not in each]
        label = str(self.store.instances_label)
        found = [each for each in found if each not in (f"/run/goldsmith/{label}", label)]
        found += [str(path) for path in self.store.disks.glob("[!.]*")]
        lines = (each.line for each in other_processes() if "qemu-system" in each.line)
        return found + [f"process {line[:80]}" for line in lines if str(self.store.root) in line]


# ---- one case ----------------------------------------------------------------------------------------------------


def run_case(bench: VmBench, case: Case) -> Row:
    began = time.monotonic()
    verb, wrong = VERBS[case.verb], []
    bench.begin_with(BEGIN[case.verb])
    moment = None
    if case.group:
        found = _moments(bench, case)
        if case.number >= len(found):
            _delete(bench)
            return {}
        moment = found[case.number]
    ended = _inject(bench, case, verb, moment)
    how = "interrupted" if ended.code in (129, 130, 143) else ended.how
    if how not in case.ends:
        wrong.append(f"it ended with {how}: {ended.output.strip()[-300:]}")
    state = bench.state()
    if case.again:
        if state not in BETWEEN[case.verb] and not verb.is_done(bench):
            wrong.append(f"it is {state} after a {case.verb}")
        wrong += _again(bench, case, verb, state)
    wrong += bench.lost()
    wrong += _delete(bench)
    row: Row = {"case": f"vm {case.name}", "expected": " or ".join(case.ends), "ended": how[:80]}
    row |= {"s": round(time.monotonic() - began, 1), "commit": commit_id()}
    return {**row, "why": "; ".join(wrong)[:600], "ok": not wrong}


def _again(bench: VmBench, case: Case, verb: Verb, state: str) -> list[str]:
    """The same verb without the fault, from where it stands."""
    if verb.is_done(bench):
        return []
    if case.verb == "create" and state != "none":
        bench.run("vm", "delete", "web", "--yes")
    words = verb.words
    if case.verb == "attach" and (bench.store.disks / "data1").exists():
        # a disk is made, then attached: it stays, whole and free, where the command ended between the two
        words = ("vm", "disk", "attach", "web", "data1")
    ended = bench.run(*words)
    if ended.code:
        return [f"the next {case.verb}: {ended.how}: {ended.output.strip()[-300:]}"]
    return [] if verb.is_done(bench) else [f"the next {case.verb} has no effect: {bench.state()}"]


def _delete(bench: VmBench) -> list[str]:
    wrong = []
    if bench.state() != "none" or (bench.store.instances / "web").exists():
        ended = bench.run("vm", "delete", "web", "--yes")
        wrong = [f"vm delete: {ended.how}: {ended.output.strip()[-300:]}"] if ended.code else []
    bench.run("disk", "delete", "data1", "--yes")
    return wrong + [f"left: {each}" for each in bench.left_of_vm()]


_known: dict[tuple[str, str, int], list[injection.Moment]] = {}


def _moments(bench: VmBench, case: Case) -> list[injection.Moment]:
    """The moments of a verb, found by an undisturbed run of it; then the VM is again as the verb begins with it."""
    key = (case.verb, case.group, case.count)
    if key not in _known:
        _known[key] = injection.choose(bench, VERBS[case.verb], case.group, case.count)
        _delete(bench)
        bench.begin_with(BEGIN[case.verb])
    return _known[key]


def _inject(bench: VmBench, case: Case, verb: Verb, moment: injection.Moment | None) -> Ended:
    (how, what), *_ = case.do.items()
    if how in ("cut", "remove"):
        path = bench.root / str(what)
        kept = path.read_bytes()
        damage(path, how)
        ended = bench.run(*verb.words)
        if path.parent.is_dir():
            path.write_bytes(kept)
        return ended
    if how in ("free", "run"):
        place = bench.root / "tmp" if how == "free" else Path("/run")
        if how == "run":
            # half of the host's memory could go there
            subprocess.run(["mount", "-o", "remount,size=32m", "/run"], check=True)
        injection.fill(place, 0)
        ended = bench.run(*verb.words)
        (place / "filler").unlink(missing_ok=True)
        return ended
    if how == "twice":
        first, second = bench.command(verb.words), bench.command(verb.words, number=2)
        first.start()
        second.start()
        both = (first.end(), second.end())
        return next((each for each in both if each.how not in case.ends), both[0])
    assert moment is not None
    if how == "signal":
        return injection.send(bench, verb, moment, str(what))
    if how == "error":
        return injection.fail(bench, verb, moment, str(what))
    ended = injection.pause(bench, verb, moment, lambda _command: _end(bench, str(what)))
    _mend(str(what))
    return ended


def _end(bench: VmBench, what: str) -> None:
    """SIGKILL to a daemon or to the machine of `web`."""
    if what == "libvirtd":
        own_host.kill_libvirtd()
        own_host.start_libvirtd()
    elif what == "virtlogd":
        _kill_and_wait(int(Path("/run/virtlogd.pid").read_text()))
    elif what == "fabric":
        with contextlib.suppress(OSError, ValueError, KeyError):
            _kill_and_wait(bench.lab.fabric_pid())
    else:
        with contextlib.suppress(OSError):
            domain = f"goldsmith-{bench.store.instances_label}-web"
            _kill_and_wait(int(Path(f"/run/libvirt/qemu/{domain}.pid").read_text()))


def _kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for(f"the end of process {pid}", lambda: not Path(f"/proc/{pid}").exists(), 60)


def _mend(what: str) -> None:
    if what == "virtlogd":
        Path("/run/virtlogd.pid").unlink(missing_ok=True)
        subprocess.run(["virtlogd", "-d"], check=True)
    virsh("list")


# ---- on the host of its own, and from outside --------------------------------------------------------------------


def main() -> int:
    """Run the cases that are named until the time is over; print a row of JSON for each."""
    until = time.monotonic() + float(sys.argv[1])
    cases = {case.name: case for case in read_table("vms")}
    home = new_home("fault-vms")
    bench = VmBench(home)
    bench.hand_in()
    try:
        bench.make()
        for name in sys.argv[2:]:
            if time.monotonic() > until:
                break
            try:
                row = run_case(bench, cases[name])
            except (AssertionError, OSError, KeyError, subprocess.SubprocessError) as error:
                row = {"case": f"vm {name}", "expected": "", "ended": "", "s": 0.0, "commit": commit_id()}
                row |= {"why": f"{type(error).__name__}: {error}"[:900], "ok": False}
                with contextlib.suppress(AssertionError, OSError):
                    _delete(bench)
            print("row", json.dumps(row or {"case": f"vm {name}", "skipped": True}), flush=True)
    finally:
        with contextlib.suppress(AssertionError, OSError):
            bench.run("vm", "delete", KEEP, "--yes")
        subprocess.run(["umount", "-l", bench.root], check=False)
        remove(home)
    return 0


def run(cases: list[Case], say: Callable[[Row], None], seconds: float) -> list[Row]:
    """Run cases of VMs on a host of its own until the time is over; the rows of those that were run."""
    words = [sys.executable, "-m", "tests.campaigns.fault_vms", str(seconds), *(case.name for case in cases)]
    output = own_host.run(words, deadline=seconds + 240).stdout
    rows = [json.loads(line[4:]) for line in output.splitlines() if line.startswith("row {")]
    rows = [row for row in rows if not row.get("skipped")]
    if not rows:
        print(output[-3000:])
    for row in rows:
        say(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
