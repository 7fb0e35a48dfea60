"""A provisioner of a template to steps of a definition: scripts, copies, playbooks, Windows' updates."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.packer.imported import Imported
from pipeline.packer.limits import COPIED_FILES, Folder, NotKnown, Unknown
from pipeline.packer.sources import is_true
from pipeline.packer.template import Attributes, Provisioner

#: Attributes of all provisioners that need no word in a definition: a step runs until its end, as root.
_OWN_WAYS = frozenset(
    [
        "only",
        "except",
        "override",
        "execute_command",
        "environment_vars",
        "env",
        "inline",
        "inline_shebang",
        "script",
        "scripts",
        "source",
        "sources",
        "destination",
        "content",
        "binary",
        "pause_before",
        "pause_after",
        "expect_disconnect",
        "start_retry_timeout",
        "remote_folder",
        "remote_file",
        "remote_path",
        "skip_clean",
        "timeout",
        "elevated_user",
        "elevated_password",
        "elevated_execute_command",
        "use_env_var_file",
        "env_var_format",
        "playbook_file",
        "playbook_files",
        "extra_arguments",
        "user",
        "host_alias",
        "use_proxy",
        "use_sftp",
        "ansible_env_vars",
        "galaxy_file",
        "roles_path",
        "command",
        "groups",
        "inventory_file",
        "keep_inventory_file",
        "local_port",
        "ssh_host_key_file",
        "galaxy_force_with_deps",
        "galaxy_force_install",
        "staging_directory",
        "playbook_dir",
        "direction",
        "generated",
        "search_criteria",
        "filters",
        "update_limit",
        "max_retries",
        "restart_timeout",
        "restart_check_command",
        "restart_command",
        "registry_keys",
        "check_registry",
        "name",
        "type",
    ]
)
#: Ways to call a script that are the same as goldsmith's: as root, by a shell.
_PLAIN_COMMAND = re.compile(
    r"(echo +['\"]?[^|]*\| *)?(chmod \+x \{\{ ?\.Path ?\}\}; *)*((sudo|env|\{\{ ?\.Vars ?\}\}|-[A-Za-z]+) *)*"
    r"((/bin/|/usr/bin/)?(env +)?(ba|da)?sh)?( +-[A-Za-z]+)* *['\"]?\{\{ ?\.Path ?\}\}['\"]?"
)
#: Folders beside a playbook that it may use.
_BESIDE = (
    "roles", "files", "templates", "vars", "tasks", "handlers", "group_vars", "host_vars", "library",
    "filter_plugins", "module_utils", "lookup_plugins", "defaults", "meta",
)  # fmt: skip
_NOT_NEEDED = {
    "breakpoint": "a build needs none; goldsmith shell RUN enters a failed guest",
    "shell-local": "goldsmith runs nothing on the host; do it before the build",
    "windows-restart": "write `reboot: expected` or `checkpoint: true` on the step before it, if it needs a restart",
}
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?")


class StepMaker:
    """Adds the steps of one build to a definition."""

    def __init__(self, imported: Imported, folder: Folder, *, runs_powershell: bool) -> None:
        self._imported = imported
        self._folder = folder
        self._runs_powershell = runs_powershell
        self._number = 0

    def turn(self, provisioner: Provisioner) -> None:
        """Add the steps of a provisioner, and name what is missing of it."""
        self._number += 1
        title = f"{provisioner.type} {self._number}"
        rules: dict[str, Callable[[str, Attributes], None]] = {
            "shell": self._shell,
            "powershell": self._powershell,
            "windows-shell": self._windows_shell,
            "file": self._file,
            "ansible": self._ansible,
            "ansible-local": self._ansible,
            "windows-update": self._updates,
        }
        rule = rules.get(provisioner.type)
        if rule is None:
            self._imported.miss(title, _NOT_NEEDED.get(provisioner.type, "goldsmith has no such step"))
            return
        try:
            rule(title, provisioner.attributes)
        except NotKnown as error:
            self._imported.miss(title, f"it needs {error.reason}")
        rest = sorted(key for key in provisioner.attributes if key not in _OWN_WAYS)
        if rest:
            self._imported.miss(f"{title}: {', '.join(rest)}", "goldsmith has nothing for these")

    def _add(self, title: str, step: dict[str, Any], attributes: Attributes) -> None:
        if seconds := _seconds(attributes.get("timeout")):
            step["timeout"] = f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds} s"
        self._imported.document.setdefault("steps", []).append({"name": title, **step})
        self._imported.turned.append(f"{title}: {', '.join(key for key in step if key != 'timeout')}")

    # -- scripts -------------------------------------------------------------------------------------------------

    def _shell(self, title: str, attributes: Attributes) -> None:
        if self._runs_powershell:
            raise NotKnown("a Linux guest: goldsmith runs shell scripts in no Windows")
        command = attributes.get("execute_command")
        if isinstance(command, str) and not _PLAIN_COMMAND.fullmatch(command.strip()):
            self._imported.miss(f"{title}: execute_command", f"the script runs as root, not by {command}")
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self._variables(title, attributes)]
        inline = _texts(attributes, "inline")
        if inline:
            shebang = attributes.get("inline_shebang")
            head = f"#!{shebang if isinstance(shebang, str) and shebang.startswith('/') else '/bin/sh -e'}"
            text = "\n".join((head, *exports, *inline)) + "\n"
            path = self._imported.free_path(self._scripts, f"{self._number:02}-inline.sh")
            self._imported.add_file(path, text.encode(), executable=True)
            self._add(title, {"script": path}, attributes)
        self._each_script(title, attributes, lambda data: _with_lines(data, exports), lambda path: {"script": path})

    def _powershell(self, title: str, attributes: Attributes) -> None:
        if not self._runs_powershell:
            raise NotKnown("a Windows guest")
        lines = [
            f"$env:{name} = '{value.replace(chr(39), chr(39) * 2)}'"
            for name, value in self._variables(title, attributes)
        ]
        inline = _texts(attributes, "inline")
        if inline:
            path = self._imported.free_path(self._scripts, f"{self._number:02}-inline.ps1")
            self._imported.add_file(path, "".join(f"{line}\n" for line in (*lines, *inline)).encode())
            self._add(title, {"powershell": path}, attributes)

        def with_variables(data: bytes) -> bytes:
            if lines and re.search(rb"(?im)^\s*(param\s*\(|\[cmdletbinding)", data):
                raise NotKnown("environment_vars in a script that begins with param()")
            return "".join(f"{line}\r\n" for line in lines).encode() + data

        self._each_script(title, attributes, with_variables, lambda path: {"powershell": path})

    def _windows_shell(self, title: str, attributes: Attributes) -> None:
        if not self._runs_powershell:
            raise NotKnown("a Windows guest")
        for line in _texts(attributes, "inline"):
            self._add(title, {"cmd": line}, attributes)
        for word in _scripts(attributes):
            self._imported.miss(
                f"{title}: {word}", "goldsmith runs no batch files; write it as cmd or powershell steps"
            )

    def _each_script(
        self,
        title: str,
        attributes: Attributes,
        change: Callable[[bytes], bytes],
        step: Callable[[str], dict[str, Any]],
    ) -> None:
        for word in _scripts(attributes):
            try:
                if isinstance(word, Unknown):
                    raise NotKnown(word.reason)
                data = change(self._folder.read_bytes(word))
            except NotKnown as error:
                self._imported.miss(f"{title}: script", f"it needs {error.reason}")
                continue
            name = re.split(r"[/\\]", word)[-1]
            path = self._imported.free_path(self._scripts, f"{self._number:02}-{name}")
            self._imported.add_file(path, data, executable=True)
            self._add(f"{title}: {name}", step(path), attributes)

    @property
    def _scripts(self) -> str:
        return f"scripts/{self._imported.name}"

    def _variables(self, title: str, attributes: Attributes) -> list[tuple[str, str]]:
        """The environment of a script: of environment_vars, and of env."""
        words = attributes.get("environment_vars") or []
        pairs: list[tuple[str, Any]] = []
        if isinstance(words, Unknown):
            self._imported.miss(f"{title}: environment_vars", f"they need {words.reason}")
            words = []
        for word in words:
            if isinstance(word, str) and re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL):
                name, _, value = word.partition("=")
                pairs.append((name, value))
            else:
                why = f"it needs {word.reason}" if isinstance(word, Unknown) else "it is not NAME=value"
                self._imported.miss(f"{title}: an environment variable", why)
        env = attributes.get("env")
        pairs += env.items() if isinstance(env, dict) else []
        out = []
        for name, value in pairs:
            if isinstance(value, str) and "{{" not in value and re.fullmatch(r"[A-Za-z_]\w*", name):
                out.append((name, value))
            else:
                why = f"it needs {value.reason}" if isinstance(value, Unknown) else "Packer sets it while it runs"
                self._imported.miss(f"{title}: {name}", why)
        return out

    # -- files -----------------------------------------------------------------------------------------------------

    def _file(self, title: str, attributes: Attributes) -> None:
        if attributes.get("direction") == "download":
            raise NotKnown("a download from the guest, for which goldsmith has no step")
        if is_true(attributes.get("generated")):
            raise NotKnown("a file that Packer's host makes during the build")
        destination = attributes.get("destination")
        if not isinstance(destination, str) or not re.match(r"/|[A-Za-z]:[\\/]", destination):
            why = destination.reason if isinstance(destination, Unknown) else "an absolute destination"
            raise NotKnown(why)
        if re.match(r"[A-Za-z]:", destination):
            destination = destination.replace("/", "\\")
        content = attributes.get("content")
        if content is not None:
            if not isinstance(content, str):
                raise NotKnown(content.reason if isinstance(content, Unknown) else "a text as its content")
            name = re.split(r"[/\\]", destination.rstrip("/\\"))[-1] or "content"
            path = self._imported.free_path(self._files, name)
            self._imported.add_file(path, content.encode())
            self._add(title, {"copy": {"from": path, "to": destination}}, attributes)
            return
        sources = attributes.get("sources") or [attributes.get("source")]
        for word in sources if isinstance(sources, list) else [sources]:
            self._copy(title, word, destination, attributes)

    def _copy(self, title: str, word: Any, destination: str, attributes: Attributes) -> None:
        if not isinstance(word, str):
            raise NotKnown(word.reason if isinstance(word, Unknown) else "a source")
        found = self._folder.find(word)
        into = destination.endswith(("/", "\\"))
        slash = "\\" if re.match(r"[A-Za-z]:", destination) else "/"
        target = destination.rstrip("/\\")
        # as Packer: a folder without a slash at its end is copied itself, not its content
        if (found.is_dir() and not word.endswith("/")) or (found.is_file() and into):
            target = f"{target}{slash}{found.name}"
        path = self._imported.free_path(self._files, found.name)
        if found.is_dir():
            count = self._copy_folder(found, path)
            if not count:
                raise NotKnown(f"{word}, which has no files")
        else:
            mode = found.stat().st_mode
            self._imported.add_file(path, self._folder.read_bytes(word), executable=bool(mode & 0o100))
        self._add(f"{title}: {found.name}", {"copy": {"from": path, "to": target}}, attributes)

    @property
    def _files(self) -> str:
        return f"files/{self._imported.name}"

    def _copy_folder(self, folder: Path, target: str) -> int:
        """Add all files of a folder, with the same names; returns their number. Links to elsewhere are named."""
        count = 0
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if ".git" in relative.parts or not path.is_file():
                continue
            try:
                data = self._folder.read_bytes(str(path))
            except NotKnown as error:
                self._imported.miss(f"{folder.name}/{relative}", f"it needs {error.reason}")
                continue
            self._imported.add_file(f"{target}/{relative}", data, executable=bool(path.stat().st_mode & 0o100))
            count += 1
            if count > COPIED_FILES:
                raise NotKnown(f"{folder.name}, which has more than {COPIED_FILES} files")
        return count

    # -- playbooks and updates -------------------------------------------------------------------------------------

    def _ansible(self, title: str, attributes: Attributes) -> None:
        words = attributes.get("playbook_files") or [attributes.get("playbook_file")]
        variables = self._playbook_variables(title, attributes)
        for key in ("galaxy_file", "roles_path", "ansible_env_vars", "command", "groups", "inventory_file"):
            if attributes.get(key):
                self._imported.miss(f"{title}: {key}", "not turned; docs/definition.md says what a playbook may use")
        for word in words if isinstance(words, list) else [words]:
            if not isinstance(word, str):
                raise NotKnown(word.reason if isinstance(word, Unknown) else "a playbook")
            playbook = self._folder.find(word)
            if not playbook.is_file():
                raise NotKnown(f"{word}, which is not a file")
            base = f"playbooks/{self._imported.name}"
            target = f"{base}/{playbook.name}"
            if target not in self._imported.files:
                self._imported.add_file(target, self._folder.read_bytes(word))
                for folder in _BESIDE:
                    if (playbook.parent / folder).is_dir():
                        self._copy_folder(playbook.parent / folder, f"{base}/{folder}")
            step: dict[str, Any] = {"playbook": f"{self._imported.name}/{playbook.name}"}
            self._add(title, {**step, **({"vars": variables} if variables else {})}, attributes)

    def _playbook_variables(self, title: str, attributes: Attributes) -> dict[str, Any]:
        words = attributes.get("extra_arguments")
        found: dict[str, Any] = {}
        waiting = list(words) if isinstance(words, list) else []
        if isinstance(words, Unknown):
            waiting = [words]
        while waiting:
            word = waiting.pop(0)
            option, _, value = word.partition("=") if isinstance(word, str) else ("", "", "")
            if option in ("-e", "--extra-vars"):
                word = value or (waiting.pop(0) if waiting else "")
                if isinstance(word, str):
                    found.update(_extra_variables(word))
                    continue
            why = f"it needs {word.reason}" if isinstance(word, Unknown) else f"{word} is not turned"
            self._imported.miss(f"{title}: extra_arguments", why)
        return found

    def _updates(self, title: str, attributes: Attributes) -> None:
        if not self._runs_powershell:
            raise NotKnown("a Windows guest")
        self._imported.document["updates"] = {"only": "all"}
        self._imported.turned.append(f"{title}: updates, before all steps")
        if attributes.get("filters") or attributes.get("search_criteria"):
            self._imported.miss(f"{title}: filters", "goldsmith installs all updates, or only those for security")


def _extra_variables(word: str) -> dict[str, Any]:
    """The variables of one --extra-vars: JSON, or NAME=value words."""
    if word.lstrip().startswith("{"):
        try:
            found = json.loads(word)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
    try:
        words = shlex.split(word)
    except ValueError:
        words = word.split()
    return {name: value for name, equals, value in (each.partition("=") for each in words) if equals}


def _texts(attributes: Attributes, key: str) -> list[str]:
    """A list of lines; all of them must be known, because a script without a line does something else."""
    found = attributes.get(key)
    if isinstance(found, Unknown):
        raise NotKnown(found.reason)
    lines = [found] if isinstance(found, str) else list(found or [])
    for each in lines:
        if isinstance(each, Unknown):
            raise NotKnown(each.reason)
    return [str(each) for each in lines]


def _scripts(attributes: Attributes) -> list[Any]:
    """The paths of scripts. /dev/null is how a template writes that it has none."""
    found = attributes.get("scripts") or attributes.get("script") or []
    return [each for each in (found if isinstance(found, list) else [found]) if each != "/dev/null"]


def _with_lines(data: bytes, lines: list[str]) -> bytes:
    """A script with lines behind its first, if that names its interpreter."""
    if not lines:
        return data
    text = "".join(f"{line}\n" for line in lines).encode()
    first, newline, rest = data.partition(b"\n")
    if not first.startswith(b"#!"):
        return text + data
    if b"sh" not in first:
        raise NotKnown("environment_vars in a script of another interpreter than a shell")
    return first + (newline or b"\n") + text + rest


def _seconds(text: Any) -> int:
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    hours, minutes, seconds = (int(each or 0) for each in found.groups()) if found else (0, 0, 0)
    return hours * 3600 + minutes * 60 + seconds
