"""A project that root owns: its playbooks, requirements and commands run as a user without rights, wherever it is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.base.errors import GuestError, HostError, UsageError
from pipeline.base.store import ANSIBLE_USER, Store
from pipeline.definition import load
from pipeline.guest.ansible_requirements import install_requirements
from pipeline.guest.project_owner import RUNS_AS, ProjectOwner, project_owner
from pipeline.guest.secret_values import SecretValues
from tests.unit.guest.test_ansible import GOOD, faults, packed_role, project, step_of
from tests.unit.guest.test_project_owner import on_host, run

#: Its name and its rights.
WHO = "id -un; cat /proc/self/status"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Ansible as somebody else")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that only root may enter, as /root."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    return folder


def stand_in() -> ProjectOwner:
    found = project_owner(Path("/"), Path("/"))
    assert found is not None and found.uid != 0
    return found


def test_a_task_on_the_build_host_is_not_root_and_reaches_neither_key_nor_store(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, store = closed / "signing.key", closed / "store"
    key.write_text("the private half\n")
    (store / "gallery").mkdir(parents=True)
    (store / "gallery/golden").write_text("v1")
    store.chmod(0o777)
    monkeypatch.setenv("GOLDSMITH_HOME", str(store))
    attempts = {
        "readskey": f"cat {key}",
        "readsstore": f"cat {store}/gallery/golden",
        "writes": f"echo v2 > {store}/gallery/golden",
        "removes": f"rm -r {store}/gallery",
        "access": f"cat {closed}/access/private/key",
        "project": f"touch {closed}/project/playbooks/new",
        "host": f"cat /proc/{os.getpid()}/root{key}",
        "root": "setpriv --reuid 0 true",
        "mounts": f"umount {closed}",
    }
    tasks = "".join(
        f"    - ansible.builtin.shell: {json.dumps(command)}\n      delegate_to: localhost\n"
        "      ignore_errors: true\n      register: found\n"
        f"    - ansible.builtin.debug: {{msg: '{name} ended with {{{{ found.rc }}}}'}}\n"
        for name, command in attempts.items()
    )
    folder = project(closed / "project", {"playbooks/site.yml": GOOD + on_host(WHO) + tasks})
    words = "\n".join(run(folder, "site"))
    assert f"it is {stand_in().name}" in words and "CapBnd:\\t0000000000000000" in words
    for name in attempts:
        assert f"{name} ended with " in words and f"{name} ended with 0" not in words, words
    assert (store / "gallery/golden").read_text() == "v1" and not (folder / "playbooks/new").exists()


def test_what_a_playbook_names_it_can_read_whatever_its_mode(closed: Path) -> None:
    """Roles by ansible.cfg, files beside the project's playbooks, a private file, a vault's password."""
    files = {
        "playbooks/site.yml": "- hosts: all\n  vars_files: [vars/private.yml]\n  roles: [web]\n  tasks:\n"
        "    - ansible.builtin.debug: {msg: \"{{ token }} {{ lookup('file', '../files/motd') }}\"}\n"
        + on_host("dirname $GOLDSMITH_PLAYS")
        + '    - ansible.builtin.copy: {content: "kept by ", dest: "{{ found.stdout }}/kept"}\n'
        + "      delegate_to: localhost\n"
        + on_host("cat $(dirname $GOLDSMITH_PLAYS)/kept; id -un"),
        "playbooks/vars/private.yml": "token: of the private file\n",
        "shared/web/tasks/main.yml": "- ansible.builtin.debug: {msg: the shared role}\n",
        "files/motd": "welcome",
        "ansible.cfg": "[defaults]\nroles_path = shared\n",
    }
    folder = project(closed / "project", files)
    (folder / "playbooks/vars/private.yml").chmod(0o600)
    assert faults(folder, "site") == []
    lines = "\n".join(run(folder, "site"))
    for words in ("the shared role", "of the private file welcome", f"it is kept by {stand_in().name}"):
        assert words in lines, lines


@pytest.mark.skipif(shutil.which("sudo") is None, reason="this host has no sudo")
def test_a_task_of_the_build_host_that_wants_root_names_the_variable(closed: Path) -> None:
    task = "    - ansible.builtin.command: id\n      delegate_to: localhost\n      become: true\n"
    folder = project(closed / "project", {"playbooks/site.yml": GOOD + task})
    with pytest.raises(GuestError, match=f"build host run as {stand_in().name}: set {RUNS_AS}=root"):
        run(folder, "site")


@pytest.mark.parametrize("mask", [0o077, 0o027])
def test_a_checkout_that_only_root_may_read(closed: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        files = {
            "playbooks/site.yml": "- hosts: all\n  roles: [web]\n",
            "playbooks/roles/web/tasks/main.yml": "- debug: {msg: \"{{ lookup('file', 'page') }}\"}\n",
            "playbooks/roles/web/files/page": "the page of the role",
        }
        folder = project(closed / "project", files)
    finally:
        os.umask(old)
    assert faults(folder, "site") == []
    assert any("the page of the role" in line for line in run(folder, "site"))


def test_links_lead_where_they_led(closed: Path) -> None:
    folder = project(closed / "real", {"playbooks/site.yml": GOOD + on_host("cat extra")})
    (closed / "more").write_text("behind a link")
    (folder / "playbooks/extra").symlink_to("../../more")
    (closed / "linked").symlink_to("real")
    assert any("it is behind a link" in line for line in run(closed / "linked", "site"))


def test_the_check_of_a_playbook_is_not_root_s(closed: Path) -> None:
    hosts = "- hosts: \"{{ lookup('pipe', 'id -un') }}\"\n  tasks: [ping: ]\n"
    folder = project(closed / "project", {"playbooks/site.yml": hosts})
    (fault,) = faults(folder, "site")
    assert f"hosts: {stand_in().name} matches no host" in fault.message, str(fault)


def test_required_roles_are_installed_from_root_s_files(closed: Path) -> None:
    files = {
        "playbooks/site.yml": "- hosts: all\n  roles: [greeting]\n",
        "roles/requirements.yml": "- {src: greeting.tar.gz, name: greeting, version: '1.0'}\n",
    }
    folder = project(closed / "project", files)
    packed_role(folder / "roles/greeting.tar.gz", "- ansible.builtin.debug: {msg: the required role}\n")
    (folder / "roles/greeting.tar.gz").chmod(0o600)
    store = Store(closed / "store")
    found = install_requirements(step_of(folder, "site"), folder, store)
    assert found is not None
    (tasks,) = store.root.rglob("greeting/tasks/main.yml")
    assert tasks.stat().st_uid == 0


def secret(folder: Path, command: str) -> bytes:
    text = (
        "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n"
        f"secrets: {{token: {{command: {json.dumps(command)}}}}}\n"
        "steps: [{script: step.sh, secrets: [token]}]\n"
    )
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images/x.yaml").write_text(text)
    (folder / "step.sh").write_text("#!/bin/sh\ntrue\n")
    return SecretValues(load(folder / "images/x.yaml", folder), folder).read("token")


def test_the_command_of_a_secret(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (closed / "token").write_text("of the project")
    assert secret(closed, "id -un; cat token") == f"{stand_in().name}\nof the project".encode()
    (closed / "token").chmod(0o600)
    with pytest.raises(UsageError, match=f"as {stand_in().name} .*(denied|No such file)") as caught:
        secret(closed, "cat token")
    assert caught.value.name == "secret-command-failed" and RUNS_AS in str(caught.value.hint)
    monkeypatch.setenv(RUNS_AS, "root")
    assert secret(closed, "id -un; cat token") == b"root\nof the project"


def test_the_host_chooses_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNS_AS, "daemon")
    assert stand_in().name == "daemon"
    monkeypatch.setenv(RUNS_AS, "root")
    assert project_owner(Path("/"), Path("/")) is None
    monkeypatch.setenv(RUNS_AS, "no-such-user")
    with pytest.raises(HostError) as caught:
        stand_in()
    assert caught.value.name == "ansible-user-missing" and "no-such-user" in str(caught.value.hint)
    monkeypatch.delenv(RUNS_AS)
    monkeypatch.setattr("pipeline.guest.project_owner.ANSIBLE_USER", "no-such-user")
    assert stand_in().name == "nobody" and ANSIBLE_USER == "goldsmith-ansible"
