"""A build host of its own inside this one: its processes, its network, its /run and its libvirtd are nobody else's.

    python -m tests.own_host COMMAND...

What runs there may kill libvirtd, or play a restart of the host, and nobody else notices. It is made of namespaces;
the disks are shared, and so is the processor. When COMMAND ends, every process there ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.harness import wait_for
from tests.processes import has_ended, kill, process_ids

ROOT = Path(__file__).parents[1]
#: Where libvirt keeps what it knows; a host of its own has these anew.
_FOLDERS = ("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt")
#: Names the process that made the host, so that nobody plays a restart of a host that is not his own.
_MARK = "GOLDSMITH_OWN_HOST"
#: Seconds for a daemon to answer, on a busy host.
SOON = 60.0


# ---- from outside ------------------------------------------------------------------------------------------------


def run(argv: Sequence[str], *, deadline: float) -> subprocess.CompletedProcess[str]:
    """Run a command on a host of its own. Its output is captured; all that it has started has ended afterwards."""
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation"]
    with tempfile.TemporaryDirectory(prefix="goldsmith-own-host-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        init = ["tini", "--", sys.executable, "-m", "tests.own_host", "--inside", folder]
        return subprocess.run(
            [*words, "private", *init, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=deadline,
            cwd=ROOT,
            env={**os.environ, _MARK: folder, "GOLDSMITH_TEST_BASE": folder, "PYTHONPATH": str(ROOT)},
            check=False,
        )


# ---- on it -------------------------------------------------------------------------------------------------------


def set_up(scratch: Path) -> None:
    """Make this process's namespaces a host: an empty /run, libvirt's folders without any domain, loopback."""
    _clear_mounts()
    _sh("mount -t tmpfs -o mode=755 none /run")
    _sh("mount -t sysfs none /sys")
    for name in _FOLDERS:
        inner = scratch / name
        inner.mkdir(parents=True)
        source = Path("/", name)
        if name in ("etc/libvirt", "var/cache/libvirt"):  # its settings, and what it has found out of QEMU
            shutil.copytree(source, inner, dirs_exist_ok=True)
        shutil.copystat(source, inner)
    for domain in (scratch / "etc/libvirt/qemu").glob("*.xml"):
        domain.unlink()
    with (scratch / "etc/libvirt/qemu.conf").open("a") as settings:
        settings.write("cgroup_controllers = [ ]\n")  # the groups of processes are the outer host's
    state = scratch / "var/lib/libvirt/qemu"
    state.mkdir()
    owner = Path("/var/lib/libvirt/qemu").stat()
    os.chown(state, owner.st_uid, owner.st_gid)
    for name in _FOLDERS:
        _sh(f"mount --bind {scratch / name} /{name}")
    _boot()


def _boot() -> None:
    """What a host's start brings: loopback, folders in /run, the daemons."""
    for folder in ("lock", "netns"):
        Path("/run", folder).mkdir()
    _sh("ip link set lo up")
    _sh("virtlogd -d")
    start_libvirtd()


def start_libvirtd() -> None:
    _sh("libvirtd -d -t 0")
    wait_for("libvirtd", _answers, SOON)


def _answers() -> bool:
    return subprocess.run(["virsh", "-q", "uri"], capture_output=True, check=False).returncode == 0


def kill_libvirtd() -> None:
    """SIGKILL: what it was doing stays half done. The guests run on."""
    _need_own_host()
    pid = int(Path("/run/libvirtd.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for("the end of libvirtd", lambda: not Path(f"/proc/{pid}").exists(), SOON)


def restart_host() -> None:
    """As after a power cut and a start: no process of before, an empty /run and tmpfs, no network of ours."""
    _need_own_host()
    kept = {1, os.getpid(), *_ancestors()}
    wait_for("the end of all processes", lambda: _end_others(kept), SOON)
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout.split("\n")
    for name in (line.split()[0].split("@")[0] for line in links if line.strip()):
        if name != "lo" and Path("/sys/class/net", name).exists():
            _sh(f"ip link delete {name}")
    _clear_mounts()
    for path in Path("/run").iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _boot()


def _clear_mounts() -> None:
    """Unmount what lies below /run."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted((each for each in mounted if each.startswith("/run/")), reverse=True):
        _sh(f"umount -l {place}")


def _need_own_host() -> None:
    if _MARK not in os.environ or Path("/proc/1/comm").read_text().strip() != "tini":
        raise AssertionError("this is not a host of its own: python -m tests.own_host makes one")


def _ancestors() -> set[int]:
    found, pid = set(), os.getppid()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _end_others(kept: set[int]) -> bool:
    living = [pid for pid in process_ids() if pid not in kept and not has_ended(pid)]
    for pid in living:
        kill(pid)
    return not living


def _sh(words: str) -> None:
    done = subprocess.run(words.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{words}: {done.stderr.strip()}")


def main() -> int:
    if sys.argv[1:2] != ["--inside"]:
        done = run(sys.argv[1:], deadline=86400)
        print(done.stdout, end="")
        return done.returncode
    set_up(Path(sys.argv[2]))
    began = time.monotonic()
    code = subprocess.run(sys.argv[3:], check=False).returncode
    print(f"{' '.join(sys.argv[3:5])} took {time.monotonic() - began:.0f} s on its own host", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
