"""Check playbooks before a guest exists: Ansible parses them with the variables and settings that a build would use.

What ansible-playbook --syntax-check finds is found (broken YAML, unknown modules, missing roles, a vault without a
password), and each play whose `hosts:` matches nothing or that has no task. A playbook that passed is remembered in
the store by the digest of all its inputs; one that failed is checked again each time.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.base import process, scratch
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.base.reading import reading_once
from pipeline.base.store import Store
from pipeline.cache.layers import digest
from pipeline.definition import Definition, DefinitionError, Fault, PlaybookStep, step_inputs
from pipeline.definition.playbook_files import config_of, playbook_texts, playbooks_folder
from pipeline.guest.ansible_requirements import Installed, cache_folder, install_requirements, needs_requirements
from pipeline.guest.ansible_run import VAULT_HINT, AnsibleProject, ansible_program, ansible_version
from pipeline.guest.host_view import Argv, Needed, started_as
from pipeline.guest.parse_time import variables_parsed
from pipeline.guest.plays import TASKS_HINT, hosts_hint
from pipeline.guest.project_owner import copy_vault_password

#: Counts up when this module, or its worker, finds more than before: what passed is checked again.
_VERSION = 5
#: Seconds for all playbooks of a project, and how many are remembered.
_DEADLINE, _REMEMBERED = 600.0, 20_000
_WORKER = Path(__file__).with_name("ansible_worker.py")
#: A play in the list of hosts and tasks: how many hosts it matches, and its tasks, one a line.
_PLAY = re.compile(
    r"^  play #(?P<number>\d+) \((?P<hosts>.*?)\): .*\n    pattern: .*\n    hosts \((?P<count>\d+)\):.*"
    r"(?:\n {6}\S.*)*\n    tasks:(?P<tasks>(?:\n {6}\S.*)*)",
    re.MULTILINE,
)
_ERROR = re.compile(r"^(?:\[ERROR\]:|ERROR!) *(?P<text>.+?)(?=\n\s*\n|\nOrigin:|\Z)", re.MULTILINE | re.DOTALL)
_ORIGIN = re.compile(r"^Origin: (?P<file>/.+?)(?::(?P<line>\d+)(?::(?P<column>\d+))?)?$", re.MULTILINE)
_OLD_ORIGIN = re.compile(r"appears to be in '(?P<file>[^']+)': line (?P<line>\d+), column (?P<column>\d+)")
_NAMED_FILE = re.compile(r"file '?(?P<file>/[^'\n]+?)'?(?=[:\n'])")
#: A lookup of a variable of the environment that has no default of its own.
_READS_VARIABLE = re.compile(
    r"\b(?:lookup|query|q)\(\s*[\"'](?:ansible\.builtin\.)?env[\"']\s*,(?P<names>(?:\s*[\"']\w+[\"']\s*,?)+)\)"
    r"(?!\s*\|\s*(?:ansible\.builtin\.)?(?:default|d)\()"
)
#: Variables that are the same for everybody.
_SET = frozenset({"HOME", "LANG", "LC_ALL", "PATH", "TZ"})
_HINTS = (
    (
        r"couldn't resolve module/action 'ansible\.(?:builtin|legacy)\.",
        "correct the name: ansible-core has no such module",
    ),
    (
        r"couldn't resolve module/action '(\w+\.\w+)\.",
        r"add the collection \1 to playbooks/requirements.yml, or correct the name",
    ),
    (
        r"couldn't resolve module/action",
        "correct the name; for a module outside ansible-core, write its full name and add its collection"
        " to playbooks/requirements.yml",
    ),
    (
        r"the role '(.+?)' was not found",
        r"put it into playbooks/roles/\1, name its folder in roles_path of ansible.cfg, or add it to"
        " playbooks/requirements.yml",
    ),
    (r"Decryption failed", "the step's vault_password_file holds another password than it was encrypted with"),
    (r"no vault secrets", VAULT_HINT),
    (r"is undefined", "give the variable in the step's vars:, or a default in the playbook"),
)


@dataclass(frozen=True)
class _Check:
    """One playbook with its variables, and who runs it: (definition, step's number from 1)."""

    definition: Definition
    number: int
    step: PlaybookStep
    installed: Installed | None

    @property
    def ansible(self) -> AnsibleProject:
        return AnsibleProject.of(self.step, self.installed.folder if self.installed else None, self.definition.path)

    @property
    def key(self) -> str:
        """Of all that decides what Ansible finds: images that differ in nothing of it are checked once."""
        installed = self.installed.digest if self.installed else None
        vault = str(self.step.vault_password_file)
        inputs: dict[str, object] = {**step_inputs(self.step)}
        inputs["vars"] = variables_parsed(self.step, installed=installed is not None)
        return digest([_VERSION, ansible_version(), inputs, installed, vault])

    def fault(self, file: Path, line: int, column: int, message: str, hint: str) -> Fault:
        project = self.definition.project
        shown = str(file.relative_to(project)) if file.is_relative_to(project) else str(file)
        owner = f"step {self.number} of {self.definition.name}"
        return Fault(shown, line, column, owner, message.replace(f"{project}/", ""), hint)


def check_playbooks(definitions: Sequence[Definition], store: Store) -> dict[Path, tuple[Fault, ...]]:
    """The faults of all playbooks of these definitions, by the definition's path; without faults it is not in it.

    Installs what the projects require of Galaxy. Raises nothing of what is wrong with a playbook.
    """
    with reading_once():
        return _check_playbooks(definitions, store)


def _check_playbooks(definitions: Sequence[Definition], store: Store) -> dict[Path, tuple[Fault, ...]]:
    faults: dict[Path, list[Fault]] = {}
    checks: dict[str, list[_Check]] = {}
    failed: dict[object, tuple[Fault, ...]] = {}
    for definition, number, step in _steps(definitions):
        there = _installed(definition.project, step, store, failed)
        if isinstance(there, tuple):
            faults.setdefault(definition.path, []).extend(there)
        else:
            check = _Check(definition, number, step, there)
            checks.setdefault(check.key, []).append(check)
    passed = cache_folder(store) / "syntax"
    left = {key: same for key, same in checks.items() if not _is_remembered(passed / key)}
    good: list[str] = []
    for key, found in _run_all({key: same[0] for key, same in left.items()}).items():
        if not list(_judge(left[key][0], *found)):
            good.append(key)
            continue
        for check in left[key]:
            faults.setdefault(check.definition.path, []).extend(_judge(check, *found))
    _remember(passed, good)
    return {path: tuple(dict.fromkeys(of)) for path, of in faults.items()}


def require_good_playbooks(definitions: Sequence[Definition], store: Store) -> None:
    """Raise DefinitionError with the faults that `check_playbooks` finds, or why a requirement cannot be had."""
    for definition, _, step in _steps(definitions):
        install_requirements(step, definition.project, store)
    faults = [fault for of in check_playbooks(definitions, store).values() for fault in of]
    if faults:
        raise DefinitionError(faults)


def _steps(definitions: Sequence[Definition]) -> Iterator[tuple[Definition, int, PlaybookStep]]:
    for definition in definitions:
        for steps in (definition.steps, definition.refresh.steps):
            for number, step in enumerate(steps, 1):
                if isinstance(step, PlaybookStep):
                    yield definition, number, step


def _installed(
    project: Path, step: PlaybookStep, store: Store, failed: dict[object, tuple[Fault, ...]]
) -> Installed | tuple[Fault, ...] | None:
    """What the playbook requires, or why it cannot be had; `failed` remembers that, since a server takes its time."""
    source = (project, playbooks_folder(step), config_of(step).path)
    try:
        if source in failed and needs_requirements(step, project):
            return failed[source]
        return install_requirements(step, project, store)
    except DefinitionError as error:
        return error.faults
    except GoldsmithError as error:
        file, _, message = error.message.partition(": ")
        failed[source] = (Fault(file, 1, 1, "", f"{message} ({error.name})", error.hint or ""),)
        return failed[source]


# ---- what has passed -----------------------------------------------------------------------------------------------


def _is_remembered(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False  # also where a folder above may not be entered: it is checked again
    # the longest unused is forgotten first; a reader of another's store need not be able to say so
    if os.access(path, os.W_OK):
        os.utime(path)
    return True


def _remember(folder: Path, keys: Sequence[str]) -> None:
    if not keys:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key in keys:
            (folder / key).touch()
        known = list(folder.iterdir())
        if len(known) > _REMEMBERED:
            known.sort(key=lambda each: each.stat().st_mtime)
            for path in known[: len(known) - _REMEMBERED * 9 // 10]:
                path.unlink(missing_ok=True)
    except OSError:
        return  # this user may not write to the store, or another process forgets too: it is checked again


# ---- Ansible -------------------------------------------------------------------------------------------------------

_Found = tuple[int, str, str]


def _run_all(checks: Mapping[str, _Check]) -> dict[str, _Found]:
    """Exit code, stdout and stderr of each check, by its key; those with the same settings run in one process."""
    found: dict[str, _Found] = {}
    groups: dict[object, dict[str, _Check]] = {}
    for key, check in checks.items():
        ansible = check.ansible
        group = (ansible.owner, ansible.config.path, ansible.installed, *check.step.environment.items())
        groups.setdefault(group, {})[key] = check
    for group_checks in groups.values():
        with scratch.folder(name="check") as home:
            inventory = home / "inventory.json"
            guest = {
                "ansible_host": "127.0.0.1",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_become": True,
            }
            inventory.write_text(json.dumps({"all": {"hosts": {"guest": guest}}}), encoding="utf-8")
            runs = []
            for number, check in enumerate(group_checks.values()):
                variables = home / f"{number}.json"
                variables.write_text(json.dumps(dict(check.step.vars)), encoding="utf-8")
                words = ["-i", inventory, "-l", "guest", "--list-hosts", "--list-tasks", "-e", f"@{variables}"]
                ansible = check.ansible
                if ansible.owner is not None and ansible.vault_password_file is not None:
                    (folder := home / f"vault-{number}").mkdir(mode=0o700)
                    copy = copy_vault_password(ansible.vault_password_file, folder)
                    ansible = replace(ansible, vault_password_file=copy)
                runs.append([str(word) for word in (*words, *ansible.arguments, check.step.file)])
            ansible = next(iter(group_checks.values())).ansible
            environment = ansible.environment(home)
            nothing = f":{home}/nothing"
            if ansible.owner is not None:
                if not ansible.owner.service:
                    ansible.owner.require_access(Path(sys.executable), _WORKER)
                ansible.owner.give(home)
            needs = [check.ansible.needed for check in group_checks.values()]
            needed = Needed(
                [p for each in needs for p in each.reads], [p for each in needs for p in each.files], [home]
            )
            with started_as(ansible.owner, needed) as argv_of:
                for key, (code, out, err) in zip(group_checks, _run(runs, environment, argv_of), strict=True):
                    found[key] = (code, out, err.replace(nothing, ""))
    return found


def _run(runs: list[list[str]], environment: Mapping[str, str], argv_of: Argv = list) -> list[_Found]:
    if ansible_version() == "none":  # Ansible is not in this Python's own folders
        program = ansible_program("ansible-playbook")
        done = [
            process.run(argv_of([program, *words]), deadline=_DEADLINE, env=environment, ok_codes=range(256))
            for words in runs
        ]
        return [(each.code, each.stdout, each.stderr) for each in done]
    order = {"processes": os.cpu_count() or 1, "runs": runs}
    # -P: the worker's own folder has modules with the names of others
    argv = argv_of([sys.executable, "-P", _WORKER])
    try:
        answer = process.run(argv, stdin=json.dumps(order), deadline=_DEADLINE, env=environment)
    except (process.CommandFailed, process.CommandTimeout) as error:
        raise BuildError(
            f"Ansible cannot check the playbooks: {error.message}",
            name="playbook-check-failed",
            hint="check that ansible-playbook --syntax-check works on this host; make setup installs ansible-core",
        ) from None
    results: list[dict[str, Any]] = json.loads(answer.stdout)
    return [(each["code"], each["stdout"], each["stderr"]) for each in results]


# ---- what it found -------------------------------------------------------------------------------------------------


def _judge(check: _Check, code: int, out: str, err: str) -> Iterator[Fault]:
    if code != 0:
        yield _error(check, code, err)
        return
    plays = list(_plays(check.step.file, ()))
    listed = list(_PLAY.finditer(out))
    for play in listed:
        # a playbook whose plays cannot be counted from outside has its own first line
        place = plays[int(play["number"]) - 1] if len(plays) == len(listed) else _Place(check.step.file)
        hosts = ", ".join(play["hosts"].split(","))
        if play["count"] == "0":
            message = f"hosts: {hosts} matches no host, so the play does nothing"
            yield check.fault(place.file, place.line, place.column, message, hosts_hint(hosts))
        for name in sorted(place.prompts - check.step.vars.keys()):
            message = f"vars_prompt cannot ask for {name} during a build"
            yield check.fault(place.file, place.line, place.column, message, f"give {name} in the step's vars:")
        if play["count"] != "0" and not play["tasks"] and not place.asks_for_facts:
            yield check.fault(place.file, place.line, place.column, "the play has no task to run", TASKS_HINT)
    yield from _unset_variables(check)
    if check.step.vault_password_file is None:
        for file in _vaulted_variables(check.step.file.parent):
            yield check.fault(
                file, 1, 1, "is encrypted by ansible-vault, but the step has no vault_password_file", VAULT_HINT
            )


def _unset_variables(check: _Check) -> Iterator[Fault]:
    """Variables of the caller that a playbook reads without its step naming them: they would be empty.

    Roles are left out: those of others read what they can do without, and their tests are drawn in with them.
    """
    roles = (playbooks_folder(check.step) / "roles", *check.ansible.config.role_trees)
    for path, text in playbook_texts(check.step):
        if any(path.is_relative_to(tree) for tree in roles):
            continue
        for found in _READS_VARIABLE.finditer(text):
            for name in re.findall(r"[\"'](\w+)[\"']", found["names"]):
                if name in check.step.environment or name in _SET:
                    continue
                line = text.count("\n", 0, found.start()) + 1
                column = found.start() - (text.rfind("\n", 0, found.start()) + 1) + 1
                message = f"the environment variable {name} would be empty in the playbook"
                hint = (
                    f"write environment: [{name}] in the step, or the value in its vars:, or | default('...', true)"
                )
                yield check.fault(path, line, column, message, hint)


def _vaulted_variables(folder: Path) -> Iterator[Path]:
    """Encrypted files of variables that Ansible reads for the guest unasked, but not while it parses a playbook."""
    for place in ("group_vars/all", "group_vars/guest", "group_vars/ungrouped", "host_vars/guest"):
        for path in (
            *sorted((folder / place).rglob("*")),
            *(folder / f"{place}{end}" for end in ("", ".yml", ".yaml")),
        ):
            if path.is_file():
                with path.open("rb") as file:
                    if file.read(15) == b"$ANSIBLE_VAULT;":
                        yield path


def _error(check: _Check, code: int, err: str) -> Fault:
    found = _ERROR.search(err)
    lines = [line.strip() for line in (found["text"] if found else err).splitlines() if line.strip()]
    message = " ".join(lines)[:400] or f"ansible-playbook ended with {code}"
    message = re.sub(r"(the role '.+?' was not found) in .*", r"\1", message)
    hint = next(
        (match.expand(text) for pattern, text in _HINTS if (match := re.search(pattern, err))),
        "correct the playbook; ansible-playbook --syntax-check shows the same error",
    )
    where = _ORIGIN.search(err) or _OLD_ORIGIN.search(err) or _NAMED_FILE.search(err)
    place = where.groupdict() if where else {}
    file = Path(place.get("file") or check.step.file)
    return check.fault(file, int(place.get("line") or 1), int(place.get("column") or 1), message, hint)


@dataclass(frozen=True)
class _Place:
    """Where a play's `hosts:` is, whether it says that it gathers facts, and the variables that it prompts for."""

    file: Path
    line: int = 1
    column: int = 1
    asks_for_facts: bool = False
    prompts: frozenset[str] = frozenset()


def _plays(file: Path, above: tuple[Path, ...]) -> Iterator[_Place]:
    """The plays of a playbook, in the order in which Ansible numbers them."""
    if file in above:
        return
    try:
        document = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return
    for play in document.value if isinstance(document, yaml.SequenceNode) else ():
        if not isinstance(play, yaml.MappingNode):
            continue
        values = {str(key.value).rpartition(".")[2]: value for key, value in play.value}
        if "import_playbook" in values:
            yield from _plays((file.parent / str(values["import_playbook"].value)).resolve(), (*above, file))
        else:
            mark = (values.get("hosts") or play).start_mark
            facts = str(getattr(values.get("gather_facts"), "value", "")).lower() in ("true", "yes")
            yield _Place(file, mark.line + 1, mark.column + 1, facts, frozenset(_prompts(values.get("vars_prompt"))))


def _prompts(node: yaml.Node | None) -> Iterator[str]:
    """The variables of `vars_prompt` that have no default."""
    for entry in node.value if isinstance(node, yaml.SequenceNode) else ():
        if isinstance(entry, yaml.MappingNode):
            keys = {str(key.value): str(value.value) for key, value in entry.value}
            if "name" in keys and "default" not in keys:
                yield keys["name"]
