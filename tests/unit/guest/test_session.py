from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base import process
from pipeline.guest.access import Access
from pipeline.systems.linux import scripts
from pipeline.systems.linux.steps import TaskWatcher


def test_ansibles_failure_is_named_by_its_task() -> None:
    lines: list[str] = []
    watcher = TaskWatcher(lines.append)
    for line in (
        "TASK [Gathering Facts] ***",
        "ok: [guest]",
        "TASK [install nginx] ******",
        'fatal: [guest]: FAILED! => {"changed": false, "msg": "No package matching \'nginxx\' is available"}',
    ):
        watcher(line)
    error = process.CommandFailed(["ansible-playbook"], 2, "", "", None)
    assert watcher.reason(error) == "task \"install nginx\": No package matching 'nginxx' is available"
    assert len(lines) == 4


def test_ansibles_failure_has_the_place_of_its_task() -> None:
    watcher = TaskWatcher(lambda _line: None)
    for line in (
        "TASK [may fail] ******",
        "[ERROR]: Task failed: Module failed: no",
        "Origin: /srv/shop/playbooks/shop.yml:6:7",
        "...ignoring",
        "TASK [install nginx] ******",
        "[ERROR]: Task failed: Module failed: No package matching 'nginxx' is available",
        "Origin: /srv/shop/playbooks/tasks/web.yml:12:3",
        'fatal: [guest]: FAILED! => {"changed": false, "msg": "No package matching \'nginxx\' is available"}',
        "Origin: /srv/shop/playbooks/handlers.yml:3:3",
    ):
        watcher(line)
    error = process.CommandFailed(["ansible-playbook"], 2, "", "", None)
    assert watcher.reason(error) == "task \"install nginx\" (web.yml:12): No package matching 'nginxx' is available"


def test_ansible_that_never_reached_a_task_says_why() -> None:
    error = process.CommandFailed(["ansible-playbook"], 4, "", "ERROR! the playbook: x could not be found\n", None)
    assert TaskWatcher(lambda _line: None).reason(error) == "ERROR! the playbook: x could not be found"


def test_access_is_private_and_gone(tmp_path: Path) -> None:
    access = Access.create("R999999", "unit", "someone")
    try:
        assert access.key.stat().st_mode & 0o777 == 0o600
        assert access.key.parent.stat().st_mode & 0o777 == 0o700
        assert access.folder.stat().st_mode & 0o777 == 0o711
        access.trust("ssh-ed25519 AAAA comment")
        assert access.known_hosts.read_text() == f"[127.0.0.1]:{access.ssh_port} ssh-ed25519 AAAA\n"
        assert "StrictHostKeyChecking=yes" in access.ssh()
        access.write_seed({"users": []}, {"version": 2}, "host")
        assert b"cidata" in access.seed.read_bytes()
    finally:
        access.remove()
    assert not access.folder.parent.exists()


def test_generalize_script_is_pinned(golden) -> None:
    golden("generalize/waagent.sh", scripts.generalize_script("waagent"))
    golden("generalize/none.sh", scripts.generalize_script("none"))
    process.run(["sh", "-n"], stdin=scripts.generalize_script("waagent"), deadline=60)


@pytest.mark.parametrize("own", ["", "ssh-ed25519 AAAA of the image\n"])
def test_the_key_of_a_vms_user_is_taken_from_root_too(tmp_path: Path, own: str) -> None:
    """cloud-init gives root the user's key behind a command that refuses it; waagent leaves that line."""
    keys = tmp_path / "authorized_keys"
    refuses = 'command="echo \'Please login as the user \\"web\\" rather than the user \\"root\\".\';exit 142"'
    keys.write_text(f"no-port-forwarding,{refuses} ssh-ed25519 BBBB me\n{own}")
    script = scripts.generalize_script("none", user="web")
    begin = script.index("keys=/root/.ssh/authorized_keys")
    part = script[begin : script.index("rm -f /etc/sudoers.d/waagent", begin)]
    process.run(["sh", "-eu"], stdin=part.replace("/root/.ssh/authorized_keys", str(keys)), deadline=60)
    assert (keys.read_text() if keys.exists() else "") == own
