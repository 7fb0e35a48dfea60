"""LISA, Microsoft's test suite for Linux images, by which the marketplace of Azure accepts an image.

Its area `azure_image_standard` is run on its platform `ready`, which needs no cloud, but a running machine and ssh.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.base.printable import shorten
from pipeline.prove.suites import FAILED, PASSED, SKIPPED, CaseResult, KnownFailure, SuiteTarget, TestSuite

#: The area of LISA's test cases that asks what Azure demands of every Linux image.
AREA = "azure_image_standard"
#: Seconds for the whole area: a quarter of an hour under emulation, most of it for an upgrade and its reboot.
DEADLINE = 3600.0
#: Bytes of LISA's file of results: it quotes what a guest printed.
LARGEST_RESULTS = 16 << 20
#: Prints the folder of LISA in its environment. LISA is not imported: it takes over stdout.
_FIND = "import importlib.util as u; print(u.find_spec('lisa').submodule_search_locations[0])"
#: The folder of its own test cases there, which `extension` of a runbook must name.
_CASES = "microsoft/testsuites/core"
_RESULTS = "results.xml"
#: A module that LISA loads behind its cases. LISA runs some cases only on Azure and on machines that it starts with
#: QEMU itself; they need ssh alone, and so they are run on a machine that is there already, too.
_EXTENSION = """\
from lisa.sut_orchestrator import QEMU, READY
from lisa.testsuite import get_cases_metadata

for case in get_cases_metadata().values():
    platforms = case.requirement.platform_type
    if platforms and platforms.is_allow_set and QEMU in platforms:
        platforms.add(READY)
"""


def run(python: Path, target: SuiteTarget) -> list[CaseResult]:
    """Run the area against a clone; LISA's own logs go to `target.logs`.

    Raises GuestError (suite-failed) where LISA ends without a result of any case.
    """
    logs = target.logs
    logs.mkdir(parents=True, exist_ok=True)
    book = logs / "runbook.yml"
    suites = _folder_of_cases(python)
    extension = logs / "extension" / "platforms.py"
    extension.parent.mkdir(exist_ok=True)
    extension.write_text(_EXTENSION)
    book.write_text(yaml.safe_dump(runbook([suites, extension.parent], target), sort_keys=False))
    words: list[str | Path] = [python, "-I", "-m", "lisa", "-r", book, "-l", logs, "-w", logs / "work", "-i", "lisa"]
    last = ""
    try:
        # its exit code is the number of failed cases
        process.run(words, deadline=DEADLINE, cwd=logs, ok_codes=range(256), watch=target.watch)
    except process.CommandTimeout as error:
        last = error.message
    reports = sorted(logs.rglob(_RESULTS))
    cases = parse_results(reports[-1]) if reports else []
    if not cases or last:
        raise GuestError(
            f"LISA ended without its results: {last or 'no test case has a result'}",
            name="suite-failed",
            hint=f"read LISA's log in {logs}",
        )
    return [*cases, *cases_left_out(target.cases or cases_in(suites), {case.name for case in cases})]


def list_cases(python: Path) -> list[str]:
    """The names of the area's cases in an installed LISA."""
    return cases_in(_folder_of_cases(python))


def _folder_of_cases(python: Path) -> Path:
    # LISA is root's: nothing that a user of this host puts into PYTHONPATH or the current folder is imported
    found = process.run([python, "-I", "-c", _FIND], deadline=DEADLINE).stdout.strip()
    return Path(found) / _CASES


def cases_in(folder: Path) -> list[str]:
    """The names of the area's cases in LISA's own files."""
    return [name for path in sorted(folder.rglob("*.py")) for name in _cases_of_area(path)]


def cases_left_out(names: Sequence[str], ran: Collection[str]) -> list[CaseResult]:
    """Those of the cases `names` that have no result: LISA leaves them out without a word."""
    why = "LISA runs this case only on a machine that it has created on Azure itself"
    return [CaseResult(name, SKIPPED, 0.0, why) for name in names if name not in ran]


def _cases_of_area(path: Path) -> list[str]:
    """The test cases in a file of LISA's, if its suite is of the area."""
    text = path.read_text(errors="replace")
    if f'area="{AREA}"' not in text:
        return []
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    methods = [node for each in classes for node in each.body if isinstance(node, ast.FunctionDef)]
    return [method.name for method in methods if any(_is_case(mark) for mark in method.decorator_list)]


