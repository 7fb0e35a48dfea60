"""What Azure's agent in a clone must do: report its status, run an extension, and keep the VM's certificate."""

from __future__ import annotations

import re

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.base.printable import shorten
from pipeline.fabric import Guest
from pipeline.fabric.extension import NAME, HandlerStatus
from pipeline.prove.first_boot_report import SETTLE
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.clone import Clone

#: How often an agent may ask for its goal state within MINUTE and still be at rest: waagent does each 6 s.
GOAL_STATES = 20
MINUTE = 60.0

#: Runs as root in the clone. Certificate and key belong together where both have the same public key.
_CERTIFICATE = r"""
cd FOLDER 2>/dev/null || exit 0
[ -s THUMBPRINT.crt ] && echo certificate=$(openssl x509 -noout -fingerprint -sha1 -in THUMBPRINT.crt | tr -d :)
[ -s THUMBPRINT.prv ] && echo key=$(openssl pkey -pubout -in THUMBPRINT.prv | sha256sum)
[ -s THUMBPRINT.crt ] && echo own=$(openssl x509 -noout -pubkey -in THUMBPRINT.crt | sha256sum)
exit 0
"""
#: Where waagent keeps what Azure gave it.
FOLDER = "/var/lib/waagent"


def settled(clone: Clone, result: CloneResult, guest: Guest, *, check: str = "azure agent") -> None:
    """Judge Azure's agent: it has taken the goal state in, reports its status, and does not ask in a hurry."""
    settle = SETTLE[clone.spec.kvm]

    def reported() -> bool | None:
        return any(e.request.method == "PUT" and e.request.path == "/status" for e in guest.asked()) or None

    try:
        clone.machine.wait("the agent's status", reported, deadline=settle, name="agent-unsettled")
    except GuestError as error:
        if error.name != "agent-unsettled":
            raise
        result.see(check, f"no status within {settle:.0f} s", False)
        return
    asked = guest.asked()
    since = asked[-1].at - MINUTE
    polls = sum(e.request.query.get("comp") == "goalstate" and e.at >= since for e in asked)
    result.see(check, f"status reported, {polls} goal states asked in {MINUTE:.0f} s", polls <= GOAL_STATES)


def extension(clone: Clone, result: CloneResult, guest: Guest) -> None:
    """Judge the extension that the goal state names, and the certificate with which its settings are encrypted."""
    offered = guest.instance.extension
    if offered is None:
        return
    settle = SETTLE[clone.spec.kvm]

    def reported() -> HandlerStatus | None:
        status = guest.extension_status(NAME)
        return status if status is not None and status.over else None

    try:
        status = clone.machine.wait("the extension's status", reported, deadline=settle, name="extension-silent")
    except GuestError as error:
        if error.name != "extension-silent":
            raise
        last = guest.extension_status(NAME)
        result.see("extension", f"no final status within {settle:.0f} s{_describe(last)}", False)
    else:
        good = status.state == "success" and {offered.public, offered.secret} <= set(status.message.split())
        result.see("extension", "success" if good else f"failed{_describe(status)}", good)
    _certificate(clone, result, offered.pair.thumbprint)


def _describe(status: HandlerStatus | None) -> str:
    if status is None:
        return ": the agent reported no extension"
    words = f"{status.status} {status.state}".strip()
    return f": {words}, code {status.code}: {shorten(status.message)}"


def _certificate(clone: Clone, result: CloneResult, thumbprint: str) -> None:
    script = _CERTIFICATE.replace("THUMBPRINT", thumbprint).replace("FOLDER", FOLDER)
    try:
        output = clone.steps.ssh("sudo -n sh -s", stdin=script, deadline=clone.timeouts.command).stdout
    except process.CommandFailed as error:
        result.see("certificate", f"cannot be read: {shorten(error.stderr.strip())}", False)
        return
    found = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    landed = re.sub(r".*=", "", found.get("certificate", "")).upper() == thumbprint
    if not landed:
        result.see("certificate", f"not there: {FOLDER}/{thumbprint}.crt", False)
    elif not found.get("key") or found["key"] != found.get("own"):
        result.see("certificate", f"its private key is not there: {FOLDER}/{thumbprint}.prv", False)
    else:
        result.see("certificate", f"{thumbprint} with its key", True)
