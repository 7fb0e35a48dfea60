"""Whether the values of a step's variables decide what Ansible finds when it parses a playbook.

Ansible evaluates expressions while it parses only in a few places: the keywords of a play, the names that `import_*`
takes, the roles of a play or of a role, tags. Everywhere else an expression waits for the guest. A playbook with no
expression in such a place is parsed alike for all images, whatever values they give.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.reading import read_once
from pipeline.definition import PlaybookStep
from pipeline.definition.playbook_files import YAML_SUFFIXES, file_text, step_files, yaml_documents

_LISTS_OF_TASKS = frozenset({"tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always"})
#: Keywords of a task or a block whose values Ansible evaluates, or resolves, while it parses.
_PARSED_OF_TASK = frozenset({"tags", "action", "local_action", "collections"})
_MARKS = ("{{", "{%", "{#")


def variables_parsed(step: PlaybookStep, *, installed: bool) -> dict[str, Any]:
    """The step's variables, as far as they decide what Ansible finds: each name; and its value, or None.

    `installed`: whether the playbook uses what Galaxy has installed, which is not looked into. Raises OSError where a
    file has gone since the definition was loaded.
    """
    every_value = installed or any(_has_parsed_expression(path) for path in step_files(step))
    return {
        name: value if every_value or name.startswith("ansible_") or _has_expression(value) else None
        for name, value in step.vars.items()
    }


@read_once
def _has_parsed_expression(path: Path) -> bool:
    """Whether a file has an expression where Ansible parses; true where that cannot be found out."""
    if path.suffix not in YAML_SUFFIXES:
        return False
    documents = yaml_documents(file_text(path))
    return documents is None or any(map(_in_document, documents))


def _in_document(document: object) -> bool:
    if isinstance(document, list):
        return any(map(_in_entry, document))
    # variables, or what a role says of itself
    return isinstance(document, dict) and _has_expression(document.get("dependencies"))


def _in_entry(entry: object) -> bool:
    """In a play, a task or a block."""
    if not isinstance(entry, dict):
        return _has_expression(entry)
    is_play = "hosts" in entry or any(_last(key) == "import_playbook" for key in entry)
    return any(_in_keyword(_last(key), value, is_play=is_play) for key, value in entry.items())


def _in_keyword(key: str, value: object, *, is_play: bool) -> bool:
    if key in _LISTS_OF_TASKS and isinstance(value, list):
        return any(map(_in_entry, value))
    if key.startswith("import_"):
        return _has_expression(value) or not _is_yaml(key, value)
    return (key in _PARSED_OF_TASK or (is_play and key != "vars")) and _has_expression(value)


def _is_yaml(key: str, value: object) -> bool:
    """Whether an import names a file that was looked into; a role's files have their own names."""
    file = value.get("file") if isinstance(value, Mapping) else value
    return key == "import_role" or str(file).partition(" ")[0].endswith(YAML_SUFFIXES)


def _has_expression(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_has_expression(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return any(map(_has_expression, value))
    return isinstance(value, str) and any(mark in value for mark in _MARKS)


def _last(key: object) -> str:
    return str(key).rpartition(".")[2]
