"""Test suites of others that a proof can run against a clone: installed as programs of their own, never imported.

A suite has a Python environment of its own below the store, because the versions of packages that it demands are not
goldsmith's. It gets a clone's address and key, and leaves a file of results.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base import process
from pipeline.base.errors import GoldsmithError, HostError, UsageError
from pipeline.base.files import remove_tree
from pipeline.base.store import Store
from pipeline.base.surroundings import variables

#: Seconds to download and install a suite: some 70 packages, 430 MB unpacked; 145 s were measured.
INSTALL_DEADLINE = 1800.0
#: Seconds for a suite to say its version.
VERSION_DEADLINE = 120.0

PASSED, FAILED, SKIPPED, EXPECTED = "passed", "failed", "skipped", "expected failure"


@dataclass(frozen=True)
class KnownFailure:
    """A failure that says nothing against the master: of which case, with which message, and why it is none.

    `line` must match each line of the case's message that is not empty, so that another failure of the same case is
    not excused.
    """

    case: str
    line: re.Pattern[str]
    reason: str

    def excuses(self, case: str, message: str) -> bool:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return case == self.case and bool(lines) and all(self.line.fullmatch(line) for line in lines)


@dataclass(frozen=True)
class CaseResult:
    """The result of one test case. `reason`: why a failure was expected."""

    name: str
    status: str  # passed | failed | skipped | expected failure
    seconds: float
    message: str = ""
    reason: str = ""


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found out about one clone."""

    name: str
    version: str
    cases: tuple[CaseResult, ...] = ()

    def count(self) -> str:
        """`9 passed, 8 skipped, 1 expected failure`."""
        states = (PASSED, FAILED, EXPECTED, SKIPPED)
        counts = {state: sum(case.status == state for case in self.cases) for state in states}
        return ", ".join(f"{number} {state}" for state, number in counts.items() if number)

    @property
    def failed(self) -> list[CaseResult]:
        return [case for case in self.cases if case.status == FAILED]

    def to_json(self) -> dict[str, Any]:
        return {"version": self.version, "cases": [asdict(case) for case in self.cases]}


@dataclass(frozen=True)
class SuiteTarget:
    """The clone that a suite is run against: where its sshd is reached, as whom, by which key.

    `watch` is called while the suite runs, and ends it by raising: where the clone has died. `cases`: which cases are
    run, all of the suite without any.
    """

    host: str
    port: int
    user: str
    key: Path
    logs: Path
    watch: Callable[[], None]
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestSuite:
    """A suite that can be installed and run.

    `package`: what pip installs. `run` gets the suite's Python and the clone, and returns the cases as the suite
    itself judged them. `list_cases` gets the suite's Python. `chosen`: the cases that are run; all without any.
    """

    name: str
    summary: str
    distribution: str
    package: str
    run: Callable[[Path, SuiteTarget], list[CaseResult]]
    list_cases: Callable[[Path], list[str]]
    known_failures: tuple[KnownFailure, ...] = field(default=())
    chosen: tuple[str, ...] = ()


def install(store: Store, suite: TestSuite) -> str:
    """Install a suite into a fresh environment, which then takes the place of the one before; its version.

    Raises HostError (suite-install-failed), and leaves what was installed before as it was.
    """
    store.suites.mkdir(parents=True, exist_ok=True)
    with FileLock(store.suites / f"{suite.name}.lock"):
        fresh = store.suites / f"{suite.name}.new"
        remove_tree(fresh)
        variables_of_pip = {name: value for name, value in variables().items() if name.startswith("PIP_")}
        # goldsmith's own pip installs into the other environment, which needs none
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            _python(fresh),
            "--disable-pip-version-check",
        ]
        try:
            process.run([sys.executable, "-m", "venv", "--without-pip", fresh], deadline=INSTALL_DEADLINE)
            process.run(
                [*pip, "install", "--quiet", suite.package],
                deadline=INSTALL_DEADLINE,
                env={**process.download_variables(), **variables_of_pip},
            )
            version = _version(fresh, suite)
        except GoldsmithError as error:
            remove_tree(fresh)
            raise HostError(
                f"the suite {suite.name} could not be installed: {error.message}",
                name="suite-install-failed",
                hint=f"check that pip reaches a package index: pip download --no-deps '{suite.package}'",
            ) from None
        remove_tree(store.suites / suite.name)
        fresh.rename(store.suites / suite.name)
    return version


def installed_version(store: Store, suite: TestSuite) -> str | None:
    """The version of a suite that is installed in this store; None where it is not."""
    folder = store.suites / suite.name
    if not _python(folder).exists():
        return None
    try:
        return _version(folder, suite)
    except GoldsmithError:
        return None


def need_installed(store: Store, suite: TestSuite) -> str:
    """The version of an installed suite. Raises UsageError (suite-not-installed)."""
    version = installed_version(store, suite)
    if version is None:
        raise UsageError(
            f"the test suite {suite.name} is not installed",
            name="suite-not-installed",
            hint=f"goldsmith suite install {suite.name}",
        )
    return version


def choose_cases(store: Store, suite: TestSuite, cases: Sequence[str]) -> TestSuite:
    """The suite with these cases alone; all of an installed suite's without any. Raises UsageError
    (suite-case-unknown)."""
    if not cases:
        return suite
    known = suite.list_cases(_python(store.suites / suite.name))
    if unknown := [name for name in cases if name not in known]:
        raise UsageError(
            f"the test suite {suite.name} has no case {unknown[0]}",
            name="suite-case-unknown",
            hint=f"cases: {', '.join(known)}",
        )
    return replace(suite, chosen=tuple(dict.fromkeys(cases)))


def run_suite(store: Store, suite: TestSuite, target: SuiteTarget) -> SuiteResult:
    """Run an installed suite against a clone. A failed case is a result; raises GuestError where there are none."""
    version = need_installed(store, suite)
    cases = suite.run(_python(store.suites / suite.name), replace(target, cases=suite.chosen))
    return SuiteResult(suite.name, version, tuple(judge(case, suite.known_failures) for case in cases))


def judge(case: CaseResult, known: tuple[KnownFailure, ...]) -> CaseResult:
    """A case as the suite judged it; a known failure with its reason."""
    if case.status != FAILED:
        return case
    for each in known:
        if each.excuses(case.name, case.message):
            return CaseResult(case.name, EXPECTED, case.seconds, case.message, each.reason)
    return case


def find_suite(suites: Mapping[str, TestSuite], name: str) -> TestSuite:
    """Raises UsageError (test-suite-unknown)."""
    if name not in suites:
        raise UsageError(
            f"there is no test suite {name}", name="test-suite-unknown", hint=f"test suites: {', '.join(suites)}"
        )
    return suites[name]


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _version(folder: Path, suite: TestSuite) -> str:
    code = f"import importlib.metadata as m; print(m.version({suite.distribution!r}))"
    return process.run([_python(folder), "-I", "-c", code], deadline=VERSION_DEADLINE).stdout.strip()
