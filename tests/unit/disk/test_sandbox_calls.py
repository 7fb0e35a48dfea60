"""What the sandbox's worker asks of the kernel on hostile disks, as strace sees it: no file, socket or process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.checks import inspect_disk
from pipeline.disk import sandbox
from pipeline.systems.linux import set_up_session
from pipeline.systems.questions import list_disk
from tests.fakes import hostile_disks
from tests.tools import needs_tool
from tests.unit.disk import test_attacks

#: Calls that make something: a file opened, a socket, a process, a program. None may come after the filter.
MAKES = (
    "open openat openat2 creat memfd_create socket socketpair connect bind execve execveat fork vfork clone clone3"
)
#: A line of strace -f -o: the process, the call, what follows.
LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)$")

needs_strace = needs_tool("strace")


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every Python that the sandbox starts runs below strace; each writes a log into this folder."""
    folder, fake = tmp_path / "logs", tmp_path / "python"
    folder.mkdir()
    calls = ",".join([*MAKES.split(), "seccomp"])
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in *sandbox_worker*) kind=worker ;; *) kind=tool ;; esac\n'
        f"exec strace -f -qq --seccomp-bpf -e trace={calls} -e signal=none -o {folder}/$kind.$$"
        f' {sys.executable} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    return folder


def after_the_filter(log: Path) -> tuple[list[str], list[str]]:
    """Lines before and after the process has loaded its filter; the process is the one that loads it."""
    lines = [found for found in map(LINE.match, log.read_text().splitlines()) if found]
    loader = next(each for each in lines if each[2] == "seccomp" and "SECCOMP_SET_MODE_FILTER, 0" in each[3]
                  and each[3].endswith("= 0"))  # fmt: skip
    at = lines.index(loader)
    own = [each for each in lines[at + 1 :] if each[1] == loader[1]]
    return [each[0] for each in lines[:at]], [each[0] for each in own]


def ask(disk: Path, question: str) -> None:
    try:
        if question == "inspect":
            inspect_disk(disk)
        elif question == "boot":
            sandbox.ask(set_up_session.BOOT_FILES, disk)
        else:
            list_disk(disk, what=question)
    except DiskError:
        pass  # that it is named is another test's


@pytest.mark.slow
@needs_strace
def test_no_file_and_no_socket_on_twenty_hostile_disks(tmp_path: Path, logs: Path) -> None:
    template = hostile_disks.template(tmp_path)
    disks = {"good": template}
    # one takes seconds of qemu-img's alone, which is not what is looked at here
    for name in sorted({*test_attacks.QUICK, "ext4_huge_link"} - {"qcow2_checkerboard"}):
        disks[name] = tmp_path / f"{name}.img"
        if name in hostile_disks.CONTAINERS:
            hostile_disks.CONTAINERS[name](disks[name])
        elif name in hostile_disks.FILE_SYSTEMS:
            hostile_disks.FILE_SYSTEMS[name](disks[name], template)
        else:
            hostile_disks.INITRAMFS[name]()(disks[name], template)
    assert len(disks) >= 20
    for name, disk in disks.items():
        ask(disk, "boot" if name in hostile_disks.INITRAMFS else "inspect" if name == "good" else "volumes")
        disk.unlink()
    workers = sorted(logs.glob("worker.*"))
    assert len(workers) == len(disks)
    made = {}
    for log in workers:
        before, after = after_the_filter(log)
        # the log sees opens: the libraries were loaded under its eyes
        assert [line for line in before if "openat(" in line]
        made |= {f"{log.name}: {line}": True for line in after}
    assert list(made) == []


@needs_strace
def test_a_tool_makes_no_socket_and_opens_what_it_was_given(tmp_path: Path, logs: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    hostile_disks.qcow2_shared_packed(disk)
    ask(disk, "volumes")
    (log,) = logs.glob("tool.*")
    _, after = after_the_filter(log)
    opened = [re.search(r'"([^"]+)"', line) for line in after if "openat(" in line and "= -1" not in line]
    names = {found[1] for found in opened if found}
    assert str(disk) in names
    outside = {name for name in names if not name.startswith(("/usr/", "/lib", "/etc/ld.so", "/dev/"))}
    assert outside == {str(disk)}
    assert not [line for line in after if re.search(r"\b(socket|connect|bind|socketpair)\(.*= (?!-1)", line)]
