"""A full upgrade of a clone: what its script does with apt, what its two states say, how it fails by name."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.guest.access import Access
from pipeline.hypervisor.domain import Spec
from pipeline.prove.matrix import TARGETS, TestRun, matrix, plan_test_runs, with_suites
from pipeline.prove.result import CloneResult
from pipeline.prove.suites import TestSuite
from pipeline.systems.linux import full_upgrade
from pipeline.systems.linux.clone import Clone
from pipeline.systems.linux.full_upgrade import CHECK, KERNEL, RESTART, State, count_changes, first_trouble

BEFORE = """\
boot id=1
host name=web
machine-id=abc
SSH host keys=12ef  -
kernel=6.12.57-amd64
kernel 6.12.57-amd64=
package libc6:amd64=2.41-12
package openssl=3.5.1-1
package old=1
"""
AFTER = """\
boot id=2
host name=web
machine-id=abc
SSH host keys=12ef  -
kernel=6.12.63-amd64
kernel 6.12.57-amd64=
kernel 6.12.63-amd64=
package libc6:amd64=2.41-12
package openssl=3.5.4-1
package linux-image-6.12.63-amd64=6.12.63-1
"""


def judged(after: str, before: str = BEFORE) -> CloneResult:
    result = CloneResult("gen2-upgrade")
    full_upgrade.judge_upgrade(result, State.parse(before), State.parse(after), "")
    return result


def test_an_upgraded_clone_is_the_same_machine_with_its_packages_counted() -> None:
    result = judged(AFTER)
    assert result.failures == []
    assert result.checks == {
        CHECK: "1 package upgraded, 1 installed, 1 removed",
        RESTART: "the same machine",
        KERNEL: "6.12.63-amd64",
    }


@pytest.mark.parametrize(
    ("old", "new", "failure"),
    [
        ("boot id=2", "boot id=1", f"{RESTART}: the boot id is the same: the clone did not restart"),
        ("host name=web", "host name=localhost", f"{RESTART}: another host name"),
        ("machine-id=abc", "machine-id=", f"{RESTART}: another machine-id"),
        ("SSH host keys=12ef", "SSH host keys=34ab", f"{RESTART}: another SSH host keys"),
        (
            "kernel=6.12.63-amd64",
            "kernel=6.12.57-amd64",
            f"{KERNEL}: 6.12.57-amd64 runs, although the upgrade installed 6.12.63-amd64",
        ),
    ],
)
def test_what_an_upgrade_and_a_restart_must_not_do(old: str, new: str, failure: str) -> None:
    assert judged(AFTER.replace(old, new)).failures == [failure]


def test_packages_that_apt_keeps_back_are_counted() -> None:
    output = "2 upgraded, 0 newly installed, 0 to remove and 3 not upgraded.\n"
    assert count_changes({"a": "1", "b": "1"}, {"a": "2", "b": "2"}, output) == (
        "2 packages upgraded, 0 installed, 0 removed, 3 kept back"
    )
    assert (
        count_changes({"a": "1"}, {"a": "1"}, output.replace("3", "0"))
        == "0 packages upgraded, 0 installed, 0 removed"
    )


def test_the_first_complaint_is_quoted_with_its_other_half() -> None:
    output = (
        "Setting up shop (2) ...\ndpkg: error processing package shop (--configure):\n"
        " installed shop package post-installation script subprocess returned error exit status 1\n"
        "Errors were encountered while processing:\n shop\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n"
    )
    assert first_trouble(output) == (
        "dpkg: error processing package shop (--configure): "
        "installed shop package post-installation script subprocess returned error exit status 1"
    )
    assert first_trouble("all is well") == ""


# ---- the script, by a shell of this host --------------------------------------------------------------------------

#: Each call of apt-get is recorded; its answers are given by the test.
APT = """#!/bin/sh
echo "$*" >>{calls}
{body}
"""
GOOD = 'case $1 in indextargets) echo http://archive;; esac; case "$*" in *dist-upgrade*) cat;; esac'


class Shell:
    """A clone whose shell is this host's, with the programs of a folder and no others."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder
        self.programs = folder / "programs"
        self.spec = SimpleNamespace(kvm=True)
        self.steps = self

    def ssh(self, command: str, *, stdin: str, deadline: float, on_line: Callable[[str], None]) -> process.Result:
        assert command == "sudo -n sh -s"
        return process.run(
            ["/bin/sh", "-c", f"PATH={self.programs}; . /dev/stdin"], stdin=stdin, deadline=deadline, on_line=on_line
        )


def clone_with(folder: Path, **programs: str) -> Any:
    clone = Shell(folder)
    clone.programs.mkdir()
    for name, body in {"systemctl": "exit 0", "sleep": "exit 0", **programs}.items():
        path = clone.programs / name.replace("_", "-")
        path.write_text(APT.format(calls=folder / "calls", body=body))
        path.chmod(stat.S_IRWXU)
    (clone.programs / "cat").symlink_to("/bin/cat")
    return clone


