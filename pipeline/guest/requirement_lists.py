"""The lists of what a project requires of Galaxy, as ansible-galaxy reads them, less what lies in the project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.definition import DefinitionError, Fault
from pipeline.definition.ansible_config import AnsibleConfig

#: Where Ansible users keep their lists, below the project and below playbooks/.
_FOLDERS = ("", "roles", "collections")
_NAMES = ("requirements.yml", "requirements.yaml")
_COLLECTION = re.compile(r"[a-z_]\w*\.[a-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Requirements:
    """What is required, as ansible-galaxy takes it; paths in it are absolute. `local`: files and folders here."""

    file: Path
    collections: tuple[Mapping[str, Any], ...] = ()
    roles: tuple[Mapping[str, Any], ...] = ()
    local: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.collections or self.roles)


def name_of(entry: Mapping[str, Any]) -> str | None:
    """The name of a collection or role as a playbook writes it; None where only the download tells."""
    source, name = str(entry.get("src") or ""), str(entry.get("name") or "")
    if entry.get("type") == "dir":
        described = _mapping(Path(str(entry.get("source") or name)) / "galaxy.yml")
        return f"{described.get('namespace')}.{described.get('name')}"
    if source:
        return name or re.sub(r"(\.git|\.tar\.gz)$", "", source.partition(",")[0].rpartition("/")[2]) or None
    name = re.split("[:,]", name, maxsplit=1)[0]
    return name if name and "/" not in name and not name.endswith(".gz") else None


def find_lists(project: Path, playbooks: Path) -> list[Path]:
    """The files that exist, in the order in which they are read."""
    bases = dict.fromkeys((project, playbooks))
    return [file for base in bases for part in _FOLDERS for name in _NAMES if (file := base / part / name).is_file()]


def read_requirements(file: Path, project: Path) -> Requirements:
    """Read one list. Raises DefinitionError with the line if ansible-galaxy cannot read it."""
    shown = str(file.relative_to(project)) if file.is_relative_to(project) else str(file)
    hint = "collections: [{name: ansible.posix, version: 1.5.4}]"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        why = getattr(error, "problem", None) or str(error)
        raise DefinitionError([Fault(shown, line, column, "", f"cannot be read: {why}", hint)]) from None
    lists = {"roles": data} if isinstance(data, list) else data or {}
    collections = lists.get("collections") or [] if isinstance(lists, dict) else None
    roles = lists.get("roles") or [] if isinstance(lists, dict) else None
    if not isinstance(collections, list) or not isinstance(roles, list):
        raise DefinitionError([Fault(shown, 1, 1, "", "is not a list of collections and roles", hint)])
    local: list[Path] = []
    return Requirements(
        file,
        tuple(_entry(each, "name", file, project, local) for each in collections),
        tuple(_entry(each, "src", file, project, local) for each in roles),
        tuple(local),
    )


def _entry(written: object, main: str, file: Path, project: Path, local: list[Path]) -> dict[str, Any]:
    """One requirement as a mapping; what it names of the host's files is made absolute and noted in `local`."""
    entry = dict(written) if isinstance(written, dict) else {main: str(written)}
    for key in ("name", "source", "src", "include"):
        value = entry.get(key)
        if not isinstance(value, str) or "://" in value or _COLLECTION.fullmatch(value):
            continue
        if "/" not in value and not value.endswith((".gz", ".yml", ".yaml")) and entry.get("type") is None:
            continue
        place = next((base / value for base in (file.parent, project) if (base / value).exists()), None)
        if place is not None:
            entry[key] = str(place.resolve())
            local.append(place.resolve())
    return entry


def without_present(requirements: Requirements, playbooks: Path, config: AnsibleConfig) -> Requirements:
    """What is left when what lies in the project in the version that is required is taken away."""
    collections = [playbooks / "collections", *config.folders.get("collections_path", ())]
    roles = [playbooks / "roles", *config.role_trees]
    return Requirements(
        requirements.file,
        tuple(each for each in requirements.collections if not any(_has_collection(t, each) for t in collections)),
        tuple(each for each in requirements.roles if not any(_has_role(tree, each) for tree in roles)),
        requirements.local,
    )


def _has_collection(tree: Path, entry: Mapping[str, Any]) -> bool:
    name, _, pinned = str(entry.get("name")).partition(":")
    if not _COLLECTION.fullmatch(name) or entry.get("type") not in (None, "galaxy"):
        return False
    folder = tree.joinpath("ansible_collections", *name.split("."))
    return folder.is_dir() and _fits(str(entry.get("version") or pinned or "*"), collection_version(folder))


def _has_role(tree: Path, entry: Mapping[str, Any]) -> bool:
    source, _, pinned = str(entry.get("src") or entry.get("name")).partition(",")
    name = str(entry.get("name") or re.sub(r"(\.git|\.tar\.gz)$", "", source.rpartition("/")[2]))
    folder = tree / name
    return folder.is_dir() and _fits(str(entry.get("version") or pinned or "*"), role_version(folder))


def _fits(wanted: str, found: str) -> bool:
    # a range is Galaxy's to resolve
    return wanted in ("*", "") or wanted.removeprefix("==") == found


def collection_version(folder: Path) -> str:
    """The version of a collection in its folder; unknown where no file says it."""
    for name, path in (("MANIFEST.json", ("collection_info", "version")), ("galaxy.yml", ("version",))):
        value = _mapping(folder / name)
        for key in path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        if isinstance(value, str):
            return value
    return "unknown"


def role_version(folder: Path) -> str:
    """The version of a role in its folder, as ansible-galaxy noted it; unknown where it did not."""
    return str(_mapping(folder / "meta/.galaxy_install_info").get("version") or "unknown")


def _mapping(path: Path) -> Any:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}
