"""Test suites of others: installed, run against an address, their cases judged. LISA's own program is a stand-in."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.errors import CheckFailed, GuestError, HostError, UsageError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.prove import need_suite, refuse_failures
from pipeline.prove.lisa import LISA, SUITES, parse_results, runbook
from pipeline.prove.matrix import TARGETS, plan_test_runs, with_suites
from pipeline.prove.result import CloneResult
from pipeline.prove.suites import (
    EXPECTED,
    FAILED,
    PASSED,
    SKIPPED,
    CaseResult,
    KnownFailure,
    SuiteResult,
    SuiteTarget,
    choose_cases,
    find_suite,
    install,
    installed_version,
    judge,
    need_installed,
    run_suite,
)
from pipeline.systems import registry

RESULTS = """<?xml version='1.0' encoding='utf-8'?>
<testsuites name="goldsmith" time="250" tests="3" failures="1" errors="0">
<testsuite name="AzureImageStandard" timestamp="2026-11-26T10:00:00" tests="3" failures="1" errors="0">
<testcase name="verify_grub" classname="AzureImageStandard" time="2.314" />
<testcase name="verify_yum_conf" classname="AzureImageStandard" time="0.1">
<skipped message="Unsupported distro" /></testcase>
<testcase name="verify_repository_installed" classname="AzureImageStandard" time="9.0">
<failure message="failed. AssertionError: [Hit
should be present]">Traceback</failure></testcase>
</testsuite></testsuites>
"""
#: A file of LISA's cases: its suite is of an area, each case has a decorator, and other methods have none.
CASES = """
@TestSuiteMetadata(area="azure_image_standard", category="functional", description="x")
class AzureImageStandard(TestSuite):
    @TestCaseMetadata(description="x", priority=1)
    def verify_grub(self, node): ...

    @TestCaseMetadata(description="x", priority=1, requirement=simple_requirement(supported_platform_type=[AZURE]))
    def verify_resource_disk_file_system(self, node): ...

    def _helper(self, node): ...
"""
#: What LISA is for its caller: reads a runbook, reaches its node, and leaves the results in its folder of logs.
STAND_IN = """
import json, pathlib, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
book = pathlib.Path(options["-r"]).read_text()
folder = pathlib.Path(options["-l"]) / "lisa" / "20261126"
folder.mkdir(parents=True)
(folder / "seen.json").write_text(json.dumps({"options": options, "book": book}))
if "username: slow" in book:
    time.sleep(600)
if "username: silent" not in book:
    (folder / "results.xml").write_text(RESULTS)
