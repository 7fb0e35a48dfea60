"""What root in a container lacks is tried, not guessed. The processes here really lack it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.environment import locate_store
from pipeline.hypervisor import host, privileges
from pipeline.hypervisor.finding import Finding

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give rights up")
LOOK = "import json; from pipeline.hypervisor import privileges as p; print(json.dumps([[l.name, l.text, l.fix] for l in p.find_lacks()]))"  # fmt: skip # noqa: E501


def lacks(*wrap: str) -> dict[str, tuple[str, str]]:
    """`find_lacks` of a process that `wrap` has taken rights from."""
    done = subprocess.run([*wrap, sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=60)
    return {name: (text, fix) for name, text, fix in json.loads(done.stdout)}


@needs_root
def test_a_container_without_sys_admin_is_found() -> None:
    """doctor said ok there, and the first build ended in `unshare failed`."""
    found = lacks("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")
    assert {"capabilities", "mounts", "networks"} <= set(found)
    assert "CAP_SYS_ADMIN" in found["capabilities"][0]
    assert "unshare" in found["mounts"][0]
    assert all("--privileged" in fix for _, fix in found.values())


@needs_root
def test_a_container_without_net_admin_is_found() -> None:
    found = lacks("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")
    assert "networks" in found and "mounts" not in found
    assert "CAP_NET_ADMIN" in found["capabilities"][0]


@needs_root
@pytest.mark.skipif(not privileges.TUN.exists(), reason="this host has no /dev/net/tun either")
def test_a_container_without_tun_is_found() -> None:
    hide = (
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        'mount -t tmpfs tmpfs /dev/net && exec "$@"',
    )
    text, fix = lacks(*hide, "sh")["tun"]
    assert "No such file or directory" in text
    assert "--device /dev/net/tun" in fix


def test_each_missing_capability_is_named() -> None:
    assert privileges.missing_capabilities(0x000001FFFFFFFFFF) == []
    # what a container has by default
    assert privileges.missing_capabilities(0x00000000A80425FB) == ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]
    assert privileges.missing_capabilities(0) == list(privileges.CAPABILITIES)


def test_a_log_daemon_that_does_not_run_is_found(tmp_path: Path) -> None:
    path = Path(tmp_path / "virtlogd-sock")
    assert privileges.log_daemon_refused(path) == "No such file or directory"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert privileges.log_daemon_refused(path) == "Connection refused"
        server.listen()
        assert privileges.log_daemon_refused(path) is None


def test_numbers_without_names_are_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run us under a user and groups that its files do not name."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_001)
    monkeypatch.setattr(os, "getgroups", lambda: [4_000_002])
    (finding,) = host._rights()
    assert finding.verdict == "fail" and "4000001" in finding.text


def test_a_look_that_the_host_forbids_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_path: object) -> shutil._ntuple_diskusage:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host.shutil, "disk_usage", forbidden)
    monkeypatch.setattr(host, "_accelerator", lambda _store, _refresh: [Finding("accelerator", "ok", "kvm")])
    found = {finding.name: finding for finding in host.examine(locate_store)}
    assert found["disk"].verdict == "fail" and "Permission denied" in found["disk"].text
    assert all(finding.fix for finding in found.values() if finding.verdict != "ok")


def test_a_line_that_is_not_ok_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="has no remedy"):
        Finding("x", "warn", "something is amiss")