def test_the_script_keeps_configuration_files_and_asks_nothing(tmp_path: Path) -> None:
    clone = clone_with(tmp_path, apt_get=f"{GOOD}; echo done $DEBIAN_FRONTEND")
    assert full_upgrade._run(clone).endswith("done noninteractive\n")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "stop apt-daily.timer" in calls[0] and calls[2].startswith("indextargets")
    assert calls[1] == "-q update -o APT::Update::Error-Mode=any"
    assert "--force-confold" in calls[3] and calls[3].endswith("dist-upgrade")
    assert (tmp_path / full_upgrade.LOG).read_text() == "done noninteractive\n" * 2


def test_the_script_waits_for_apts_own_timer(tmp_path: Path) -> None:
    free, locked = tmp_path / "free", 'echo "E: Could not get lock x"; exit 100'
    held = f'[ "$2" != update ] || [ -e {free} ] || {{ : >{free}; {locked}; }}'
    full_upgrade._run(clone_with(tmp_path, apt_get=f"{held}; {GOOD}"))
    assert (tmp_path / "calls").read_text().count("-q update") == 2


@pytest.mark.parametrize(
    ("programs", "name", "message"),
    [
        ({}, "upgrade-unsupported", "full upgrade: the clone has no apt-get"),
        ({"apt_get": "exit 0"}, "upgrade-failed", "full upgrade: apt knows no package archive"),
        (
            {"apt_get": f'{GOOD}; [ "$2" != update ] || {{ echo "E: Failed to fetch x"; exit 100; }}'},
            "upgrade-failed",
            "full upgrade: the package lists could not be updated: E: Failed to fetch x",
        ),
        (
            {"apt_get": f'[ "$2" != update ] || {{ echo "E: Could not get lock x"; exit 100; }}; {GOOD}'},
            "upgrade-failed",
            "full upgrade: the package lists could not be updated: E: Could not get lock x",
        ),
        (
            {"apt_get": f'{GOOD}; case "$*" in *dist-upgrade*) echo "E: broken"; exit 100;; esac'},
            "upgrade-failed",
            "full upgrade: packages could not be upgraded: E: broken",
        ),
        ({"apt_get": f"{GOOD}; kill -9 $PPID"}, "upgrade-failed", "full upgrade: it ended with -9"),
    ],
)
def test_an_upgrade_that_fails_is_named(tmp_path: Path, programs: dict[str, str], name: str, message: str) -> None:
    with pytest.raises(GuestError) as caught:
        full_upgrade._run(clone_with(tmp_path, **programs))
    assert caught.value.name == name and caught.value.message.startswith(message)
    assert caught.value.hint


def test_an_upgrade_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(full_upgrade.DEADLINE, True, 0.2)
    with pytest.raises(GuestError, match="it was not done after 0 s") as caught:
        full_upgrade._run(clone_with(tmp_path, apt_get=f"{GOOD}; /bin/sleep 60"))
    assert caught.value.name == "upgrade-failed"


# ---- its clone ----------------------------------------------------------------------------------------------------


def test_it_is_started_only_where_it_is_named_and_has_a_way_out() -> None:
    assert "gen2-upgrade" not in [target.name for target in matrix((1, 2), (2011, 2023))]
    for whole in (False, True):
        (run,) = plan_test_runs([TARGETS["gen2-upgrade"]], whole=whole)
        assert run.outside and run.boots == 2
    assert not TestRun(TARGETS["gen2"], "gen2").outside


def test_suites_are_run_against_the_clone_that_has_the_way_out() -> None:
    """A fabric has one way out."""
    suite = TestSuite("s", "", "", "", lambda *_: [], lambda *_: [])
    runs = plan_test_runs([TARGETS[name] for name in ("gen1", "gen2-upgrade", "gen2")], whole=False)
    assert [run.name for run in with_suites(runs, [suite]) if run.outside] == ["gen2-upgrade"]
    runs = plan_test_runs([TARGETS[name] for name in ("start", "gen1", "gen2")], whole=False)
    assert [run.name for run in with_suites(runs, [suite]) if run.outside] == ["gen1"]


def test_a_clone_that_does_not_restart_is_named(tmp_path: Path) -> None:
    spec = Spec("vm", "R1", "prove", kvm=True, cpus=1, memory=1 << 30, disks=(), serial_log=tmp_path / "serial.log")
    # nobody listens at port 1: the request to restart is lost
    clone = Clone(None, spec, Access(tmp_path, "clone", 1), logs=tmp_path, store=tmp_path)  # type: ignore[arg-type]
    clone.timeouts = replace(clone.timeouts, shutdown=0.0)
    with pytest.raises(GuestError) as caught:
        clone.restart()
    assert caught.value.name == "guest-no-restart" and caught.value.hint
