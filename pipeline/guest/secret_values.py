"""The values of a definition's secrets: read when a step needs one, kept in memory, and known to no record.

A layer records a fingerprint of each secret that its steps read. Without the store's own key it tells nothing of the
value; it says whether the secret still has the value that the layer was made with.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.base import process, scratch
from pipeline.base.errors import GoldsmithError, HostError, UsageError
from pipeline.base.printable import single_line
from pipeline.base.secret_forms import LONGEST_SECRET, SHORTEST, Mask, piece
from pipeline.base.store import ANSIBLE_USER
from pipeline.base.surroundings import variables
from pipeline.definition import Definition, SecretSource
from pipeline.guest.host_view import Needed, started_as
from pipeline.guest.project_owner import ROOT_RUNS, project_owner

#: Seconds that a secret's command may take: a key server far away, or a person who touches a token.
COMMAND_TIMEOUT = 60.0
#: The fact of a layer that has the fingerprints of what its steps read.
SECRETS = "secrets"
#: The store's file with the key of the fingerprints, and its bytes.
KEY_FILE, KEY_BYTES = "secret-fingerprints.key", 32


@dataclass
class SecretValues:
    """The secrets of one build. `store` is the store's folder."""

    definition: Definition
    store: Path
    mask: Mask = field(default_factory=Mask)
    _values: dict[str, bytes] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> bytes:
        """The value of a secret: of a file its bytes; of a command what it prints, without the last line's end.

        From now on the mask knows it. Raises UsageError: secret-missing, secret-command-failed, secret-too-short,
        secret-too-long.
        """
        if name not in self._values:
            value = read_source(name, self.definition.secrets[name], self.definition)
            self.mask.add(name, value)
            self._values[name] = value
        return self._values[name]

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: self.read(name) for name in names}

    def read_texts(self, names: Iterable[str]) -> dict[str, str]:
        """The values as variables of a playbook, without the last line's end. Raises UsageError (secret-not-text)."""
        texts = {}
        for name, value in self.read_all(names).items():
            try:
                text = value.decode()
            except UnicodeDecodeError:
                raise UsageError(
                    f"the secret {name} is not UTF-8 text, so that no playbook can have it as a variable",
                    name="secret-not-text",
                    hint="store it in base64, and decode it in the playbook with b64decode",
                ) from None
            texts[name] = text.removesuffix("\n").removesuffix("\r")
        return texts

    def fingerprints(self, names: Iterable[str]) -> dict[str, str]:
        """HMAC-SHA256 of each value under the store's own key, in hex, by the secret's name."""
        values = self.read_all(names)
        key = self._key() if values else b""
        return {name: hmac.digest(key, value, "sha256").hex() for name, value in values.items()}

    def _key(self) -> bytes:
        path = self.store / KEY_FILE
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            key = path.read_bytes()
        if len(key) != KEY_BYTES:
            # a crash while it was written, or another build that writes it just now
            raise UsageError(
                f"{path} is damaged",
                name="secret-key-damaged",
                hint="delete it; layers whose steps read secrets are then built again",
            )
        return key


def read_source(name: str, source: SecretSource, definition: Definition) -> bytes:
    """The bytes of a secret from its source. Raises UsageError as `SecretValues.read`."""
    if source.file is not None:
        value = _read_file(name, source.file)
    elif source.env is not None:
        value = _read_variable(name, source.env)
    else:
        assert source.command is not None, "the definition's rules want one source"
        value = _run_command(name, source.command, definition)
    if len(value) > LONGEST_SECRET:
        raise UsageError(
            f"the secret {name} has {len(value)} bytes; at most {LONGEST_SECRET} are allowed",
            name="secret-too-long",
            hint="copy large files in a copy step, or store them encrypted and keep only the key as a secret",
        )
    if len(piece(value).strip()) < SHORTEST:
        raise UsageError(
            f"the secret {name} has fewer than {SHORTEST} bytes, so that the shipped disk cannot be searched for it",
            name="secret-too-short",
            hint="use a longer secret; what is public belongs in vars:",
        )
    return value


def check_sources(definition: Definition, names: Iterable[str]) -> dict[str, str]:
    """Why a secret cannot be read, by its name; nothing is read and no command runs."""
    faults = {}
    for name in names:
        source = definition.secrets[name]
        if source.file is not None and not os.access(source.file, os.R_OK):
            faults[name] = f"the file {source.file} cannot be read"
        elif source.env is not None and not variables().get(source.env):
            faults[name] = f"the variable {source.env} is not set"
    return faults


def _read_file(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_SECRET + 1)
    except OSError as error:
        raise _missing(name, f"{path}: {error.strerror}") from None


def _read_variable(name: str, variable: str) -> bytes:
    value = variables().get(variable)
    if not value:
        raise _missing(name, f"the variable {variable} is not set")
    return os.fsencode(value)


def _run_command(name: str, command: str, definition: Definition) -> bytes:
    """What a command prints. It gets the caller's variables, and runs as the user who runs the project's playbooks:
    its code is the project's, and must not run as root.
    """
    try:
        owner = project_owner(definition.path, definition.path)
    except HostError as error:
        raise _missing(name, error.message) from None
    environment: Mapping[str, str] = dict(variables())
    try:
        with scratch.folder(name="home") as home:
            needed = Needed([definition.project])
            if owner is not None and owner.service and not Path(owner.home).is_dir():
                owner.give(home)
                owner, needed = replace(owner, home=str(home)), replace(needed, writes=[home])
            if owner is not None:
                environment = {**environment, "HOME": owner.home, **owner.environment}
            with started_as(owner, needed) as started:
                argv = started(["/bin/sh", "-c", command])
                result = process.run(argv, deadline=COMMAND_TIMEOUT, cwd=definition.project, env=environment)
    except process.CommandTimeout:
        raise _failed(name, f"did not finish within {COMMAND_TIMEOUT:.0f} s") from None
    except process.CommandFailed as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        user = f" as {owner.name}" if owner else ""
        raise _failed(name, f"ended{user} with exit code {error.code}: {single_line(last, 200)}") from None
    except GoldsmithError as error:
        raise _failed(name, error.message) from None
    return result.stdout.removesuffix("\n").encode()


def _missing(name: str, why: str) -> UsageError:
    return UsageError(
        f"the secret {name} cannot be read: {why}",
        name="secret-missing",
        hint="provide the file or the variable, readable for this user, or change the secret's source",
    )


def _failed(name: str, why: str) -> UsageError:
    return UsageError(
        f"the command of the secret {name} {why}",
        name="secret-command-failed",
        hint="run the command by hand as the owner of the definition, in the project's folder; commands of a project "
        f"of root run as {ANSIBLE_USER}: {ROOT_RUNS}",
    )
