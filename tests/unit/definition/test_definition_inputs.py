"""What goes into a step: each input, changed alone, changes the step's inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.definition import CopyStep, PlaybookStep, ScriptStep, step_inputs

FILES = {
    "web.yml": """\
- hosts: guest
  vars_files: [vars/ports.yml]
  roles: [nginx]
  tasks:
    - include_tasks: tasks/users.yml
    - copy: {src: motd, dest: /etc/motd}
    - ansible.builtin.copy: {src: site/, dest: /srv}
    - ansible.builtin.copy: {src: ../files/outside, dest: /srv/outside}
    - ansible.builtin.script: "{{ playbook_dir }}/../scripts/run.sh"
- import_playbook: second.yml
""",
    "second.yml": "- hosts: guest\n  tasks: [{template: {src: second.conf.j2, dest: /a}}]\n",
    "vars/ports.yml": "port: 80\n",
    "tasks/users.yml": "- include_tasks: more.yml\n",
    "tasks/more.yml": "[]\n",
    "files/motd": "hello\n",
    "files/site/deep/index.html": "hello\n",
    "templates/second.conf.j2": "{% include 'part.j2' %}\n",
    "templates/part.j2": "x\n",
    "roles/nginx/tasks/main.yml": "- template: {src: nginx.conf, dest: /etc/nginx.conf}\n",
    "roles/nginx/templates/nginx.conf": "x\n",
    "roles/nginx/meta/main.yml": "dependencies: [common]\n",
    "roles/common/defaults/main.yml": "a: 1\n",
    "group_vars/guest.yml": "b: 1\n",
    "library/module.py": "pass\n",
    "../files/outside": "x\n",
    "../scripts/run.sh": "x\n",
    "../ansible.cfg": "[defaults]\n",
}
OTHERS = {
    "shop.yml": "- hosts: guest\n",
    "files/shop.conf": "x\n",
    "roles/shop/tasks/main.yml": "[]\n",
}


@pytest.fixture
def playbooks(tmp_path: Path) -> Path:
    base = tmp_path.resolve() / "playbooks"
    for name, text in (FILES | OTHERS).items():
        path = (base / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return base


def step(base: Path, name: str = "web.yml") -> PlaybookStep:
    return PlaybookStep(file=base / name, playbook=name, vars={"a": [1, {"b": 2}]})


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


@pytest.mark.parametrize("name", FILES)
def test_each_file_of_a_playbook_is_an_input(playbooks: Path, name: str) -> None:
    before = step_inputs(step(playbooks))
    path = playbooks / name
    path.write_text(path.read_text() + "# changed\n")
    expected = f"playbook {name}" if name == "web.yml" else f"file {name}"
    assert changed(before, step_inputs(step(playbooks))) == {expected}


@pytest.mark.parametrize("name", OTHERS)
def test_what_another_playbook_has_is_no_input(playbooks: Path, name: str) -> None:
    before = step_inputs(step(playbooks))
    (playbooks / name).write_text("changed")
    assert step_inputs(step(playbooks)) == before


def test_a_file_that_appears_or_goes_is_a_change(playbooks: Path) -> None:
    before = step_inputs(step(playbooks))
    (playbooks / "roles/nginx/tasks/extra.yml").write_text("[]\n")
    assert changed(before, step_inputs(step(playbooks))) == {"file roles/nginx/tasks/extra.yml"}
    (playbooks / "files/motd").unlink()
    assert "file files/motd" in changed(before, step_inputs(step(playbooks)))


def test_the_mode_of_a_drawn_in_file_is_an_input(playbooks: Path) -> None:
    before = step_inputs(step(playbooks))
    (playbooks / "files/motd").chmod(0o755)
    assert changed(before, step_inputs(step(playbooks))) == {"file files/motd"}


def test_variables_and_network_are_inputs_and_titles_are_not(playbooks: Path) -> None:
    first = step(playbooks)
    before = step_inputs(first)
    assert changed(before, step_inputs(replace(first, vars={"a": [1, {"b": 3}]}))) == {"vars"}
    assert changed(before, step_inputs(replace(first, network="none"))) == {"network"}
    assert step_inputs(replace(first, name="other", timeout=1)) == before
    swapped = replace(first, vars={"x": 1, "y": 2})
    assert step_inputs(swapped) == step_inputs(replace(first, vars={"y": 2, "x": 1}))


@pytest.mark.parametrize(
    "task", ["copy: {src: files/, dest: /a}", "copy: src=files dest=/a", "copy: {src: ./files, dest: /a}"]
)
def test_a_folder_named_whole_is_whole(playbooks: Path, task: str) -> None:
    (playbooks / "whole.yml").write_text(f"- hosts: guest\n  tasks:\n    - {task}\n")
    inputs = step_inputs(step(playbooks, "whole.yml"))
    assert {"file files/motd", "file files/shop.conf"} <= inputs.keys()
    assert "file templates/part.j2" not in inputs


def test_an_absolute_path_is_an_input_inside_the_project_only(playbooks: Path, tmp_path: Path) -> None:
    inside = playbooks.parent / "files/outside"
    (playbooks / "absolute.yml").write_text(f"- hosts: guest\n  tasks: [copy: {{src: {inside}, dest: /etc/hosts}}]\n")
    assert step_inputs(step(playbooks, "absolute.yml")).keys() >= {"file ../files/outside"}
    assert not any("hosts" in key for key in step_inputs(step(playbooks, "absolute.yml")))


def test_a_computed_task_name_is_no_computed_file(playbooks: Path) -> None:
    (playbooks / "named.yml").write_text("- hosts: guest\n  tasks: [{name: 'a {{ b }}', apt: {name: '{{ c }}'}}]\n")
    assert "file files/shop.conf" not in step_inputs(step(playbooks, "named.yml"))


@pytest.mark.parametrize(
    "task",
    [
        "copy: {src: '{{ item }}', dest: /a}",
        "ansible.builtin.template: 'src={{ item }}.j2 dest=/a'",
        "debug: {msg: \"{{ lookup('file', item) }}\"}",
        "copy: {src: '{{ item }}', dest: /a}\n      with_fileglob: ['files/*']",
        "include_vars: {file: '{{ distribution }}.yml'}",
        "include_role: {name: '{{ which }}'}",
        "include_role: {name: !unsafe '{{ which }}'}",
    ],
)
def test_where_names_are_computed_every_file_is_an_input(playbooks: Path, task: str) -> None:
    (playbooks / "dynamic.yml").write_text(f"- hosts: guest\n  tasks:\n    - {task}\n")
    before = step_inputs(step(playbooks, "dynamic.yml"))
    for name in ("files/shop.conf", "roles/shop/tasks/main.yml", "vars/ports.yml"):
        assert f"file {name}" in before


def test_a_computed_playbook_draws_in_its_neighbours(playbooks: Path) -> None:
    (playbooks / "dynamic.yml").write_text("- import_playbook: '{{ which }}.yml'\n")
    assert "file shop.yml" in step_inputs(step(playbooks, "dynamic.yml"))


def test_a_file_that_only_the_variables_name(playbooks: Path) -> None:
    (playbooks / "plain.yml").write_text("- hosts: guest\n")
    first = replace(step(playbooks, "plain.yml"), vars={"config": "shop.conf"})
    assert "file files/shop.conf" in step_inputs(first)


def test_a_playbook_that_is_no_yaml_draws_in_everything(playbooks: Path) -> None:
    (playbooks / "broken.yml").write_text("- hosts: [\n")
    assert "file files/shop.conf" in step_inputs(step(playbooks, "broken.yml"))


def test_a_playbook_in_a_folder(playbooks: Path) -> None:
    (playbooks / "team").mkdir()
    (playbooks / "team/web.yml").write_text("- hosts: guest\n  roles: [nginx]\n")
    inputs = step_inputs(step(playbooks, "team/web.yml"))
    assert {"playbook team/web.yml", "file roles/nginx/tasks/main.yml", "file group_vars/guest.yml"} <= inputs.keys()


def test_a_script_is_its_bytes(tmp_path: Path) -> None:
    script = tmp_path / "a.sh"
    script.write_text("true\n")
    first = ScriptStep(file=script, script="a.sh")
    before = step_inputs(first)
    script.write_text("false\n")
    assert changed(before, step_inputs(first)) == {"script a.sh"}


TREE_CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "a").write_text("other"),
    "the executable bit": lambda root: (root / "a").chmod(0o755),
    "a new file": lambda root: (root / "b").touch(),
    "a new folder": lambda root: (root / "f").mkdir(),
    "a name": lambda root: (root / "a").rename(root / "c"),
    "a link's target": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("d")),
    "behind a link": lambda root: (root.parent / "outside").write_text("other"),
    "deep": lambda root: (root / "d" / "e").write_text("other"),
    "a file gone": lambda root: (root / "a").unlink(),
}


@pytest.mark.parametrize("change", TREE_CHANGES)
def test_a_copied_tree_is_its_names_modes_and_contents(tmp_path: Path, change: str) -> None:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "a").write_text("hello")
    (root / "d" / "e").touch()
    (root / "d" / "loop").symlink_to(root)
    (root / "link").symlink_to("a")
    (tmp_path / "outside").touch()
    (root / "out").symlink_to("../outside")
    first = CopyStep(file=root, copy_from="tree", to="/srv")
    before = step_inputs(first)
    assert step_inputs(first) == before
    TREE_CHANGES[change](root)
    assert changed(before, step_inputs(first)) == {"copy tree"}


def test_where_a_copy_goes_and_its_mode_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    first = CopyStep(file=tmp_path / "a", copy_from="a", to="/a")
    before = step_inputs(first)
    assert changed(before, step_inputs(replace(first, to="/b"))) == {"to"}
    assert changed(before, step_inputs(replace(first, mode="0600"))) == {"mode"}
    (tmp_path / "a").chmod(0o755)
    assert changed(before, step_inputs(first)) == {"copy a"}


def test_a_playbook_above_its_folder_draws_in_nothing_from_beside_the_project(playbooks: Path) -> None:
    project = playbooks.parent
    (project / "site.yml").write_text("- hosts: guest\n  roles: ['{{ which }}']\n")
    beside = project.parent / "beside.yml"
    beside.write_text("- ping:\n")
    inputs = step_inputs(PlaybookStep(file=project / "site.yml", playbook="../site.yml"))
    assert "file playbooks/web.yml" in inputs and not any("beside" in name for name in inputs)
