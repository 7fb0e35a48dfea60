"""What Windows Update's codes mean, and what to do. Microsoft: Windows Update error reference; common errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """`lasting`: to ask again changes nothing."""

    what: str = ""
    hint: str = ""
    lasting: bool = False


_NETWORK = "check DNS, proxy and firewall of this host; the guest uses its network"
_WSUS = r"a policy names a server (HKLM\SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate): correct or remove it"
_SERVICE = "turn the service on before updates: Set-Service wuauserv -StartupType Manual"
_STORE = "run dism /online /cleanup-image /restorehealth, or use a newer medium"
_SPACE = "set a larger `disk`"

MEANINGS = {
    "0x8024402c": Meaning("the update server's name is not known", _NETWORK),
    "0x80072ee7": Meaning("the update server's name is not known", _NETWORK),
    "0x80072efd": Meaning("no connection to the update server", _NETWORK),
    "0x80072efe": Meaning("the connection to the update server was broken off", _NETWORK),
    "0x80072ee2": Meaning("the update server does not answer", _NETWORK),
    "0x80240438": Meaning("there is no route to the update server", _NETWORK),
    "0x8024401c": Meaning("the update server does not answer (HTTP 408)", _NETWORK),
    "0x80244022": Meaning("the update server is overloaded (HTTP 503)", "try again later"),
    "0x80244010": Meaning("the search needed more requests than the server allows", "start from a newer medium"),
    "0x80072f8f": Meaning("the update server's certificate is not valid", "check the clock", lasting=True),
    "0x80244017": Meaning("the update server denies access (HTTP 401)", _WSUS, lasting=True),
    "0x80244018": Meaning("the update server forbids it (HTTP 403)", _WSUS, lasting=True),
    "0x80244019": Meaning("the update server did not find the update (HTTP 404)", _WSUS, lasting=True),
    "0x8024500c": Meaning("a policy forbids Microsoft's servers", _WSUS, lasting=True),
    "0x8024002e": Meaning("a policy forbids unmanaged servers", _WSUS, lasting=True),
    "0x80070422": Meaning("the Windows Update service is disabled", _SERVICE, lasting=True),
    "0x80240044": Meaning("only administrators may do this", "", lasting=True),
    "0x80070005": Meaning("access is denied"),
    "0x80070070": Meaning("the disk is full", _SPACE, lasting=True),
    "0x8024001e": Meaning("the Windows Update service was stopped meanwhile"),
    "0x80240016": Meaning("another installation is running, or a restart is pending"),
    "0x80240017": Meaning("it does not apply to this Windows"),
    "0x80240022": Meaning("none of them could be installed"),
    "0x80070643": Meaning("its installer failed", "the recovery partition may be too small for it"),
    "0x80070bc9": Meaning("it is reverted at each restart"),
    "0x800f0922": Meaning("its installers failed, and it was reverted", _SPACE),
    "0x800f0831": Meaning("a required earlier update is missing", _STORE),
    "0x800f081f": Meaning("the component store lacks its files", _STORE),
    "0x80073712": Meaning("the component store is damaged", _STORE),
}


def explained(code: str) -> Meaning:
    """What is known of a code such as 0x8024402c; nothing of one that is not."""
    return MEANINGS.get(code.lower(), Meaning())