sys.exit(1)
""".replace("RESULTS", repr(RESULTS))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with LISA's names, made by hand, which pip installs without a network."""
    path = tmp_path_factory.mktemp("wheel") / "mslisa-1.2-py3-none-any.whl"
    info = "mslisa-1.2.dist-info"
    files = {
        "lisa/__init__.py": "",
        "lisa/__main__.py": STAND_IN,
        "lisa/microsoft/testsuites/core/azure_image_standard.py": CASES,
        "lisa/microsoft/testsuites/core/other.py": CASES.replace("azure_image_standard", "other"),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: mslisa\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": "".join(f"{name},,\n" for name in files)}.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    assert install(store, replace(LISA, package=str(wheel))) == "1.2"
    return store


def target(logs: Path, user: str = "clone", watch: Callable[[], None] = lambda: None) -> SuiteTarget:
    return SuiteTarget("127.0.0.1", 2222, user, logs / "key", logs / "lisa", watch)


def test_an_installed_suite_is_run_by_its_own_python(installed: Store, tmp_path: Path) -> None:
    assert need_installed(installed, LISA) == "1.2"
    result = run_suite(installed, replace(LISA, known_failures=()), target(tmp_path))
    assert [(case.name, case.status) for case in result.cases] == [
        ("verify_grub", PASSED), ("verify_yum_conf", SKIPPED), ("verify_repository_installed", FAILED),
        # LISA's own program does not mention it
        ("verify_resource_disk_file_system", SKIPPED),
    ]  # fmt: skip
    assert "on Azure itself" in result.cases[-1].message
    assert result.count() == "1 passed, 1 failed, 2 skipped"
    (seen,) = (tmp_path / "lisa").rglob("seen.json")
    book = json.loads(seen.read_text())["book"]
    assert "public_port: 2222" in book
    # the cases are those of the environment that is run, not of goldsmith's
    assert str(installed.suites / "lisa") in book
    compile((tmp_path / "lisa/extension/platforms.py").read_text(), "platforms.py", "exec")
    with pytest.raises(ImportError):
        __import__("lisa")


def test_chosen_cases_alone_are_selected(installed: Store, tmp_path: Path) -> None:
    suite = choose_cases(installed, LISA, ["verify_grub", "verify_resource_disk_file_system", "verify_grub"])
    assert suite.chosen == ("verify_grub", "verify_resource_disk_file_system")
    result = run_suite(installed, suite, target(tmp_path))
    (seen,) = (tmp_path / "lisa").rglob("seen.json")
    assert "name: verify_grub|verify_resource_disk_file_system" in json.loads(seen.read_text())["book"]
    # one that LISA leaves out has a row; a case that was not chosen has none
    assert result.cases[-1].name == "verify_resource_disk_file_system"
    assert choose_cases(installed, LISA, []) is LISA


def test_a_case_that_the_suite_does_not_have_is_named(installed: Store) -> None:
    with pytest.raises(UsageError) as caught:
        choose_cases(installed, LISA, ["verify_grub", "verify_grab"])
    assert caught.value.name == "suite-case-unknown"
    assert caught.value.hint == "cases: verify_grub, verify_resource_disk_file_system"
    for words in (["--suite-case", "verify_grub"], ["--suite", "lisa", "--suite", "lisa", "--suite-case", "x"]):
        with pytest.raises(UsageError, match="--suite-case is for one test suite"):
            app(["prove", "web", *words], standalone_mode=False)


def test_a_suite_without_results_is_named(installed: Store, tmp_path: Path) -> None:
    with pytest.raises(GuestError) as caught:
        run_suite(installed, LISA, target(tmp_path, "silent"))
    assert caught.value.name == "suite-failed"
    assert str(tmp_path / "lisa") in (caught.value.hint or "")


def test_a_clone_that_dies_ends_the_suite(installed: Store, tmp_path: Path) -> None:
    def watch() -> None:
        raise GuestError("the clone is gone", name="guest-kernel-panic")

    with pytest.raises(GuestError, match="the clone is gone"):
        run_suite(installed, LISA, target(tmp_path, "slow", watch))


def test_an_installation_that_fails_leaves_the_one_before(installed: Store, tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        install(installed, replace(LISA, package=str(tmp_path / "missing.whl")))
    assert caught.value.name == "suite-install-failed"
    assert installed_version(installed, LISA) == "1.2"
    assert [path.name for path in sorted(installed.suites.iterdir())] == ["lisa", "lisa.lock"]


def test_a_suite_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        need_installed(Store(tmp_path), LISA)
    assert caught.value.name == "suite-not-installed"
    assert caught.value.hint == "goldsmith suite install lisa"
    assert installed_version(Store(tmp_path), LISA) is None


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        find_suite(SUITES, "liza")
    assert caught.value.name == "test-suite-unknown"
    assert "lisa" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="there is no test suite liza"):
        app(["suite", "install", "liza"], standalone_mode=False)
    with pytest.raises(UsageError, match="there is no test suite liza"):
        app(["prove", "web", "--suite", "liza"], standalone_mode=False)


def test_a_system_names_the_suites_that_can_be_run_against_it() -> None:
    known = {system.os: system.suites for system in registry.all_systems()}
    assert known["linux"] == {"lisa"} and known["windows"] == frozenset()
    assert set().union(*known.values()) == set(SUITES)


def test_a_suite_that_cannot_test_a_system_is_named(installed: Store) -> None:
    systems = {system.os: system for system in registry.all_systems()}
    need_suite(installed, systems["linux"], LISA)
    with pytest.raises(UsageError) as caught:
        need_suite(installed, systems["windows"], LISA)
    assert caught.value.name == "suite-unsupported"


def test_results_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "results.xml").write_text(RESULTS[: len(RESULTS) // 2])
    with pytest.raises(GuestError) as caught:
        parse_results(tmp_path / "results.xml")
    assert caught.value.name == "suite-failed"


def test_a_runbook_needs_no_cloud_and_selects_the_area() -> None:
    book = runbook([Path("/cases"), Path("/own")], target(Path("/logs")))
    assert book["extension"] == ["/cases", "/own"]
    assert book["platform"] == [{"type": "ready"}]
    assert book["testcase"] == [{"criteria": {"area": "azure_image_standard"}}]
    (node,) = book["environment"]["environments"][0]["nodes"]
    assert (node["public_address"], node["public_port"], node["username"]) == ("127.0.0.1", 2222, "clone")


KNOWN = KnownFailure("verify_boot", re.compile(r"clocksource .* unstable"), "an emulated processor")


@pytest.mark.parametrize(
    ("case", "message", "status"),
    [
        ("verify_boot", "clocksource tsc unstable", EXPECTED),
        ("verify_boot", "clocksource tsc unstable\n\n  clocksource acpi unstable\n", EXPECTED),
        # another message of the same case, or beside the known one, is a failure
        ("verify_boot", "sda: I/O error", FAILED),
        ("verify_boot", "clocksource tsc unstable\nsda: I/O error", FAILED),
        ("verify_boot", "", FAILED),
        ("verify_grub", "clocksource tsc unstable", FAILED),
    ],
)
def test_a_known_failure_excuses_its_own_message_only(case: str, message: str, status: str) -> None:
    judged = judge(CaseResult(case, FAILED, 1.0, message), (KNOWN,))
    assert judged.status == status
    assert judged.reason == ("an emulated processor" if status == EXPECTED else "")
    assert judged.message == message


BOOT = (
    "failed. AssertionError: [unexpected error/failure/warnings shown up in bootup log of distro Debian 13.8.0] "
    "Expected <[{}]> to be empty, but was not."
)
CALIBRATION = r"'[    0.000000] calibrate_delay_direct() failed to get a good estimate for loops_per_jiffy.\r'"
GENERATOR = (
    r"'[   15.639519] (sd-exec-[274]: /usr/lib/systemd/system-generators/systemd-ssh-generator failed with exit "
    r"status 1.\r'"
)


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([CALIBRATION], EXPECTED),
        ([CALIBRATION, GENERATOR], EXPECTED),
        # whatever stands beside them is a failure of the image
        ([CALIBRATION, r"'[    9.100000] EXT4-fs error (device sda1): checksum invalid\r'"], FAILED),
        ([GENERATOR.replace("systemd-ssh-generator", "netplan")], FAILED),
        ([], FAILED),
    ],
)
def test_the_boot_messages_of_emulation_are_known_and_no_others(messages: list[str], status: str) -> None:
    case = CaseResult("verify_boot_error_fail_warnings", FAILED, 3.1, BOOT.format(", ".join(messages)))
    assert judge(case, LISA.known_failures).status == status


