"""One harness for all faults of a host without guests: `make campaign-faults`, which goes on where it was stopped.

The faults and their expected outcomes are data: tests/campaigns/fault_table.yaml. Each case begins with the same
store (`fault_bench`); its fault comes at a chosen call of the kernel (`fault_injection`); then the gallery is read,
`clean` is run, and the command is run again. The page is written row by row. GOLDSMITH_SECONDS ends a run after so
many seconds; GOLDSMITH_PART names cases that are run again. A failed case is run again in the next run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns import fault_injection as injection
from tests.campaigns import fault_vms
from tests.campaigns.__main__ import Page, Row, read_rows
from tests.campaigns.fault_bench import FILE_SYSTEMS, VERBS, Bench, Ended, Verb, opened
from tests.campaigns.fault_injection import Moment
from tests.campaigns.fault_table import Case, damage, read_table
from tests.harness import PART, commit_id, remove

#: Says to this module that it runs in its own mount namespace.
_INSIDE = "GOLDSMITH_FAULTS_INSIDE"


# ---- one case ----------------------------------------------------------------------------------------------------


@dataclass
class Judge:
    """Collects what is wrong with a case."""

    bench: Bench
    verb: Verb
    wrong: list[str] = field(default_factory=list)

    def look(self, when: str) -> None:
        self.wrong += [f"{when}: {each}" for each in self.bench.wrong(self.verb)]

    def clean(self, when: str) -> None:
        ended = self.bench.run("clean")
        if ended.code:
            self.wrong.append(f"{when}, clean: {ended.how}")
        # borg's own lock goes with the next command of borg
        first = when == "after the fault"
        left = [
            each for each in self.bench.left(self.verb) if not (first and each.startswith("file store/archive/lock"))
        ]
        self.wrong += [f"{when}, left: {each}" for each in left]


def run_case(bench: Bench, case: Case, moment: Moment | None) -> Row:
    """Inject the fault of a case and judge what follows."""
    began = time.monotonic()
    verb = VERBS[case.verb]
    bench.reset()
    ended = _inject(bench, case, verb, moment)
    judge = Judge(bench, verb)
    how = "interrupted" if ended.code in (129, 130, 143) and not ended.how.startswith("traceback") else ended.how
    if how not in case.ends:
        judge.wrong.append(f"it ended with {how}: {ended.output.strip()[-300:]}")
    if how == "done" and not verb.is_done(bench):
        judge.wrong.append("it ended well, but its product is not there or not whole")
    if case.damage:
        judge.wrong += _judge_damage(bench, verb, case)
    else:
        judge.look("after the fault")
        judge.clean("after the fault")
        if case.again:
            _again(bench, case, judge)
    seconds = round(time.monotonic() - began, 1)
    row: Row = {"case": case.name, "expected": " or ".join(case.ends), "ended": how[:80], "s": seconds}
    return {**row, "commit": commit_id(), "why": "; ".join(judge.wrong)[:600], "ok": not judge.wrong}


def _again(bench: Bench, case: Case, judge: Judge) -> None:
    """The same command without the fault."""
    if not judge.verb.is_done(bench):
        _drop_target(bench, case, judge)
        again = bench.run(*judge.verb.words)
        if again.code:
            judge.wrong.append(f"the next {case.verb}: {again.how}: {again.output.strip()[-300:]}")
        elif not judge.verb.is_done(bench):
            judge.wrong.append(f"the next {case.verb} made nothing whole")
    judge.look("after the next one")
    judge.clean("after the next one")


def _drop_target(bench: Bench, case: Case, judge: Judge) -> None:
    """A target beside the store is there whole or not at all: half of one is wrong."""
    for path in (bench.root / "targets").iterdir():
        judge.wrong.append(f"half a target of {case.verb}: {path.name}")
        remove(path) if path.is_dir() else path.unlink()


def _judge_damage(bench: Bench, verb: Verb, case: Case) -> list[str]:
    """What is wrong with how damage was noticed: the version of the damaged file, and no other, has to be named."""
    path = next(str(value) for value in case.do.values())
    damaged = bench.names[path.split("{")[1].split("}")[0]]
    found = bench.wrong(verb)
    wrong = [] if any(damaged in each for each in found) else ["gallery verify does not name the damage"]
    return wrong + [f"beside it: {each}" for each in found if damaged not in each and "drum@golden" not in each
                    and "no good golden" not in each and "golden version is lost" not in each]  # fmt: skip


def _inject(bench: Bench, case: Case, verb: Verb, moment: Moment | None) -> Ended:
    (how, what), *_ = case.do.items()
    if how in ("flip", "cut", "edit", "remove"):
        for path in sorted(bench.root.glob(str(what).format(**bench.names))):
            damage(path, how)
        return bench.run(*verb.words)
    if how == "free":
        injection.fill(bench.root / "tmp", int(what))
        return _then(bench, verb, lambda: (bench.root / "tmp/filler").unlink(missing_ok=True))
    if how == "mount":
        bench.unmount()
        bench.mount(str(what))
        return _then(bench, verb, lambda: (bench.unmount(), bench.mount()))
    if how == "twice":
        first, second = bench.command(verb.words), bench.command(verb.words, number=2)
        first.start()
        second.start()
        ended = (first.end(), second.end())
        return next((each for each in ended if each.how not in case.ends), ended[0])
    assert moment is not None
    if how == "signal":
        return injection.send(bench, verb, moment, str(what))
    if how == "error":
        return injection.fail(bench, verb, moment, str(what))
    if how == "power":
        ended = injection.pause(bench, verb, moment, lambda command: injection.cut_power(bench, command))
        injection.boot_after_cut(bench)
        return ended
    ended = injection.pause(bench, verb, moment, lambda _command: injection.shut_down(bench))
    bench.unmount()
    bench.mount()
    return ended


def _then(bench: Bench, verb: Verb, mend: Callable[[], object]) -> Ended:
    ended = bench.run(*verb.words)
    mend()
    return ended


# ---- all of them -------------------------------------------------------------------------------------------------


class Moments:
    """The moments of each verb, found once for a pattern and kept beside it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._path = bench.pattern.with_suffix(".moments")
        self._known: dict[str, list[list[Any]]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def find(self, case: Case) -> Moment | None:
        """The moment of a case; None where its verb makes fewer such calls."""
        key = f"{case.verb} {case.group} {case.count}"
        if key not in self._known:
            found = injection.find_moments(self._bench, VERBS[case.verb], case.group, case.count)
            self._known[key] = [[each.call, each.number, each.what] for each in found]
            self._path.write_text(json.dumps(self._known))
        rows = self._known[key]
        return Moment(*rows[case.number]) if case.number < len(rows) else None


def run(
    cases: Sequence[Case], beside: Path, say: Callable[[Row], None], *, seconds: float = float("inf")
) -> list[Row]:
    """Run cases until the time is over; the rows of those that were run."""
    rows: list[Row] = []
    until = time.monotonic() + seconds
    for kind in FILE_SYSTEMS:
        mine = [case for case in cases if case.kind == kind]
        if not mine or time.monotonic() > until:
            continue
        with opened(beside, kind) as bench:
            moments = Moments(bench)
            for case in mine:
                if time.monotonic() > until:
                    break
                moment = moments.find(case) if case.group else None
                if case.group and moment is None:
                    continue
                rows.append(_run_named(bench, case, moment))
                say(rows[-1])
    return rows


def _run_named(bench: Bench, case: Case, moment: Moment | None) -> Row:
    try:
        return run_case(bench, case, moment)
    except (AssertionError, OSError) as error:
        return {"case": case.name, "expected": " or ".join(case.ends), "ended": "", "s": 0.0, "commit": commit_id(),
                "why": f"{type(error).__name__}: {error}"[:600], "ok": False}  # fmt: skip


def run_named(names: Sequence[str], beside: Path) -> int:
    """Run the cases of masters of these names and print their rows as JSON; no page is written."""
    rows = run([case for case in read_table() if case.name in names], beside, lambda row: print(json.dumps(row)))
    return 0 if len(rows) == len(names) and all(row["ok"] for row in rows) else 1


def main() -> int:
    if _INSIDE not in os.environ:
        # mounts of its own, which no process of this host copies and so keeps
        argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.campaigns.faults"]
        return subprocess.run([*argv, *sys.argv[1:]], env={**os.environ, _INSIDE: "1"}, check=False).returncode
    beside = Path(os.environ.get("GOLDSMITH_TEST_BASE", "/var/tmp")) / "goldsmith-faults"
    beside.mkdir(exist_ok=True)
    beside.chmod(0o755)
    if sys.argv[1:]:
        return run_named(sys.argv[1:], beside)
    page = Page("faults")
    page.part = True
    known = {case.name for case in read_table()} | {f"vm {case.name}" for case in read_table("vms")}
    kept = read_rows(page.path.read_text()) if page.path.exists() else []
    page.kept = [row for row in kept if row["case"] in known]
    parts = [part for part in os.environ.get(PART, "").split(",") if part]
    good = {str(row["case"]) for row in page.kept if row["ok"] == "True"} if not parts else set()
    seconds = float(os.environ.get("GOLDSMITH_SECONDS", "36000"))
    began = time.monotonic()

    def chosen(cases: Sequence[Case], prefix: str = "") -> list[Case]:
        named = [(f"{prefix}{case.name}", case) for case in cases]
        return [c for name, c in named if name not in good and (not parts or any(part in name for part in parts))]

    masters, vms = chosen(read_table()), chosen(read_table("vms"), "vm ")
    rows = run(masters, beside, page.say, seconds=seconds)
    if vms and (left := seconds - (time.monotonic() - began)) > 0:
        rows += fault_vms.run(vms, page.say, left)
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    if not parts and time.monotonic() - began < seconds:
        remove(beside)
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
