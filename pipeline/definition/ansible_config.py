"""A project's ansible.cfg: which of its settings hold, which are refused, and which folders they name.

The file is Ansible's own to read. What would break goldsmith's contract is refused here, with the line; what only
says how Ansible prints, logs and connects has no effect, because goldsmith sets it by environment variables.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.reading import read_once
from pipeline.definition.diagnostics import Fault

NAME = "ansible.cfg"

_INVENTORY = (
    "goldsmith makes the inventory, with one host named guest",
    "remove it, and write variables into group_vars/all.yml beside the playbook",
)
_ACCESS = ("goldsmith connects to the guest with its own user, key and port", "remove it")
_PASSWORD = ("no person can enter a password during a build, and the build's user needs none", "remove it")
_VAULT = (
    "the password would not be part of the definition",
    "remove it, and write vault_password_file: PATH in the step of the definition",
)
_CALLBACKS = ("goldsmith reads the output of Ansible's default callback", "remove it")
_TAGS = (
    "a part of the playbook would be skipped without a note in the definition",
    "remove it, and use a condition (when:) on a variable of the step, or two playbooks",
)
_FACTS = ("facts of one guest would be used in the build of another", "remove it, or fact_caching = memory")
_DEBUGGER = ("it waits for input", "remove it")

#: Settings that are refused, with the reason and the remedy.
_REFUSED: Mapping[tuple[str, str], tuple[str, str]] = {
    **{("defaults", key): _INVENTORY for key in ("inventory", "hostfile")},
    **{("defaults", key): _ACCESS for key in ("remote_user", "remote_port", "private_key_file", "transport")},
    **{("defaults", key): _PASSWORD for key in ("connection_password_file", "become_password_file")},
    **{("defaults", key): _VAULT for key in ("vault_password_file", "vault_identity_list")},
    **{("defaults", key): _CALLBACKS for key in ("callback_plugins", "callbacks_enabled", "callback_whitelist")},
    **{("tags", key): _TAGS for key in ("run", "skip")},
    ("sudo_become_plugin", "password"): _PASSWORD,
    ("defaults", "collections_paths"): ("Ansible no longer reads it", "write collections_path"),
}
#: Settings that are refused unless they have this value (Ansible's own default).
_ONLY: Mapping[tuple[str, str], tuple[str, tuple[str, str]]] = {
    ("defaults", "stdout_callback"): ("default", _CALLBACKS),
    ("defaults", "fact_caching"): ("memory", _FACTS),
}
#: Switches that are refused where they are on.
_OFF: Mapping[tuple[str, str], tuple[str, str]] = {
    ("defaults", "ask_pass"): _PASSWORD,
    ("defaults", "ask_vault_pass"): _VAULT,
    ("privilege_escalation", "become_ask_pass"): _PASSWORD,
    ("defaults", "bin_ansible_callbacks"): _CALLBACKS,
    ("defaults", "enable_task_debugger"): _DEBUGGER,
}
#: Of [ssh_connection], what has no effect or does no harm; anything else changes whom Ansible speaks to.
_HARMLESS_SSH = frozenset(
    {
        *("pipelining", "ssh_args", "control_path", "control_path_dir", "retries", "timeout", "host_key_checking"),
        *("sftp_batch_mode", "transfer_method", "usetty", "verbosity"),
    }
)
#: Settings that name folders with plugins or modules, and the variable that would set each.
PLUGIN_PATHS: Mapping[str, str] = {
    "library": "ANSIBLE_LIBRARY",
    "module_utils": "ANSIBLE_MODULE_UTILS",
    **{
        f"{kind}_plugins": f"ANSIBLE_{kind.upper()}_PLUGINS"
        for kind in (
            *("action", "become", "cache", "cliconf", "connection", "filter", "httpapi", "inventory"),
            *("lookup", "netconf", "strategy", "terminal", "test", "vars"),
        )
    },
    "doc_fragment_plugins": "ANSIBLE_DOC_FRAGMENT_PLUGINS",
}
_PATHS = frozenset({*PLUGIN_PATHS, "roles_path", "collections_path", "plugin_filters_cfg"})
_TRUE = frozenset({"1", "y", "yes", "on", "true", "t"})


@dataclass(frozen=True)
class AnsibleConfig:
    """What a playbook's ansible.cfg says; without one, `path` is None.

    `folders`: the absolute paths of each setting that names some. `galaxy`: the sections that say where collections
    come from. `faults`: what is refused.
    """

    path: Path | None = None
    folders: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    galaxy: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    @property
    def trees(self) -> tuple[Path, ...]:
        """All folders that count whole: a plugin or a module is used without its file being named."""
        return tuple(path for name, paths in self.folders.items() if name != "roles_path" for path in paths)

    @property
    def role_trees(self) -> tuple[Path, ...]:
        return self.folders.get("roles_path", ())


@read_once
def read_config(playbook: Path, project: Path) -> AnsibleConfig:
    """The ansible.cfg of a playbook: in its own folder, or in one above it, up to the project's."""
    found = [folder / NAME for folder in _folders(playbook, project) if (folder / NAME).is_file()]
    if not found:
        return AnsibleConfig()
    config = _read(found[0], project)
    if len(found) == 1:
        return config
    file, other = _shown(found[0], project), _shown(found[1], project)
    fault = Fault(file, 1, 1, "", f"{other} exists too, but Ansible reads only one file", "merge both into one file")
    return AnsibleConfig(config.path, config.folders, config.galaxy, (*config.faults, fault))


