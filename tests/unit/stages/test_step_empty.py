"""A step that did nothing is an error, named step-empty: playbooks by Ansible's report, files by content."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline import context as contexts
from pipeline.base.errors import GuestError, UsageError
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.layers import Layers
from pipeline.context import BuildContext
from pipeline.definition import DefinitionError, load_named
from pipeline.definition.ansible_config import AnsibleConfig
from pipeline.gallery import Gallery
from pipeline.guest.access import Access
from pipeline.guest.ansible_run import AnsibleProject
from pipeline.guest.plays import verify_plays
from pipeline.stages.provision import Provision
from pipeline.systems.debian import apt
from pipeline.systems.linux.steps import Steps
from tests.cases import case
from tests.unit.engine.test_plan import DEFINITION, FILES

TASK = "    - ansible.builtin.command: 'true'\n"


class Here(Access):
    """Access to a guest that is this process's own host."""

    def inventory(self) -> Path:
        path = self.folder / "private" / "inventory.json"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        path.write_text(json.dumps({"all": {"hosts": {"guest": host}}}))
        return path


def run(folder: Path, playbook: str | Path) -> list[str]:
    """Run a playbook as a step does; the lines that it said."""
    (folder / "private").mkdir(exist_ok=True)
    file = playbook if isinstance(playbook, Path) else folder / "site.yml"
    if not isinstance(playbook, Path):
        file.write_text(playbook)
    lines: list[str] = []
    ansible = AnsibleProject(AnsibleConfig())
    Steps(Here(folder, "root", 1), lambda: None).playbook(
        file, None, ansible=ansible, deadline=120, on_line=lines.append
    )
    return lines


def empty(folder: Path, playbook: str | Path) -> GuestError:
    with pytest.raises(GuestError) as caught:
        run(folder, playbook)
    assert caught.value.name == "step-empty" and caught.value.hint, caught.value.message
    return caught.value


def test_a_play_that_matches_no_host(tmp_path: Path) -> None:
    found = empty(tmp_path, case("projects/playbooks/nohosts.yml"))
    assert found.message == 'play "web servers" (hosts: webservers) matches no host: it was skipped'
    assert found.hint == "write `hosts: all`: the inventory has one host, guest, and no other group"


#: Plays that did nothing, each with what is said of it.
ODD = {
    "- hosts: webservers\n  tasks:\n" + TASK: "matches no host",
    "- hosts: localhost\n  tasks:\n" + TASK: "matches no host",
    "- hosts: [db, web]\n  tasks:\n" + TASK: "(hosts: db, web) matches no host",
    "- hosts: all:!guest\n  tasks:\n" + TASK: "matches no host",
    "- hosts: all\n  gather_facts: false\n  tasks: []\n": "ran no task",
    "- hosts: all\n  gather_facts: false\n  roles: []\n": "ran no task",
    "- hosts: all\n  gather_facts: false\n  vars: {a: 1}\n": "ran no task",
    f"- hosts: all\n  gather_facts: false\n  handlers:\n{TASK}": "ran no task",
    f"- hosts: all\n  gather_facts: false\n  tasks:\n{TASK}      tags: [never]\n": "ran no task",
    f"- hosts: all\n  gather_facts: false\n  check_mode: true\n  tasks:\n{TASK}": "check mode",
}
#: Plays that did something, or looked and had nothing to do.
GOOD = (
    f"- hosts: all\n  gather_facts: false\n  tasks:\n{TASK}      when: false\n",
    f"- hosts: guest\n  gather_facts: false\n  pre_tasks:\n{TASK}",
    f"- hosts: all\n  gather_facts: false\n  tasks:\n{TASK}      tags: [nginx]\n",
    f"- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.meta: end_play\n{TASK}",
    f"- hosts: all\n  gather_facts: false\n  strategy: free\n  tasks:\n{TASK}",
    # facts alone are something where they are asked for
    "- hosts: all\n  gather_facts: true\n  gather_subset: ['!all', '!min']\n",
)


def test_each_play_is_judged(tmp_path: Path) -> None:
    found = empty(tmp_path, "".join([*GOOD, *ODD]))
    assert "webservers" in found.message
    report = tmp_path / "private/plays.json"
    facts = json.loads(report.read_text())
    assert len(facts["plays"]) == len(GOOD) + len(ODD)
    report.write_text(json.dumps({**facts, "plays": facts["plays"][: len(GOOD)]}))
    verify_plays(report)
    for play, result in zip(facts["plays"][len(GOOD) :], ODD.values(), strict=True):
        report.write_text(json.dumps({**facts, "plays": [play]}))
        with pytest.raises(GuestError) as caught:
            verify_plays(report)
        assert caught.value.name == "step-empty" and caught.value.hint and result in caught.value.message


