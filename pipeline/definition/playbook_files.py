"""Which files of a project a playbook may read.

Ansible finds files in more ways than can be followed from outside, so this errs towards too much: a file that
is drawn in needlessly costs one rebuild when it changes, a file that is missed would leave a stale layer.
A playbook draws in, besides itself:

- always, what Ansible reads unasked: group_vars/, host_vars/, library/, plugins, collections/, ansible.cfg and the
  folders with plugins, modules and collections that it names;
- of the folders with roles that ansible.cfg names, the roles whose names are said;
- every file whose name, or the name of a folder that it lies in (a role), is said in what is already drawn in,
  over and over until nothing new comes; a role comes whole;
- where a file's name is computed (a Jinja expression, a lookup, a glob), every file that it could be.

What lies outside of the project (roles installed for the user, an absolute path elsewhere) is not seen. The password
of a vault is left out: what it opens is in by its digest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.base.reading import read_once, reading_once
from pipeline.definition.ansible_config import AnsibleConfig, read_config
from pipeline.definition.model import PlaybookStep

#: Ansible reads these beside a playbook without being told to.
_UNASKED = re.compile(
    r"group_vars|host_vars|library|module_utils|collections|.*_plugins|ansible\.cfg|requirements\.ya?ml"
)
#: Folders that say what a file is, not whose it is; any other folder's name stands for all that is in it.
_PLAIN = frozenset({"files", "templates", "roles", "vars", "defaults", "tasks", "handlers", "meta", "scripts"})
_LEFT_OUT = frozenset({".git", "__pycache__", ".venv", ".cache"})
#: The last part of a key whose value may be, or hold, the name of a file on the building side.
_NAMES_A_FILE = re.compile(
    r"(src|file|dir|script|copy|template|unarchive|assemble|include|fetch|patch|role|roles|vars_files|vars_from|"
    r"tasks_from|defaults_from|handlers_from|"
    r"(include|import)_(tasks|vars|role|playbook)|with_(first_found|fileglob|file|filetree|items|nested))"
)
_INCLUDING = re.compile(r"(include|import)_(tasks|vars|role|playbook)|include|roles|vars_files|role")
_COMPUTED = re.compile(
    r"\b(lookup|query|q)\s*\(|fileglob|first_found|filetree|\{%[-+]?\s*(include|import|from|extends)\s+(?![\"'][^\"']+[\"'])"
)
_PATTERN = re.compile(r"\{\{|/.*[*?\[]|[*?\[].*/", re.DOTALL)
_LARGEST_SCANNED = 4 * 1024 * 1024
YAML_SUFFIXES = (".yml", ".yaml", ".json")


def playbook_texts(step: PlaybookStep) -> Iterator[tuple[Path, str]]:
    """The files that may name a collection, a role or a variable: the playbook and what it draws in; and their texts.

    Left out are lists of requirements, which name everything, and collections in the project, which name each other.
    """
    yield step.file, file_text(step.file)
    for path in sorted(drawn_in(step, playbooks_folder(step))):
        if path.stem != "requirements" and "ansible_collections" not in path.parts:
            yield path, file_text(path)


def step_files(step: PlaybookStep) -> list[Path]:
    """The files that the playbook may read, itself first. Raises OSError."""
    return [step.file, *sorted(drawn_in(step, playbooks_folder(step)))]


def config_of(step: PlaybookStep) -> AnsibleConfig:
    """The ansible.cfg that the step's playbook is run with."""
    return read_config(step.file, playbooks_folder(step).parent)


def playbooks_folder(step: PlaybookStep) -> Path:
    """playbooks/ itself, also where the step names a playbook in a folder of it; else the playbook's own folder."""
    parts = Path(os.path.normpath(step.playbook)).parts
    # above playbooks/ there is the project, and what is beside it is nobody's business
    return step.file.parent if parts[0] in ("/", "..") else step.file.parents[len(parts) - 1]