def _folders(playbook: Path, project: Path) -> list[Path]:
    inside = [folder for folder in playbook.parents if folder.is_relative_to(project)]
    return inside or [playbook.parent, project]


def _shown(path: Path, project: Path) -> str:
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _read(path: Path, project: Path) -> AnsibleConfig:
    file = _shown(path, project)
    # as Ansible reads it
    parser = configparser.ConfigParser(inline_comment_prefixes=(";",), interpolation=None)
    try:
        text = path.read_text(encoding="utf-8")
        parser.read_string(text)
    except (configparser.Error, OSError, ValueError) as error:
        line = getattr(error, "lineno", None) or next((number for number, _ in getattr(error, "errors", ())), 1)
        message = str(error).partition("\n")[0]
        return AnsibleConfig(
            path,
            faults=(Fault(file, line, 1, "", f"cannot be read: {message}", "write [section], then key = value"),),
        )
    faults: list[Fault] = []
    folders: dict[str, tuple[Path, ...]] = {}
    for section in parser.sections():
        for key, value in parser.items(section):
            line = _line_of(text, section, key)
            judged = _judge(section, key, value) or _judge_path(section, key, value)
            if judged is not None:
                faults.append(Fault(file, line, 1, f"[{section}] {key}", *judged))
            elif section == "defaults" and key in _PATHS:
                folders[key] = tuple((path.parent / word).resolve() for word in _words(value))
    galaxy = {name: dict(parser.items(name)) for name in parser.sections() if name.startswith("galaxy")}
    return AnsibleConfig(path, folders, galaxy, tuple(faults))


def _judge(section: str, key: str, value: str) -> tuple[str, str] | None:
    """Why a setting is refused, and what to do; None where it holds, or has no effect."""
    place = (section, key)
    if place in _REFUSED:
        return _REFUSED[place]
    if place in _ONLY:
        only, why = _ONLY[place]
        return why if value.strip().removeprefix("ansible.builtin.") != only else None
    if place in _OFF:
        return _OFF[place] if value.strip().lower() in _TRUE else None
    others = (
        (_DEBUGGER, place == ("defaults", "strategy") and value.strip().endswith("debug")),
        (_INVENTORY, section == "inventory" and not key.endswith("warning")),
        (_ACCESS, section == "ssh_connection" and key not in _HARMLESS_SSH),
    )
    return next((why for why, refused in others if refused), None)


def _judge_path(section: str, key: str, value: str) -> tuple[str, str] | None:
    if section != "defaults" or key not in _PATHS:
        return None
    for word in _words(value):
        if word.startswith("~") or re.search(r"[$]|\{\{", word):
            message = f"{word} is a different folder for each user"
            return message, "write a path inside the project; list content of Galaxy in playbooks/requirements.yml"
    return None


def _words(value: str) -> list[str]:
    return [word for part in value.splitlines() for word in part.strip().split(":") if word.strip()]


def _line_of(text: str, section: str, key: str) -> int:
    """The line of a setting, counted from 1; of the file's first one where it is not found."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            inside = line.strip()[1:].partition("]")[0] == section
        elif inside and re.match(rf"{re.escape(key)}\s*[=:]", line.strip(), re.IGNORECASE):
            return number
    return 1