def test_each_known_failure_has_a_reason() -> None:
    for suite in SUITES.values():
        assert all(each.case and each.reason for each in suite.known_failures)


def test_one_clone_has_the_suites() -> None:
    runs = with_suites(plan_test_runs([TARGETS["gen1"], TARGETS["gen2"]], whole=False), (LISA,))
    assert [(run.name, [suite.name for suite in run.suites]) for run in runs] == [("gen1", ["lisa"]), ("gen2", [])]
    # one that is only started answers nobody
    runs = with_suites(plan_test_runs([TARGETS["start"], TARGETS["gen2"]], whole=False), (LISA,))
    assert [bool(run.suites) for run in runs] == [False, True]
    assert with_suites(runs[:1], ()) == runs[:1]


def test_a_failed_case_is_a_failure_of_its_clone(tmp_path: Path) -> None:
    result = CloneResult("gen2")
    assert "suites" not in result.to_json()
    bad = CaseResult("verify_grub", FAILED, 1.0, "no console")
    result.see_suite(SuiteResult("lisa", "1.2", (CaseResult("verify_dhcp", PASSED, 2.0), bad)))
    assert result.checks == {"suite lisa": "1.2: 1 passed, 1 failed"}
    assert result.failures == ["suite lisa: verify_grub: no console"]
    assert [case["name"] for case in result.to_json()["suites"]["lisa"]["cases"]] == ["verify_dhcp", "verify_grub"]
    with pytest.raises(CheckFailed) as caught:
        refuse_failures([result], tmp_path)
    assert caught.value.name == "suite-case-failed"
    result.see("login", "nobody", False)
    with pytest.raises(CheckFailed) as caught:
        refuse_failures([result], tmp_path)
    assert caught.value.name == "prove-failed"
    refuse_failures([CloneResult("gen1")], tmp_path)


def test_the_suites_python_is_not_goldsmiths(installed: Store) -> None:
    python = installed.suites / "lisa" / "bin" / "python"
    assert python.exists() and Path(sys.prefix) not in python.parents
