"""Collections and roles that a project requires: installed by ansible-galaxy into a folder of the store's cache.

The folder is named by the digest of what is required, so that it is installed once and then used without a network.
What lies in the project in the version that is required is not installed. A version that is not pinned is resolved
when it is installed; which one it was is recorded, and the installed tree is an input of each playbook's layer.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base import process, scratch
from pipeline.base.errors import BuildError, GoldsmithError, HostError, UsageError
from pipeline.base.files import Shape, is_older, list_folder, read_usable
from pipeline.base.reading import read_once
from pipeline.base.runs import remove_tree, write_json
from pipeline.base.store import Store
from pipeline.base.surroundings import variables
from pipeline.cache.layers import digest
from pipeline.definition import PlaybookStep
from pipeline.definition.ansible_config import AnsibleConfig, read_config
from pipeline.definition.playbook_files import config_of, playbook_texts, playbooks_folder
from pipeline.definition.step_digest import tree_digest
from pipeline.guest.ansible_run import AnsibleProject, ansible_program, ansible_version
from pipeline.guest.host_view import Needed, started_as
from pipeline.guest.project_owner import ProjectOwner, project_owner, take_tree
from pipeline.guest.requirement_lists import (
    Requirements,
    collection_version,
    find_lists,
    name_of,
    read_requirements,
    role_version,
    without_present,
)

#: Seconds for one request to a server, and for the whole installation.
_REQUEST, _DEADLINE = 20, 900.0
#: Seconds after which a tree that nobody has used is removed.
_KEPT = 60 * 24 * 3600.0
_RECORD = "installed.json"
_UNREACHABLE = re.compile(
    r"urlopen error|Name or service not known|Temporary failure|timed out|Connection refused|Network is unreachable"
    r"|Could not resolve|unable to access|Tunnel connection failed|CERTIFICATE_VERIFY_FAILED|HTTP Code: (?:407|5\d\d)"
)
_SERVER_ACCESS = re.compile(
    r"ANSIBLE_GALAXY_SERVER_\w+_(?:TOKEN|USERNAME|PASSWORD|CLIENT_ID|CLIENT_SECRET)", re.ASCII
)
#: A name of three parts: a module, a plugin or a role of a collection.
_FULL_NAME = re.compile(r"\b[a-z_]\w*\.[a-z_]\w*\.[a-z_]\w*", re.ASCII)
#: Such a name where a playbook uses it: the key of a task, an item of a list of roles, the value of a key that names
#: a module, role or playbook, a filter, a test, a lookup.
_USED = re.compile(
    r"(?:^[\s-]*[\"']?(?=\S+[\"']?\s*(?::|$))|[{,]\s*[\"']?(?=\S+:)|\broles:\s*\[\s*"
    r"|\b(?:role|name|action|local_action|module|import_playbook)[:=]\s*[\"']?|\|\s*|\bis\s+(?:not\s+)?"
    r"|\b(?:lookup|query|q)\s*\(\s*[\"'])([a-z_]\w*\.[a-z_]\w*)\.[a-z_]\w*",
    re.ASCII | re.MULTILINE,
)
_COMPUTED_ROLE = re.compile(r"\b(?:role|name|roles)\b[^\n]*\{\{")

#: Git's settings; and those of a user in root's place, who reads root's own repositories.
_GIT = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.autocrlf", "GIT_CONFIG_VALUE_0": "false"}
_GIT_OF_ROOT = {**_GIT, "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*"}


@dataclass(frozen=True)
class Installed:
    """A folder with collections/ and roles/, the digest of all in it, and the version of each (`ansible.posix`)."""

    folder: Path
    digest: str
    versions: Mapping[str, str]


class _Record(Shape):
    digest: str
    versions: dict[str, str]


def cache_folder(store: Store) -> Path:
    """Where Ansible's part of the cache is: in the store, or in the caller's own where that may not be written to."""
    root = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
    if os.access(root, os.W_OK):
        return store.root / "ansible"
    return store.host.cache / "ansible"


def install_requirements(step: PlaybookStep, project: Path, store: Store) -> Installed | None:
    """Install what the project requires, unless it is there; None where the playbook needs nothing of it.

    Raises DefinitionError (a list that cannot be read), HostError (galaxy-unreachable), UsageError
    (requirement-failed).
    """
    wanted = _wanted(step.file, playbooks_folder(step), project)
    return _install_all(wanted, config_of(step), project, store) if wanted and _needs(step, wanted) else None


def needs_requirements(step: PlaybookStep, project: Path) -> bool:
    """Whether a playbook may use what the project requires and does not hold itself. Raises DefinitionError."""
    wanted = _wanted(step.file, playbooks_folder(step), project)
    return bool(wanted) and _needs(step, wanted)


@read_once
def _wanted(playbook: Path, playbooks: Path, project: Path) -> tuple[Requirements, ...]:
    """The lists, less what lies in the project in the version that is required."""
    config = read_config(playbook, playbooks.parent)
    lists = (
        without_present(read_requirements(file, project), playbooks, config)
        for file in find_lists(project, playbooks)
    )
    return tuple(each for each in lists if each)


def _needs(step: PlaybookStep, wanted: Sequence[Requirements]) -> bool:
    """Whether a playbook may use what is required: where a name is not known, or is computed, it may."""
    names = {name_of(entry) for each in wanted for entry in (*each.collections, *each.roles)}
    roles = any(each.roles for each in wanted)
    for text in (json.dumps(step.vars), *(text for _, text in playbook_texts(step))):
        if any(_is_word(name, text) for name in names if name is not None):
            return True
        if None in names and any(not name.startswith("ansible.builtin.") for name in _FULL_NAME.findall(text)):
            return True
        # a module of a collection that another one brings along
        if any(name != "ansible.builtin" for name in _USED.findall(text)):
            return True
        if roles and _COMPUTED_ROLE.search(text):
            return True
    return False


def _is_word(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text) is not None


def _install_all(wanted: Sequence[Requirements], config: AnsibleConfig, project: Path, store: Store) -> Installed:
    cache = cache_folder(store)
    key = _key(wanted, config)
    target = cache / "requirements" / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (there := _installed(target)) is not None:
            os.utime(target)
            return there
        remove_tree(target)
        with scratch.folder_beside(target) as folder:
            for requirements in wanted:
                _install(requirements, folder, config, project)
            _write_record(folder)
            folder.rename(target)
    _remove_old(target.parent, key)
    there = _installed(target)
    assert there is not None
    return there


def _installed(target: Path) -> Installed | None:
    record = read_usable(target / _RECORD, _Record) if target.is_dir() else None
    return Installed(target, record["digest"], record["versions"]) if record else None


def _remove_old(folder: Path, used: str) -> None:
    for path in list_folder(folder):
        if path.is_dir() and path.name != used and is_older(path, time.time() - _KEPT):
            remove_tree(path)


def _key(wanted: Sequence[Requirements], config: AnsibleConfig) -> str:
    return digest(
        {
            "ansible-core": ansible_version(),
            "required": [[each.collections, each.roles] for each in wanted],
            "local": [tree_digest(path) for each in wanted for path in each.local],
            "servers": config.galaxy,
        }
    )[:32]


# ---- ansible-galaxy ------------------------------------------------------------------------------------------------


def _install(requirements: Requirements, folder: Path, config: AnsibleConfig, project: Path) -> None:
    """Install into a folder of the store, as the user who runs the project's playbooks.

    The user may not enter the store: it installs into a folder of its own, from which the files are taken.
    """
    owner = project_owner(requirements.file, requirements.file)
    if owner is None:
        _run_galaxy(requirements, folder, folder.parent, config, project, None)
        return
    with scratch.folder(name="galaxy") as own:
        _run_galaxy(requirements, own / "installed", own, config, project, owner)
        if (own / "installed").is_dir():
            take_tree(own / "installed", folder)


def _run_galaxy(
    requirements: Requirements,
    folder: Path,
    beside: Path,
    config: AnsibleConfig,
    project: Path,
    owner: ProjectOwner | None,
) -> None:
    with scratch.folder(beside, "galaxy") as home:
        home.chmod(0o700)
        environment = {
            **AnsibleProject(config).environment(home),
            **process.download_variables(),
            # who may download from a server that the project's ansible.cfg names
            **{name: value for name, value in variables().items() if _SERVER_ACCESS.fullmatch(name)},
            "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
            "ANSIBLE_ROLES_PATH": str(folder / "roles"),
            # git's user names and passwords are in the home folder; its line ends are ours
            "HOME": owner.home if owner else process.environment()["HOME"],
            "GIT_TERMINAL_PROMPT": "0",
            **(_GIT_OF_ROOT if owner is not None and owner.service else _GIT),
        }
        for kind, entries in (("collection", requirements.collections), ("role", requirements.roles)):
            if not entries:
                continue
            file = home / f"{kind}.yml"
            # JSON is YAML
            file.write_text(json.dumps({f"{kind}s": entries}), encoding="utf-8")
            words: list[str | Path] = [
                kind,
                "install",
                "-r",
                file,
                "-p",
                folder / f"{kind}s",
                "--timeout",
                str(_REQUEST),
            ]
            argv: list[str | Path] = [ansible_program("ansible-galaxy"), *words]
            if owner is not None:
                owner.give(beside)
            files = [path for path in requirements.local if path.is_file()]
            files += [config.path] if config.path else []
            needed = Needed([project, *requirements.local], files, [beside])
            try:
                with started_as(owner, needed) as started:
                    process.run(started(argv), deadline=_DEADLINE, env=environment, cwd=home)
            except (process.CommandFailed, process.CommandTimeout) as error:
                raise _explain(error, requirements.file, project, kind, entries) from None


def _explain(
    error: BuildError, file: Path, project: Path, kind: str, entries: Iterable[Mapping[str, Any]]
) -> GoldsmithError:
    """The error in ansible-galaxy's words, under a name that tells a network from a requirement."""
    shown = file.relative_to(project) if file.is_relative_to(project) else file
    output = error.stderr + error.stdout if isinstance(error, process.CommandFailed) else error.message
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # a role's reason is in a warning, before the error that speaks of options
    telling = [line for line in lines if "NOT installed" in line or line.startswith(("[ERROR]", "ERROR!", "fatal:"))]
    what = re.sub(r"^(\[\w+\]:|ERROR!)\s*(- )?", "", (telling or lines or [error.message])[0])
    if _UNREACHABLE.search(output) or isinstance(error, process.CommandTimeout):
        names = ", ".join(str(entry.get("name") or entry.get("src")) for entry in entries)
        return HostError(
            f"{shown}: {names} cannot be downloaded: {what}",
            name="galaxy-unreachable",
            hint=f"set https_proxy if the network needs a proxy, or store the {kind}s in the project:"
            f" ansible-galaxy {kind} install -r {shown} -p playbooks/{kind}s",
        )
    return UsageError(
        f"{shown}: {what}", name="requirement-failed", hint="correct the name, version or source in that file"
    )


# ---- what was installed --------------------------------------------------------------------------------------------


def _write_record(folder: Path) -> None:
    versions = {
        **{".".join(path.parts[-2:]): collection_version(path) for path in _below(folder, "collections/*/*/*")},
        **{path.name: role_version(path) for path in _below(folder, "roles/*")},
    }
    lines = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        # the dates and servers of the installation
        if path.name == ".galaxy_install_info" or any(
            p.endswith(".info") or p == "__pycache__" for p in relative.parts
        ):
            continue
        if path.is_file() or path.is_symlink():
            lines.append(f"{relative} {path.readlink() if path.is_symlink() else tree_digest(path)}")
    write_json(folder / _RECORD, {"digest": digest(lines), "versions": versions})


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in sorted(folder.glob(pattern)) if path.is_dir() and not path.name.endswith(".info"))
