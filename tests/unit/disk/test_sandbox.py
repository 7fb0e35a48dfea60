"""The process that reads a hostile disk: what it may not do, and what its parent makes of its answers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import DiskError, HostError, UsageError
from pipeline.checks import inspect_disk, run_checks
from pipeline.checks.sandbox import INSPECT
from pipeline.disk import confinement, open_disk, sandbox
from pipeline.disk.questions import Answer, Asked, Question, pack_rows, unpack_rows
from pipeline.systems.questions import LIST, known_systems, list_disk, with_systems
from tests.fakes import fake_disk


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return fake_disk.as_vhd(fake_disk.build(folder), folder / "disk.vhd")


def test_the_same_results_as_in_process(good: Path) -> None:
    good.chmod(0o600)
    with open_disk(good) as disk:
        assert inspect_disk(good) == run_checks(disk)
    with pytest.raises(UsageError):
        inspect_disk(good, waive={"no-such": "x"})


def test_one_worker_answers_several_questions(good: Path) -> None:
    systems = {"systems": known_systems()}
    with sandbox.Worker([with_systems(LIST)], good) as worker:
        first = worker.ask(LIST, {"list": "os", "key": "", **systems})
        rows = json.loads(first.blobs[0])
        with pytest.raises(DiskError) as caught:
            worker.ask(LIST, {"list": "registry", "key": "SOFTWARE", **systems})
        assert caught.value.hint
        assert worker.ask(LIST, {"list": "os", "key": "", **systems}).blobs == first.blobs
    assert rows[0] == ["ID", "debian"] and len(rows) == first.value


def test_a_chain_is_opened_by_the_parent_and_only_where_it_may(good: Path, tmp_path: Path) -> None:
    base, top = tmp_path / "store" / "base.qcow2", tmp_path / "store" / "top" / "top.qcow2"
    top.parent.mkdir(parents=True)
    fake_disk.tool("qemu-img", "convert", "-f", "vpc", "-O", "qcow2", good, base)
    fake_disk.tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
    assert list_disk(top, what="os", allow_backing_within=tmp_path / "store") == list_disk(good, what="os")
    for within, name in ((None, "qcow2-backing-file"), (top.parent, "backing-outside")):
        with pytest.raises(DiskError) as caught:
            list_disk(top, what="os", allow_backing_within=within)
        assert caught.value.name == name
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path / "store")
    assert list_disk(linked / "top" / "top.qcow2", what="os", allow_backing_within=linked)


def test_a_packed_disk_is_unpacked_for_the_reader_and_removed(good: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.qcow2"
    fake_disk.tool("qemu-img", "convert", "-f", "vpc", "-O", "qcow2", "-c", good, packed)
    systems = {"systems": known_systems()}
    with sandbox.Worker([with_systems(LIST)], packed, scratch=tmp_path) as worker:
        assert json.loads(worker.ask(LIST, {"list": "os", "key": "", **systems}).blobs[0])[0] == ["ID", "debian"]
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == [packed]


#: What a reader that was taken over would try, each as a call of its own; the module runs in the worker.
TRIES = """
import ctypes, os, socket
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
low_open = os.open

def can(what):
    try:
        what()
        return True
    except (OSError, MemoryError):
        return False

def libc_can(*call):
    return libc.syscall(*call) >= 0

def unix():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("/run/libvirt/libvirt-sock")

def network():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))

def write():
    os.close(low_open("/tmp/x", os.O_WRONLY | os.O_CREAT))

def tries(asked):
    other = asked.parameters["other"]
    return {
        "network": can(network),
        "unix socket": can(unix),
        "file by name": can(lambda: os.close(low_open(other, os.O_RDONLY))),
        "file by the parent": can(lambda: open(other).close()),
        "folder": can(lambda: os.listdir("/")),
        "new file in /tmp": can(write),
        "process": can(lambda: os.fork() or os._exit(0)),
        "program": can(lambda: os.execv("/bin/true", ["true"])),
        "signal": can(lambda: os.kill(1, 0)),
        "memory file": can(lambda: os.memfd_create("x")),
        "ptrace": libc_can(101, 16, 1, 0, 0),
        "mount": libc_can(165, 0, 0, 0, 0, 0),
        "unshare": libc_can(272, 0x10000000),
        "executable memory": can(lambda: __import__("mmap").mmap(-1, 4096, prot=7)),
        "much memory": can(lambda: bytearray(300 << 20)),
        "link": can(lambda: os.symlink("a", "/b")),
        "root": os.getuid() == 0,
    }

def tell(asked):
    return Path(asked.path).stat().st_size
