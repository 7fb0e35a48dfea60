"""How often the files that a playbook may read are read. Which they are: test_definition_inputs.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.reading import reading_once
from pipeline.definition import load, playbook_files, step_inputs


def test_a_plan_of_many_images_reads_each_file_of_a_playbook_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the texts that are searched for names of files, and by the keys, which are those of a read each time."""
    files = {
        f"playbooks/roles/web/tasks/{number}.yml": f"- ansible.builtin.command: echo {number}\n"
        for number in range(10)
    }
    files["playbooks/site.yml"] = "- hosts: all\n  roles: [web]\n"
    for number in range(5):
        files[f"images/site{number}.yaml"] = (
            "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n"
            f"steps: [{{playbook: site.yml, vars: {{number: {number}}}}}]\n"
        )
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    steps = [load(tmp_path / f"images/site{number}.yaml", tmp_path).steps[0] for number in range(5)]
    searched: list[str] = []
    real = playbook_files._pointed_at
    monkeypatch.setattr(
        playbook_files, "_pointed_at", lambda own, base, text: searched.append(text) or real(own, base, text)
    )
    each = [step_inputs(step) for step in steps]
    assert len(searched) == 5 * (1 + 1 + 10), "the variables, the playbook, the role"
    searched.clear()
    with reading_once():
        assert [step_inputs(step) for step in steps] == each
    assert len(searched) == 5 + 1 + 10
