"""How goldsmith runs Ansible: by its own settings and those of the project, not by the caller's."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GuestError, UsageError
from pipeline.base.reading import read_once
from pipeline.definition import PlaybookStep
from pipeline.definition.ansible_config import PLUGIN_PATHS, AnsibleConfig
from pipeline.definition.playbook_files import config_of, playbooks_folder, step_files
from pipeline.guest.host_view import Needed
from pipeline.guest.project_owner import ProjectOwner, project_owner

VAULT_HINT = (
    "write vault_password_file: PATH in the step; the file holds the password and stays out of the repository"
)
#: Seconds for a connection and for sudo to answer. Ansible's own 10 are too few for an emulated guest on a busy host
#: ("Timeout (12s) waiting for privilege escalation prompt"); a project's ansible.cfg may say another number.
CONNECTION_TIMEOUT = 60
#: What is the same for every run. A variable goes before a setting of ansible.cfg.
_FIXED: Mapping[str, str] = {
    "ANSIBLE_CALLBACK_FORMAT_PRETTY": "0",
    "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
    # collections that lie beside Ansible in Python's own folders are the host's
    "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "0",
    "ANSIBLE_DISPLAY_FAILED_STDERR": "0",
    "ANSIBLE_FORCE_COLOR": "0",
    "ANSIBLE_HOST_KEY_CHECKING": "1",
    "ANSIBLE_INVENTORY_ENABLED": "yaml",
    "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_NOCOWS": "1",
    "ANSIBLE_PIPELINING": "1",
    "ANSIBLE_RETRY_FILES_ENABLED": "0",
    "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=60s",
    "ANSIBLE_STDOUT_CALLBACK": "default",
    "ANSIBLE_TRANSPORT": "ssh",
    "ANSIBLE_VERBOSITY": "0",
    # what runs in a folder of the project, or of the cache, leaves it as it is
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class AnsibleProject:
    """What a playbook takes from its project: its ansible.cfg, the password of its vault, the variables of the caller
    that the step names, and `installed`, the folder with roles/ and collections/ that Galaxy was asked for.
    `owner` runs it, if it is not the caller who does, and `needed` is what it reads for that."""

    config: AnsibleConfig
    installed: Path | None = None
    vault_password_file: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    owner: ProjectOwner | None = None
    needed: Needed = field(default_factory=Needed)

    @classmethod
    def of(cls, step: PlaybookStep, installed: Path | None, definition: Path) -> AnsibleProject:
        """Raises HostError (project-owner-unknown, ansible-user-missing)."""
        owner, config = project_owner(definition, step.file), config_of(step)
        needed = Needed()
        if owner is not None and owner.service:
            folders = [definition.parent.parent, playbooks_folder(step), *config.trees, *config.role_trees]
            reads = [*folders, *([installed] if installed else [])]
            vault = [step.vault_password_file] if step.vault_password_file else []
            needed = Needed(reads, [*step_files(step), *vault])
        return cls(config, installed, step.vault_password_file, step.environment, owner, needed)

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that Ansible is run with; `home` is a private folder, which it may fill."""
        path = self.config.path
        if path is None:
            path = home / "ansible.cfg"
            # without a file of ours Ansible would look for one in /etc and in the caller's home
            path.write_text(f"[defaults]\ntimeout = {CONNECTION_TIMEOUT}\n")
        nothing = str(home / "nothing")
        plugins = {variable: nothing for name, variable in PLUGIN_PATHS.items() if name not in self.config.folders}
        return {
            **self.variables,
            **_FIXED,
            **plugins,
            "ANSIBLE_CONFIG": str(path),
            "ANSIBLE_HOME": str(home / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
            "ANSIBLE_LOG_PATH": str(home / "ansible.log"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(home / "cp"),
            "ANSIBLE_ROLES_PATH": self._search("roles_path", "roles") or nothing,
            "ANSIBLE_COLLECTIONS_PATH": self._search("collections_path", "collections") or nothing,
            "HOME": str(home),
            **(self.owner.environment if self.owner else {}),
        }

    def _search(self, setting: str, folder: str) -> str:
        installed = [self.installed / folder] if self.installed else []
        return os.pathsep.join(str(path) for path in (*self.config.folders.get(setting, ()), *installed))

    @property
    def arguments(self) -> list[str | Path]:
        """What ansible-playbook is told beside the playbook and its variables."""
        return ["--vault-password-file", self.vault_password_file] if self.vault_password_file else []


def explain_vault(output: str) -> GuestError | None:
    """The error where Ansible could not open what ansible-vault has encrypted; None where that was not it."""
    if re.search(r"Decryption failed \(no vault secrets", output):
        return GuestError(
            "the password in the step's vault_password_file does not decrypt the file",
            name="vault-password-wrong",
            hint="write the correct password into that file, as its only line",
        )
    if "no vault secrets" in output:
        return GuestError(
            "the playbook reads a file that ansible-vault encrypted, but the step has no vault_password_file",
            name="vault-password-missing",
            hint=VAULT_HINT,
        )
    return None


@read_once
def ansible_version() -> str:
    """The version of the ansible-core beside this Python; none where ansible-playbook comes from elsewhere."""
    try:
        return importlib.metadata.version("ansible-core")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def ansible_program(name: str) -> Path:
    """ansible-playbook or ansible-galaxy beside this Python, or in PATH. Raises UsageError (tool-missing)."""
    path = Path(sys.executable).parent / name
    if path.exists():
        return path
    found = process.find(name)
    if found is None:
        raise UsageError(f"{name} is not installed", name="tool-missing", hint="pip install ansible-core")
    return Path(found)