"""


@pytest.fixture
def attackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module beside the readers whose functions a worker can be asked."""
    (tmp_path / "attackers.py").write_text(TRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_rights_are_gone(good: Path, attackers: Path) -> None:
    secret = attackers / "secret"
    secret.write_text("x")
    answer = sandbox.ask(
        Question("tries", "attackers:tries", modules=("mmap",)), good, parameters={"other": str(secret)}
    )
    assert {name for name, works in answer.value.items() if works} == set()
    assert answer.confinement["seccomp"] and answer.confinement["landlock"]
    assert {"mount", "network", "ipc", "pid", "root"} <= set(answer.confinement["namespaces"])


def test_the_seccomp_filter_alone_holds(good: Path, attackers: Path) -> None:
    """Where the kernel grants neither namespaces nor landlock nothing more is possible than with them."""
    script = """
import json, os, sys
sys.path[:0] = [%r]
import attackers, mmap
from pipeline.disk import confinement
from pipeline.disk.questions import Asked
applied = confinement.Applied()
confinement.limit_resources(confinement.Limits(208 << 20, 10, 1 << 20))
confinement.become_nobody()
confinement.filter_calls(applied, allowed=confinement.READER_CALLS)
tries = attackers.tries(Asked(None, None, None, {"other": %r}))
os.write(1, json.dumps(tries).encode())
os._exit(0)
"""
    secret = attackers / "secret"
    secret.write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", script % (str(attackers), str(secret))],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(sandbox.__file__).parents[2],
    )
    works = {name for name, works in json.loads(done.stdout).items() if works}
    assert works <= ({"root"} if os.geteuid() == 0 else set()) - {"root"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
@pytest.mark.parametrize(
    "lost", ["-sys_admin", "-sys_admin,-dac_read_search", "-sys_admin,-dac_read_search,-dac_override", "-all"]
)
def test_a_root_without_capabilities_reads_all_the_same(good: Path, tmp_path: Path, lost: str) -> None:
    """As in a container: what the kernel refuses is named, filter and landlock hold, tools read a private disk."""
    packed = tmp_path / "packed.qcow2"
    fake_disk.tool("qemu-img", "convert", "-f", "vpc", "-O", "qcow2", "-c", good, packed)
    packed.chmod(0o600)
    script = """
import json, sys
from pathlib import Path
from pipeline.systems.questions import LIST, known_systems, with_systems
from pipeline.disk import sandbox
answer = sandbox.ask(
    with_systems(LIST), Path(sys.argv[1]), parameters={"list": "os", "key": "", "systems": known_systems()}
)
print(json.dumps([answer.value, answer.confinement]))
"""
    done = subprocess.run(
        ["setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}", sys.executable, "-c", script, str(packed)],
        capture_output=True,
        text=True,
        cwd=Path(sandbox.__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, confinement = json.loads(done.stdout)
    assert rows == 3 and confinement["seccomp"] and confinement["landlock"] and "mount" in confinement["missing"]


def test_what_could_not_be_applied_is_recorded(good: Path) -> None:
    order = {"list": "os", "key": "", "systems": known_systems()}
    answer = sandbox.ask(with_systems(LIST), good, parameters=order)
    result = answer.confinement
    assert set(result) == {"namespaces", "landlock", "seccomp", "missing"}


def test_no_filter_is_an_error_of_the_host(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'OSError: [Errno 2] libseccomp.so.2' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(HostError) as caught:
        inspect_disk(good)
    assert caught.value.name == "sandbox-unavailable" and caught.value.hint


#: A worker that misbehaves, as the parent sees it: it says that it is ready, and then SAYS.
MISBEHAVES = """
import os, signal, socket, sys, time
sys.path[:0] = {path!r}
from pipeline.disk.questions import pack
from pipeline.disk.worker_messages import receive, send
SYSTEM = {system!r}
channel, result = socket.socket(fileno=int(sys.argv[-2])), int(sys.argv[-1])
receive(channel)
send(channel, {{"do": "ready", "confinement": {{}}}})
receive(channel)
def answer(value, blobs=()):
    send(channel, {{"do": "answer", "length": pack(result, value, list(blobs))}})
{body}
"""


def misbehave(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script, fake = folder / "worker.py", folder / "python"
    system = {"system": "linux", "profile": "azure-linux", "recognized": True}
    script.write_text(MISBEHAVES.format(path=[str(Path(sandbox.__file__).parents[2])], system=system, body=body))
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} {script} $4 $5\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "reader-crashed"),
        ("time.sleep(600)", "reader-too-slow"),
        ("channel.sendall(b'abcdefgh'); time.sleep(600)", "reader-lies"),
        ("channel.sendall(b'\\x00\\x01\\x00\\x00half'); time.sleep(600)", "reader-too-slow"),
        ("send(channel, {'do': 'format', 'disk': '/dev/sda'})", "reader-lies"),
        ("send(channel, {'do': 'open', 'path': 7})", "reader-lies"),
        ("send(channel, {'do': 'answer', 'length': 1 << 60})", "reader-lies"),
        ("send(channel, {'do': 'answer', 'length': -5})", "reader-lies"),
        ("send(channel, {'do': 'answer', 'length': 8})", "reader-lies"),
        ("send(channel, {'do': 'tool', 'tool': 'map', 'parameters': {'fmt': 'raw', 'files': ['/etc/shadow']}})",
         "reader-lies"),
        ("send(channel, {'do': 'tool', 'tool': 'rm', 'parameters': {}})", "reader-lies"),
        ("os.write(result, b'\\xff' * 100); send(channel, {'do': 'answer', 'length': 100})", "reader-lies"),
        ("answer({'answer': 'garbage'})", "reader-lies"),
        ("answer({'answer': {'system': SYSTEM, 'results': 'garbage'}})", "reader-lies"),
        ("answer({'answer': {'system': SYSTEM, 'results': [{'id': 'machine-id', 'status': 'great'}]}})",
         "reader-lies"),
        ("answer({'answer': {'system': SYSTEM, 'results': [{'id': 'x', 'status': 'pass'}]}})", "reader-lies"),
        ("answer({'answer': {'system': {**SYSTEM, 'system': 'plan9'}, 'results': []}})", "reader-lies"),
        ("answer({'answer': {'system': {**SYSTEM, 'profile': 'azure-windows'}, 'results': []}})", "reader-lies"),
        ("answer({'error': 'x'})", "reader-lies"),
        ("answer({'error': {'name': 'gpt-damaged', 'message': 'x'}})", "gpt-damaged"),
        ("answer({'error': {'name': 'Über/../x', 'message': 'x'}})", "disk-unreadable"),
    ],
)  # fmt: skip
def test_a_reader_that_misbehaves(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, name: str
) -> None:
    misbehave(tmp_path, monkeypatch, body)
    # a reader that answers may take its time
    seconds = 0.4 if name == "reader-too-slow" else 120
    quick = Question(INSPECT.name, INSPECT.where, seconds=seconds, seconds_per_gib=0)
    monkeypatch.setattr("pipeline.checks.sandbox.INSPECT", quick)
    with pytest.raises(DiskError) as caught:
        inspect_disk(good)
    assert caught.value.name == name and caught.value.hint


def test_a_reader_that_the_host_kills_says_nothing_about_the_disk(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does so for want of memory."""
    misbehave(tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DiskError) as caught:
        inspect_disk(good)
    assert caught.value.name == "reader-crashed"
    assert "Out of memory" in str(caught.value.hint) and "malicious" not in str(caught.value.hint)


def test_its_words_are_cut_and_cleaned(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome: dict[str, Any] = {
        "id": "machine-id",
        "status": "fail",
        "evidence": "\x1b[2J" + "x" * 9999,
        "remedy": "rm",
    }
    misbehave(tmp_path, monkeypatch, f"answer({{'answer': {{'system': SYSTEM, 'results': [{outcome!r}]}}}})")
    (result,) = inspect_disk(good)
    assert "\x1b" not in result.evidence and len(result.evidence) == 4096 and result.remedy != "rm"


def test_a_long_list_comes_in_pieces(tmp_path: Path) -> None:
    asked = Asked(tmp_path, None, None, {})
    rows = [[f"/a/file of its own {number}", "file", "0"] for number in range(100_000)]
    count = pack_rows(asked, rows)
    assert count == len(rows) and len(asked.blobs) > 1
    assert unpack_rows(Answer(count, tuple(asked.blobs), {}), tmp_path, 3, len(rows)) == rows
    pack_rows(empty := Asked(tmp_path, None, None, {}), [])
    assert unpack_rows(Answer(0, tuple(empty.blobs), {}), tmp_path, 3, 10) == []
    for blobs, most in (
        (asked.blobs, 10),
        ([b"[" * 200_000], 10),
        ([b"[[],"], 10),
        ([b"[" + b"[]," * 2_000_000 + b"[]]"], 10**9),
        ([b'[["a"]]'], 10),
        ([b"{}"], 10),
    ):
        with pytest.raises(DiskError) as caught:
            unpack_rows(Answer(0, tuple(blobs), {}), tmp_path, 3, most)
        assert caught.value.name == "reader-lies"


def test_files_that_are_no_disks_are_refused_before_anything_starts(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, name in ((pipe, "disk-not-a-file"), (tmp_path, "disk-not-a-file"), (tmp_path / "x", "disk-missing")):
        with pytest.raises(DiskError) as caught:
            inspect_disk(path)
        assert caught.value.name == name and caught.value.hint


def test_a_limit_of_open_files_is_not_an_error_of_the_disk(good: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    systems = {"systems": list(known_systems())}
    with sandbox.Worker([with_systems(LIST)], good) as worker:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            with pytest.raises(HostError) as caught:
                worker.ask(LIST, {"list": "os", "key": "", **systems})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.name == "too-many-files" and str(good) in caught.value.message
    assert caught.value.hint is not None and "ulimit -n" in caught.value.hint


def test_the_reader_learns_that_a_backing_file_is_a_folder(good: Path, tmp_path: Path) -> None:
    top, base = tmp_path / "top.qcow2", tmp_path / "base.raw"
    base.write_bytes(bytes(1 << 20))
    fake_disk.tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top)
    base.unlink()
    base.mkdir()
    with pytest.raises(DiskError) as caught:
        list_disk(top, what="os", allow_backing_within=tmp_path)
    assert caught.value.name == "disk-not-a-file"


def test_every_call_of_the_filter_is_known_to_libseccomp() -> None:
    library = confinement.load_seccomp()
    unknown = [
        rule.name
        for rule in confinement.READER_CALLS
        if library.seccomp_syscall_resolve_name(rule.name.encode()) == -1
    ]
    assert unknown == []
