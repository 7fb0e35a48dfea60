"""Ansible runs as the project's owner, or for root's projects as a user without rights: neither reaches the signing
key or the store."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.errors import GoldsmithError, GuestError, HostError
from pipeline.base.store import ANSIBLE_USER, Store
from pipeline.guest.ansible_requirements import install_requirements
from pipeline.guest.ansible_run import AnsibleProject, ansible_program
from pipeline.guest.plays import CALLBACKS
from pipeline.guest.project_owner import ProjectOwner, copy_vault_password, project_owner, take_report, take_tree
from pipeline.systems.linux.steps import Steps
from tests.unit.guest.test_ansible import GOOD, faults, packed_role, project, step_of
from tests.unit.stages.test_step_empty import Here

NOBODY = pwd.getpwnam("nobody")
OWNER = ProjectOwner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, NOBODY.pw_dir)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Ansible as somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may enter, as they may not enter pytest's own."""
    try:
        OWNER.require_access(Path(sys.executable), ansible_program("ansible-playbook"), CALLBACKS)
    except HostError as error:
        pytest.skip(f"the user nobody may not enter the folder of this checkout: {error.message}")
    with tempfile.TemporaryDirectory(prefix="goldsmith-owner-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def owned(folder: Path, files: dict[str, str]) -> Path:
    """A project of the user nobody."""
    made = project(folder, files)
    OWNER.give(made)
    return made


def run(folder: Path, name: str, secrets: Path | None = None, lines: list[str] | None = None) -> list[str]:
    step = step_of(folder, name)
    access = Here(folder.parent / "access", "root", 1)
    (access.folder / "private").mkdir(mode=0o700, parents=True, exist_ok=True)
    access.key.write_text("the key of the build\n")
    access.key.chmod(0o600)
    variables = access.folder / "private" / "vars.json"
    variables.write_text(json.dumps(dict(step.vars)))
    lines = [] if lines is None else lines
    ansible = AnsibleProject.of(step, None, folder / f"images/{name}.yaml")
    Steps(access, lambda: None).playbook(
        step.file, variables, ansible=ansible, deadline=120, on_line=lines.append, secrets=secrets
    )
    return lines


def on_host(command: str) -> str:
    return (
        f"    - ansible.builtin.shell: {json.dumps(command)}\n      delegate_to: localhost\n      register: found\n"
        "    - ansible.builtin.debug: {msg: 'it is {{ found.stdout }}'}\n"
    )


def test_a_task_on_the_build_host_reaches_neither_the_signing_key_nor_the_store(place: Path) -> None:
    key, store = place / "signing.key", place / "store"
    key.write_text("the private half\n")
    key.chmod(0o600)
    (store / "gallery").mkdir(parents=True)
    (store / "gallery" / "golden").write_text("v1")
    attempts = {
        "reads": f"cat {key}",
        "writes": f"echo v2 > {store}/gallery/golden",
        "removes": f"rm -rf {store}/gallery",
        "access": f"cat {place}/access/private/key",
        "root": "setpriv --reuid 0 true",
    }
    files = {f"playbooks/{name}.yml": GOOD + on_host(command) for name, command in attempts.items()}
    folder = owned(place / "project", {**files, "playbooks/who.yml": GOOD + on_host("id -un")})
    assert any("it is nobody" in line for line in run(folder, "who"))
    for name in attempts:
        lines: list[str] = []
        with pytest.raises(GuestError) as caught:
            run(folder, name, lines=lines)
        assert caught.value.name == "step-failed", name
        assert any("denied" in line or "not permitted" in line for line in lines), lines
    assert (store / "gallery" / "golden").read_text() == "v1"


def test_it_has_the_guest_s_key_and_the_secrets_of_the_step_and_nobody_else_has(place: Path) -> None:
    reads = "stat -c '%n %U %a' $(dirname $GOLDSMITH_PLAYS) $(dirname $GOLDSMITH_PLAYS)/*"
    show = (
        f"    - ansible.builtin.shell: {json.dumps(reads + f' > {place}/out/list')}\n      delegate_to: localhost\n"
    )
    # a shell's task needs no folder for modules, which is named for the guest
    keeps = f"    - ansible.builtin.shell: \"printf %s '{{{{ token }}}}' > {place}/out/token\"\n"
    folder = owned(place / "project", {"playbooks/site.yml": GOOD + show + keeps})
    (place / "out").mkdir()
    OWNER.give(place / "out")
    secrets = place / "secrets.yml"
    secrets.write_text("token: hunter2-of-the-step\n")
    secrets.chmod(0o600)
    run(folder, "site", secrets)
    listed = {
        line.split()[0].rpartition("/")[2]: line.split()[1:] for line in (place / "out/list").read_text().splitlines()
    }
    assert listed["owner"] == ["nobody", "700"]
    assert listed["key"] == ["nobody", "600"] and listed["secrets.yml"] == ["nobody", "600"]
    assert (place / "out/token").read_text() == "hunter2-of-the-step"


def test_the_check_of_a_playbook_runs_as_the_owner_too(place: Path) -> None:
    """A lookup is code: this one runs while Ansible only lists the plays."""
    hosts = "- hosts: \"{{ lookup('pipe', 'id -un') }}\"\n  tasks: [ping: ]\n"
    folder = owned(place / "project", {"playbooks/site.yml": hosts, "playbooks/good.yml": GOOD})
    (fault,) = faults(folder, "site", "good")
    assert "hosts: nobody matches no host" in fault.message, str(fault)


def test_required_roles_are_installed_by_the_owner_and_are_root_s(place: Path) -> None:
    files = {
        "playbooks/site.yml": "- hosts: all\n  roles: [greeting]\n",
        "roles/requirements.yml": "- {src: greeting.tar.gz, name: greeting, version: '1.0'}\n",
    }
    folder = project(place / "project", files)
    packed = folder / "roles/greeting.tar.gz"
    packed_role(packed, "- ansible.builtin.debug: {msg: the required role}\n")
    OWNER.give(folder)
    found = install_requirements(step_of(folder, "site"), folder, Store(place / "store"))
    assert found is not None
    (tasks,) = (place / "store").rglob("greeting/tasks/main.yml")
    assert tasks.stat().st_uid == 0 and "the required role" in tasks.read_text()
    # what the owner may not read is not installed for it
    os.chown(packed, 0, 0)
    packed.chmod(0o600)
    with pytest.raises(GoldsmithError):
        install_requirements(step_of(folder, "site"), folder, Store(place / "another"))
    assert not list((place / "another").rglob("greeting"))


def test_a_tree_of_the_owner_is_taken_without_following_its_links(place: Path) -> None:
    source, target = place / "source", place / "target"
    (source / "inner").mkdir(parents=True)
    target.mkdir()
    (source / "inner/program").write_text("x")
    (source / "inner/program").chmod(0o4777)
    (source / "link").symlink_to("/etc/shadow")
    os.mkfifo(source / "fifo")
    OWNER.give(source)
    take_tree(source, target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        "inner", "inner/program", "link",
    ]  # fmt: skip
    assert (target / "link").readlink() == Path("/etc/shadow")
    assert (target / "inner/program").stat().st_mode & 0o7777 == 0o755
    assert (target / "inner/program").stat().st_uid == 0


def test_who_runs_it(place: Path) -> None:
    folder = project(place / "project", {"playbooks/site.yml": GOOD})
    definition, playbook = folder / "images/site.yaml", folder / "playbooks/site.yml"
    stand_in = project_owner(definition, playbook)
    assert stand_in is not None and stand_in.service and stand_in.name in (ANSIBLE_USER, "nobody"), "root's own"
    os.chown(playbook, OWNER.uid, OWNER.gid)
    assert project_owner(definition, playbook) == OWNER
    os.chown(definition, 54_321, 54_321)
    with pytest.raises(HostError) as caught:
        project_owner(definition, playbook)
    assert caught.value.name == "project-owner-unknown" and "54321" in caught.value.message
    assert caught.value.hint is not None and "chown" in caught.value.hint


def test_what_the_owner_may_not_read_is_named(place: Path) -> None:
    folder = owned(place / "project", {"playbooks/site.yml": GOOD})
    place.chmod(0o700)
    with pytest.raises(HostError) as caught:
        run(folder, "site")
    assert caught.value.name == "project-owner-blocked" and "playbooks/site.yml" in caught.value.message


def test_a_report_that_is_a_link_or_no_file_is_not_read(place: Path) -> None:
    target, report = place / "taken.json", place / "plays.json"
    take_report(report, target)
    assert not target.exists()
    secret = place / "secret"
    secret.write_text("{}")
    report.symlink_to(secret)
    for make in (lambda: None, lambda: os.mkfifo(report), lambda: report.write_text("no JSON")):
        make()
        with pytest.raises(GuestError, match="report of its plays"):
            take_report(report, target)
        report.unlink()
    assert not target.exists()
    report.write_text('{"plays": []}')
    take_report(report, target)
    assert json.loads(target.read_text()) == {"plays": []}


def test_a_vault_password_of_root_is_copied_and_a_program_is_not(place: Path) -> None:
    password, folder = place / "password", place / "private"
    folder.mkdir()
    password.write_text("x\n")
    password.chmod(0o600)
    copy = copy_vault_password(password, folder)
    assert copy == folder / "password" and copy.read_text() == "x\n" and copy.stat().st_mode & 0o777 == 0o600
    shutil.copy("/bin/true", password)
    assert copy_vault_password(password, folder) == password and copy_vault_password(None, folder) is None