def _is_case(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "TestCaseMetadata"


def runbook(extensions: Sequence[Path], target: SuiteTarget) -> dict[str, Any]:
    """What LISA is to do. Pure. It loads the modules in the folders `extensions`, in this order."""
    node = {
        "type": "remote",
        "public_address": target.host,
        "public_port": target.port,
        "username": target.user,
        "private_key_file": str(target.key),
    }
    return {
        "name": "goldsmith",
        "extension": [str(folder) for folder in extensions],
        "environment": {"environments": [{"nodes": [node]}]},
        "notifier": [{"type": "html"}, {"type": "junit", "path": _RESULTS, "append_message_id": False}],
        "platform": [{"type": "ready"}],
        "testcase": [{"criteria": {"area": AREA, **_names(target.cases)}}],
    }


def _names(cases: Sequence[str]) -> dict[str, str]:
    """The criterion that selects these cases alone: an expression for the whole name. None selects all."""
    return {"name": "|".join(map(re.escape, cases))} if cases else {}


def parse_results(path: Path) -> list[CaseResult]:
    """The cases in a file of JUnit's form, in the order in which they ran. Raises GuestError (suite-failed)."""
    try:
        if path.stat().st_size > LARGEST_RESULTS:
            raise ValueError("it is too large")
        root = ElementTree.fromstring(path.read_bytes())  # noqa: S314  LISA wrote it, in its environment; expat
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise GuestError(
            f"LISA's results cannot be read: {error}", name="suite-failed", hint=f"read {path.parent}"
        ) from None
    return [_case(element) for element in root.iter("testcase")]


def _case(element: ElementTree.Element) -> CaseResult:
    status, message = PASSED, ""
    for kind, word in (("failure", FAILED), ("error", FAILED), ("skipped", SKIPPED)):
        found = element.find(kind)
        if found is not None:
            status, message = word, found.get("message") or found.text or ""
            break
    try:
        seconds = round(float(element.get("time") or 0), 1)
    except ValueError:
        seconds = 0.0
    return CaseResult(element.get("name") or "?", status, seconds, shorten(message.strip()))


#: Messages of the kernel's log, after the time, that say nothing against a master: of an emulated processor, and of
#: Debian 13's systemd (257.13, https://github.com/systemd/systemd/issues/42188) in a machine without a vsock device.
_BOOT_MESSAGES = (
    r"calibrate_delay_direct\(\) failed to get a good estimate for loops_per_jiffy\.",
    r"\(sd-exec-\[\d+\]: /usr/lib/systemd/system-generators/systemd-ssh-generator failed with exit status 1\.",
)
#: One of them as Python prints a string in a list; the console ends a line with a carriage return.
_LISTED = rf"'\[ *\d+\.\d+\] (?:{'|'.join(_BOOT_MESSAGES)})(?:\\r)?'"
#: Failures that say nothing against a master; LISA's whole message must be this.
KNOWN_FAILURES = (
    KnownFailure(
        "verify_boot_error_fail_warnings",
        re.compile(
            r"(failed\. )?AssertionError: "
            r"\[unexpected error/failure/warnings shown up in bootup log of distro [^\]]*\]"
            rf" Expected <\[{_LISTED}(?:, {_LISTED})*\]> to be empty, but was not\."
        ),
        "Two messages at most, neither of the image: an emulated processor has no steady clock to calibrate by "
        "(calibrate_delay_direct), and systemd-ssh-generator of Debian 13 fails where no vsock device is "
        "(systemd issue 42188); it offers ssh over vsock, which nobody uses here.",
    ),
    KnownFailure(
        "verify_repository_installed",
        re.compile(
            r"(failed\. )?AssertionError: \[Hit should be present in `apt-get update` output atleast one repository\]"
            r" Expected <True>, but was not\."
        ),
        "A master ships without package lists, so its first apt-get update downloads all and finds none unchanged; "
        "LISA wants one that is unchanged (Hit).",
    ),
)
LISA = TestSuite(
    name="lisa",
    summary="Microsoft's tests of Linux images for Azure: the area azure_image_standard",
    distribution="mslisa",
    # the last version that was tried; its extra `azure` is needed to load its own test cases
    package="mslisa[azure]>=20260921.2,<20270000",
    run=run,
    list_cases=list_cases,
    known_failures=KNOWN_FAILURES,
)
SUITES = {suite.name: suite for suite in (LISA,)}