@dataclass(frozen=True)
class _Mentions:
    """The files that a text names; whether it computes names of others, and of included task files among them."""

    files: frozenset[Path]
    computes: bool
    computes_include: bool = False


@dataclass(frozen=True)
class _Candidate:
    """A file that may be named: by these words, or by these plain folders that it lies in."""

    words: tuple[str, ...]
    plain: tuple[str, ...]

    @classmethod
    def of(cls, relative: Path) -> _Candidate:
        folders = relative.parts[:-1]
        words = {relative.name, *(part for part in folders if part not in _PLAIN)}
        if folders:
            words |= {relative.stem, relative.stem.split(".")[0]}
        return cls(tuple(word for word in words if word), tuple(part for part in folders if part in _PLAIN))

    def is_mentioned(self, text: str) -> bool:
        """Whether a text says the name of the file, with or without its suffix, or of a role or folder it lies in."""
        return any(word in text and _word(word).search(text) for word in self.words) or any(
            part in text and _plain_folder(part).search(text) for part in self.plain
        )


def drawn_in(step: PlaybookStep, base: Path) -> set[Path]:
    """All files that the playbook may read, itself left out; absolute paths."""
    with reading_once():
        return _drawn_in(step, base)


def _drawn_in(step: PlaybookStep, base: Path) -> set[Path]:
    config = config_of(step)
    trees = config.role_trees
    # the password itself must not be in a record, not even by its digest
    left_out = {step.file, *([step.vault_password_file] if step.vault_password_file else [])}
    candidates = _candidates(base, trees).keys() - left_out
    found = {*_unasked(base), *(path for tree in config.trees for path in _files(tree))}
    found |= {config.path} if config.path else set()
    variables = _mentions_in(base, trees, step.file.parent, json.dumps(step.vars, ensure_ascii=False))
    found = (found | variables.files) - left_out
    waiting = [step.file, *found]
    everything, any_playbook = variables.computes, False
    while waiting:
        mentions = _mentions_of(base, trees, waiting.pop())
        everything, any_playbook = everything or mentions.computes, any_playbook or mentions.computes_include
        fresh = set(mentions.files)
        if everything:
            # A playbook beside this one is another image's business unless an include's own name is computed.
            fresh |= {each for each in candidates - found if any_playbook or each.parent != base}
        fresh -= found | left_out
        found |= fresh
        waiting.extend(fresh)
    return found


