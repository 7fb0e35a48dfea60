"""The source of a credential: Azure's default chain, or a key, a SAS or a connection string if an option names it.

A secret is read from a file, a variable or a command's output, when it is needed; never from the command line, where
every user of the host would see it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.base import process
from pipeline.base.errors import HostError, UsageError
from pipeline.publish.redaction import remember

if TYPE_CHECKING:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential, TokenCredential

Kind = Literal["default", "key", "sas", "connection-string"]
#: An azure-core credential: AzureNamedKeyCredential, AzureSasCredential or TokenCredential.
Opened = Any
#: Bytes of a secret: a connection string has some hundred.
LIMIT = 64 << 10
#: Seconds that a command may take to print a secret: a password store may wait for the touch of a hardware key.
DEADLINE = 120.0


@dataclass(frozen=True)
class Source:
    """The source of a secret: `where` is file, env or command; `what` is a path, a variable or a command."""

    where: Literal["file", "env", "command"]
    what: str

    def read(self, variables: Mapping[str, str]) -> str:
        """The secret without its line end. Raises UsageError (credential-missing)."""
        text = self._read(variables).strip()
        if not text:
            raise self._missing("is empty")
        return remember(text)

    def _read(self, variables: Mapping[str, str]) -> str:
        if self.where == "env":
            if self.what not in variables:
                raise self._missing("is not set")
            return variables[self.what]
        if self.where == "file":
            try:
                with Path(self.what).open(encoding="utf-8") as file:
                    return file.read(LIMIT)
            except (OSError, UnicodeDecodeError) as error:
                raise self._missing(f"cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from None
        try:
            return process.run(shlex.split(self.what), deadline=DEADLINE).stdout
        except process.CommandFailed:
            # its output may hold a part of the secret
            raise self._missing("failed") from None

    def _missing(self, why: str) -> UsageError:
        kinds = {"file": "the file", "env": "the variable", "command": "the command"}
        what = shlex.split(self.what)[0] if self.where == "command" else self.what
        return UsageError(
            f"the credential cannot be read: {kinds[self.where]} {what} {why}",
            name="credential-missing",
            hint="name a readable source of the secret: file:PATH, env:NAME or command:WORDS",
        )


@dataclass(frozen=True)
class SignedUrl:
    """A signature that Azure has just given; it is in no file, and never shown."""

    signature: str = field(repr=False)

    def read(self, _variables: Mapping[str, str]) -> str:
        return remember(self.signature)


def parse_source(text: str) -> Source:
    """`file:PATH`, `env:NAME` or `command:WORDS`. Raises UsageError, without repeating what may be a secret."""
    where, colon, what = text.partition(":")
    if not colon or not what or where not in ("file", "env", "command"):
        raise UsageError(
            "a credential's source is file:PATH, env:NAME or command:WORDS",
            name="credential-source",
            hint="a secret itself does not belong on the command line: write it into a file of mode 0600",
        )
    return Source(where, what)  # type: ignore[arg-type]  # one of the three, as tested above


@dataclass(frozen=True)
class Credential:
    """The credential of a container. `source` is None for Azure's default chain."""

    kind: Kind = "default"
    source: Source | SignedUrl | None = None

    def open(self, account: str, variables: Mapping[str, str]) -> Opened:
        """The SDK's credential for a container of `account`. Raises UsageError, HostError."""
        if self.source is None:
            return default_chain(variables)
        secret = self.source.read(variables)
        if self.kind == "sas":
            return _sas(secret)
        if self.kind == "key":
            return _key(account, secret)
        parts = {name: value for name, _, value in (part.partition("=") for part in secret.split(";"))}
        if sas := parts.get("SharedAccessSignature"):
            return _sas(sas)
        if (key := parts.get("AccountKey")) and parts.get("AccountName", account) == account:
            return _key(account, key)
        why = f"is of account {parts['AccountName']}, not {account}" if key else "has no key and no signature"
        raise UsageError(
            f"the connection string {why}",
            name="credential-missing",
            hint="copy it whole from the storage account's page, Access keys",
        )


def _sas(text: str) -> AzureSasCredential:
    from azure.core.credentials import AzureSasCredential

    text = text.removeprefix("?")
    for part in text.split("&"):
        if part.startswith("sig="):
            remember(part.removeprefix("sig="))
    return AzureSasCredential(remember(text))


def _key(account: str, key: str) -> AzureNamedKeyCredential:
    from azure.core.credentials import AzureNamedKeyCredential

    return AzureNamedKeyCredential(account, remember(key))


def default_chain(variables: Mapping[str, str]) -> TokenCredential:
    """Azure's own ways to log in, in their order. Raises HostError (publish-needs-azure)."""
    try:
        from azure.identity import AzureAuthorityHosts, DefaultAzureCredential
    except ImportError:
        raise HostError(
            "azure-identity is not installed; it logs in to Azure",
            name="publish-needs-azure",
            hint="pip install 'goldsmith[azure]', or name a credential: --key-from, --sas-from, "
            "--connection-string-from",
        ) from None
    options: dict[str, Any] = {"exclude_interactive_browser_credential": True}
    host = variables.get("AZURE_AUTHORITY_HOST", "").removeprefix("https://").rstrip("/")
    known = {value for name, value in vars(AzureAuthorityHosts).items() if name.isupper()}
    if host and host not in known:
        # a cloud of one's own: Microsoft's list of clouds does not have it
        options["disable_instance_discovery"] = True
    return DefaultAzureCredential(**options)