def test_the_callers_ansible_variables_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags, check mode, callbacks, colours, inventories and strategies of a shell or a CI job."""
    variables = {
        "CALLBACK_PLUGINS": str(tmp_path),
        "CHECK_MODE": "1",
        "CONFIG": str(tmp_path / "none.cfg"),
        "FORCE_COLOR": "1",
        "INVENTORY": "localhost,",
        "ROLES_PATH": str(tmp_path),
        "RUN_TAGS": "nginx",
        "SKIP_TAGS": "all",
        "STDOUT_CALLBACK": "minimal",
        "STRATEGY": "free",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"ANSIBLE_{name}", value)
    monkeypatch.setenv("PY_COLORS", "1")
    lines = run(tmp_path, f"- hosts: all\n  gather_facts: false\n  tasks:\n{TASK}")
    assert [line.split(" *")[0] for line in lines[1:3]] == ["TASK [ansible.builtin.command]", "changed: [guest]"]
    failing = "- hosts: all\n  gather_facts: false\n  tasks:\n    - {name: it, ansible.builtin.command: 'false'}\n"
    with pytest.raises(GuestError, match=r'task "it" \(\w+\.yml:4\): non-zero return code'):
        run(tmp_path, failing)


def test_a_play_that_asks_for_the_build_host_is_not_run_there(tmp_path: Path) -> None:
    """`connection: local` would do a guest's tasks to the host; here no guest answers."""
    text = (
        f"- hosts: all\n  gather_facts: false\n  connection: local\n  tasks:\n    - command: touch {tmp_path}/here\n"
    )
    (tmp_path / "private").mkdir()
    (tmp_path / "site.yml").write_text(text)
    with pytest.raises(GuestError, match="port 1: Connection refused"):
        Steps(Access(tmp_path, "nobody", 1), lambda: None).playbook(
            tmp_path / "site.yml", None, ansible=AnsibleProject(AnsibleConfig()), deadline=120, on_line=lambda _: None
        )
    assert not (tmp_path / "here").exists()


def test_a_failed_task_is_still_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(GuestError) as caught:
        run(tmp_path, "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: 'false'\n")
    assert caught.value.name == "step-failed"


# ---- files ---------------------------------------------------------------------------------------------------------


def project(folder: Path, files: dict[str, str], definition: str = DEFINITION) -> Path:
    for name, text in {**FILES, **files, "images/site.yaml": definition}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "script",
    ["", "\n \n", "#!/bin/sh\n", "#!/bin/bash\n# later: echo x\n\nset -euo pipefail\n", "\ufeff#!/bin/sh\r\n# x\r\n"],
)
def test_a_script_without_a_command(tmp_path: Path, script: str) -> None:
    folder = project(tmp_path, {"scripts/tune.sh": script})
    with pytest.raises(DefinitionError) as caught:
        load_named(folder, "site")
    assert str(caught.value.faults[0]).startswith(
        "images/site.yaml:9:13: steps[1].script: scripts/tune.sh does nothing"
    )


@pytest.mark.parametrize("script", ["#!/bin/sh\ntrue\n", "exit 0", "#!/usr/bin/python3\nprint()\n", "x=1 # y\n"])
def test_a_script_with_a_command(tmp_path: Path, script: str) -> None:
    load_named(project(tmp_path, {"scripts/tune.sh": script}), "site")


def test_a_folder_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "INDEX_AGE", 0.0)
    monkeypatch.setattr(apt, "package_index", lambda _suite: "index")
    copied = DEFINITION.replace("files/motd, to: /etc/motd", "files/site, to: /srv/site")
    folder = project(tmp_path / "project", {}, copied)
    (folder / "files/site/below/it").mkdir(parents=True)
    store = Store(tmp_path / "store")
    store.ensure()
    building = BuildContext(load_named(folder, "site"), store, NO_RUN, Layers(store.layers), Gallery(store.gallery))
    with pytest.raises(UsageError) as caught:
        Provision().units(building)
    assert caught.value.name == "step-empty" and caught.value.hint
    (folder / "files/site/below/it/x").write_text("")
    assert len(Provision().units(building)) == 3