@read_once
def _files(base: Path) -> tuple[Path, ...]:
    """The files of a folder, or the file itself."""
    if base.is_file():
        return (base,)
    found: list[Path] = []
    for folder, folders, names in os.walk(base, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        found += [path for name in names if (path := Path(folder, name)).is_file()]
    return tuple(found)


@read_once
def _unasked(base: Path) -> frozenset[Path]:
    """What Ansible reads of a folder unasked."""
    return frozenset(
        path for path in _files(base) if any(_UNASKED.fullmatch(part) for part in path.relative_to(base).parts)
    )


@read_once
def _candidates(base: Path, role_trees: tuple[Path, ...]) -> dict[Path, _Candidate]:
    """The files that a playbook in `base` may name."""
    return {path: _Candidate.of(path.relative_to(root)) for root in (base, *role_trees) for path in _files(root)}


@read_once
def _mentions_of(base: Path, role_trees: tuple[Path, ...], path: Path) -> _Mentions:
    """What a file says."""
    text = file_text(path)
    mentions = _mentions_in(base, role_trees, path.parent, text)
    return _Mentions(mentions.files, *_computes_names(path.suffix, _without_own_folder(text)))


@read_once
def _mentions_in(base: Path, role_trees: tuple[Path, ...], folder: Path, text: str) -> _Mentions:
    """What a text of a file in `folder` says, whatever its format: an include is not known as one."""
    text = _without_own_folder(text)
    mentioned = {path for path, names in _candidates(base, role_trees).items() if names.is_mentioned(text)}
    return _Mentions(frozenset(mentioned | _pointed_at(folder, base, text)), bool(_COMPUTED.search(text)))


def _without_own_folder(text: str) -> str:
    return re.sub(r"\{\{\s*(playbook_dir|role_path)\s*\}\}/", "", text)


@lru_cache(maxsize=65536)
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")


@lru_cache(maxsize=len(_PLAIN))
def _plain_folder(name: str) -> re.Pattern[str]:
    """A plain folder, whole: `src: files/`, `include_vars: {dir: vars}`. Its name alone may be just a word."""
    return re.compile(rf"(?<![\w-]){name}/(?![\w.])|(?:src|dir|_vars)\s*[:=]\s*[\"']?{name}(?![\w./-])")


@read_once
def file_text(path: Path) -> str:
    """What may name other files. A binary names none, and so does one too large to have been written by hand."""
    if path.stat().st_size > _LARGEST_SCANNED:
        return ""
    raw = path.read_bytes()
    return "" if b"\0" in raw else raw.decode("utf-8", "replace")


@lru_cache(maxsize=1024)
def yaml_documents(text: str) -> tuple[object, ...] | None:
    """The documents of a YAML file, with tagged values as plain ones; None where it cannot be read. Pure.

    A plan asks several times for the same file, and reading YAML takes longest of all.
    """
    try:
        return tuple(yaml.load_all(text, Loader=_AnyTag))  # a SafeLoader that ignores tags
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


@lru_cache(maxsize=1024)
def _computes_names(suffix: str, text: str) -> tuple[bool, bool]:
    """Whether a file computes names of files, and whether of task files and playbooks among them. Pure."""
    if suffix not in YAML_SUFFIXES:
        return bool(_COMPUTED.search(text)), False
    documents = yaml_documents(text)
    if documents is None:
        return True, True
    computed, including = bool(_COMPUTED.search(text)), False

    def walk(value: Any, key: str) -> None:
        nonlocal computed, including
        if isinstance(value, dict):
            for name, item in value.items():
                # Below an include, whatever is said may be part of a name: include_role's name, a file's folder.
                walk(item, key if _INCLUDING.fullmatch(key) else str(name).rsplit(".", 1)[-1])
        elif isinstance(value, list):
            for item in value:
                walk(item, key)
        elif isinstance(value, str) and _NAMES_A_FILE.fullmatch(key) and _PATTERN.search(value):
            computed = True
            including = including or bool(_INCLUDING.fullmatch(key))

    for document in documents:
        walk(document, "")
    return computed, including


class _AnyTag(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """Reads `!vault` and `!unsafe` as the plain values they mark.

    By libyaml's parser where PyYAML was built with it: it is five times as fast, and the one that Ansible reads with.
    """


def _untagged(loader: _AnyTag, suffix: str, node: yaml.Node) -> Any:
    del suffix
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_AnyTag.add_multi_constructor("!", _untagged)


def _pointed_at(own: Path, base: Path, text: str) -> set[Path]:
    """Files outside of playbooks/ that a text points at: by a relative path such as ../files/motd, or by an absolute
    one inside the project. Other absolute paths are left out: most are the guest's, and a file of the host's that
    happens to have the same name would change for reasons of its own. `own` is the folder of the text's file."""
    project = base.parent
    found: set[Path] = set()
    for word in set(re.findall(r"(?<![\w/.-])(?:\.{1,2})?/[\w./+@-]+", text)):
        for folder in {own, base, base / "files", base / "templates", base / "tasks", base / "vars"}:
            try:
                target = (folder / word).resolve()
                if word.startswith("/") and not target.is_relative_to(project):
                    break
                if target.is_file():
                    found.add(target)
                elif target.is_dir() and not base.is_relative_to(target):
                    found |= set(_files(target))
            except (OSError, ValueError):
                continue
    return found
