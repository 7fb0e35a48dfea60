"""Whether a variable's value decides what Ansible finds when it parses a playbook: asked of Ansible too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.base.store import Store
from pipeline.definition import Definition, load
from pipeline.guest import playbook_check
from pipeline.guest.parse_time import variables_parsed
from tests.unit.guest.test_ansible import step_of

PLAY = "- hosts: guest\n  gather_facts: false\n"
TASK = f"{PLAY}  tasks:\n    - "
#: Files with `word` in them. Where it is in a task's own words, it waits for the guest.
WAITS = {
    "argument": {"site.yml": TASK + "ansible.builtin.copy: {content: '{{ word }}', dest: /etc/word}\n"},
    "condition": {"site.yml": TASK + "ansible.builtin.ping:\n      when: word == 'one'\n"},
    "name": {"site.yml": TASK + "ansible.builtin.ping:\n      name: 'say {{ word }}'\n"},
    "loop": {"site.yml": TASK + "ansible.builtin.ping:\n      loop: ['{{ word }}']\n"},
    "play-variable": {"site.yml": f"{PLAY}  vars: {{other: '{{{{ word }}}}'}}\n  tasks: [ansible.builtin.ping: ]\n"},
    "block": {"site.yml": TASK + "block: [ansible.builtin.command: 'echo {{ word }}']\n      rescue: []\n"},
    "included": {"site.yml": TASK + "ansible.builtin.include_tasks: '{{ word }}.yml'\n"},
    "imported": {
        "site.yml": TASK + "ansible.builtin.import_tasks: more.yml\n",
        "more.yml": "- ansible.builtin.command: echo {{ word }}\n",
    },
    "role": {
        "site.yml": f"{PLAY}  roles: [motd]\n",
        "roles/motd/tasks/main.yml": "- ansible.builtin.command: echo {{ word }}\n",
        "roles/motd/defaults/main.yml": "other: '{{ word }}'\n",
    },
}
#: Where Ansible takes it as it parses, or may.
PARSED = {
    "hosts": {"site.yml": "- hosts: '{{ word }}'\n  tasks: [ansible.builtin.ping: ]\n"},
    "imported-name": {
        "site.yml": TASK + "ansible.builtin.import_tasks: '{{ word }}.yml'\n",
        "one.yml": "- ansible.builtin.ping:\n",
    },
    "imported-play": {
        "site.yml": "- import_playbook: '{{ word }}.yml'\n",
        "one.yml": f"{PLAY}  tasks: [ansible.builtin.ping: ]\n",
    },
    "role-name": {
        "site.yml": f"{PLAY}  roles: [{{role: '{{{{ word }}}}'}}]\n",
        "roles/one/tasks/main.yml": "- ansible.builtin.ping:\n",
    },
    "role-needs": {
        "site.yml": f"{PLAY}  roles: [motd]\n",
        "roles/motd/tasks/main.yml": "- ansible.builtin.ping:\n",
        "roles/motd/meta/main.yml": "dependencies: [{role: '{{ word }}'}]\n",
        "roles/one/tasks/main.yml": "- ansible.builtin.ping:\n",
    },
    "variable-of-hosts": {
        "site.yml": "- hosts: '{{ at }}'\n  tasks: [ansible.builtin.ping: ]\n",
        "group_vars/all.yml": "at: '{{ word }}'\n",
    },
    "tag": {"site.yml": TASK + "ansible.builtin.ping:\n      tags: '{{ word }}'\n"},
}


def project(folder: Path, files: dict[str, str], word: str) -> Definition:
    for name, text in files.items():
        (folder / "playbooks" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "playbooks" / name).write_text(text)
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images/shop.yaml").write_text(
        "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n"
        f"steps: [{{playbook: site.yml, vars: {{word: {word}}}}}]\n"
    )
    return load(folder / "images/shop.yaml", folder.resolve())


@pytest.mark.parametrize("name", [*WAITS, *PARSED])
def test_which_values_are_parsed(name: str, tmp_path: Path) -> None:
    project(tmp_path, {**WAITS, **PARSED}[name], "one")
    assert variables_parsed(step_of(tmp_path, "shop"), installed=False) == {"word": "one" if name in PARSED else None}


def test_values_that_are_parsed_wherever_they_stand(tmp_path: Path) -> None:
    for word in ("'{{ other }}'", "['{% raw %}']"):
        project(tmp_path, WAITS["argument"], word)
        step = step_of(tmp_path, "shop")
        assert variables_parsed(step, installed=False) == step.vars
    project(tmp_path, WAITS["argument"], "one")
    assert variables_parsed(step_of(tmp_path, "shop"), installed=True) == {"word": "one"}
    (tmp_path / "playbooks/site.yml").write_text("- hosts: [\n")
    assert variables_parsed(step_of(tmp_path, "shop"), installed=False) == {"word": "one"}


def test_ansible_says_the_same_of_every_value_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real answers, with the key that each value has of its own."""
    monkeypatch.setattr(playbook_check, "variables_parsed", lambda step, installed: dict(step.vars))
    answers: dict[str, tuple[int, str]] = {}
    real = playbook_check._run_all

    def keep(checks: dict[str, playbook_check._Check]) -> dict[str, tuple[int, str, str]]:
        found = real(checks)
        for key, check in checks.items():
            code, out, _ = found[key]
            answers[check.definition.project.name] = code, out.replace(str(check.definition.project), "")
        return found

    monkeypatch.setattr(playbook_check, "_run_all", keep)
    every = {**WAITS, **PARSED}
    definitions = [
        project(tmp_path / f"{name}-{word}", files, word) for name, files in every.items() for word in ("one", "none")
    ]
    playbook_check.check_playbooks(definitions, Store(tmp_path / "store"))
    assert len(answers) == 2 * len(every), json.dumps(answers)
    differs = {name for name in every if answers[f"{name}-one"] != answers[f"{name}-none"]}
    # of this one the playbook alone does not show that Ansible knows no variables of groups there
    assert differs == PARSED.keys() - {"variable-of-hosts"}


def test_images_that_differ_in_such_a_value_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    real = playbook_check._run_all
    monkeypatch.setattr(playbook_check, "_run_all", lambda checks: runs.append(len(checks)) or real(checks))
    for files in (WAITS["argument"], PARSED["hosts"]):
        found = [project(tmp_path, files, word) for word in ("guest", "all", "nobody")]
        faults = playbook_check.check_playbooks(found, Store(tmp_path / "store"))
        assert len(faults.get(found[0].path, ())) == (files is PARSED["hosts"])
    assert runs == [1, 3]
