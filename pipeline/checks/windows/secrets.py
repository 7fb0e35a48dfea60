"""Does it keep a password of its build: in the registry's secrets, in an account, in an answer file?"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.model import HOUSE, Subject, windows_check
from pipeline.disk.accounts import read_accounts

_LOGON = r"Policy\Secrets\DefaultPassword"


@windows_check(
    "win-lsa-password",
    "The secrets of the local security authority have no password of an automatic logon",
    why="The answer file's automatic logon leaves its password there. Every administrator of a clone can read it.",
    remedy=r"Delete SECURITY\Policy\Secrets\DefaultPassword before sysprep; goldsmith's generalize does.",
    source=HOUSE,
)
def lsa_password(subject: Subject) -> Iterator[str]:
    security = subject.windows.hive("SECURITY")
    for name, what in (("CurrVal", "a password"), ("OldVal", "an earlier password")):
        if security.value(f"{_LOGON}\\{name}", ""):
            yield f"SECURITY\\{_LOGON}: {what}"


@windows_check(
    "win-account-passwords",
    "No account has a password of the build",
    why="Everybody who knows or cracks the build's password can log in to every clone. Sysprep clears the password "
    "on a server, but not on a client.",
    remedy="Set-LocalUser Administrator with an empty password before sysprep, as goldsmith's generalize does.",
    source=HOUSE,
    severity="warn",
)
def account_passwords(subject: Subject) -> Iterator[str]:
    allowed = {name.lower() for name in subject.accounts}
    for account in read_accounts(subject.windows.hive("SAM")):
        if account.has_password and account.name.lower() not in allowed:
            yield f"account {account.name} ({account.rid}): it has the hash of a password"
