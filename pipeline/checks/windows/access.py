"""Can its user get in, and nobody else; does it take the network, the clock and the disks that it is given?"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.model import HOUSE, CannotLook, Subject, windows_check
from pipeline.disk.windows import need_keys, shown
from pipeline.systems.windows.firewall import PREFIX, PROTOCOLS, rule_name

_TERMINAL = r"Control\Terminal Server"
_RDP = rf"{_TERMINAL}\WinStations\RDP-Tcp"
_FIREWALL = r"Services\SharedAccess\Parameters\FirewallPolicy"
#: Azure's platform, by which agents speak to it, and the health of a VM is asked.
_PLATFORM = "168.63.129.16"
#: Fields that make a rule hold for a part of what it names. Microsoft: [MS-GPFAS], firewall rule's grammar.
_NARROWER = frozenset({"Protocol", "LPort", "RPort", "App", "Svc", "Profile", "LA4", "IF", "IFType"})
#: How services start: 2 by themselves, 3 on demand.
AUTOMATIC = ("BFE", "Dhcp", "Dnscache", "IKEEXT", "iphlpsvc", "nsi", "mpssvc", "RemoteRegistry", "w32time")
ON_DEMAND = ("Netlogon", "Netman", "TermService")


@windows_check(
    "win-rdp",
    "Remote Desktop is allowed, on its own port, on every card",
    why="Remote Desktop is the only way to log in to a Windows VM on Azure.",
    remedy=r"fDenyTSConnections 0; WinStations\RDP-Tcp: PortNumber 3389, LanAdapter 0.",
)
def rdp(subject: Subject) -> Iterator[str]:
    for key, name, right in (
        (_TERMINAL, "fDenyTSConnections", 0),
        (_RDP, "PortNumber", 3389),
        (_RDP, "LanAdapter", 0),
    ):
        yield from subject.windows.other_than(right, key, name)


@windows_check(
    "win-rdp-policy",
    "No policy disables Remote Desktop",
    why="A policy overrides the setting: the port is open, but the connection is refused.",
    remedy=r"Remove SOFTWARE\Policies\Microsoft\Windows NT\Terminal Services\fDenyTSConnections.",
)
def rdp_policy(subject: Subject) -> Iterator[str]:
    value = subject.windows.software(r"Policies\Microsoft\Windows NT\Terminal Services", "fDenyTSConnections")
    if value not in (None, 0):
        yield f"fDenyTSConnections is {shown(value)} by policy"


@windows_check(
    "win-rdp-nla",
    "Remote Desktop authenticates the user first, and keeps connections alive",
    why="Without network level authentication everybody sees the logon screen. Without keep-alive, sessions are "
    "lost.",
    remedy=r"WinStations\RDP-Tcp: UserAuthentication 1, KeepAliveTimeout 1; Policies ... Terminal Services: "
    "KeepAliveEnable 1, KeepAliveInterval 1.",
    severity="warn",
)
def rdp_nla(subject: Subject) -> Iterator[str]:
    for name in ("UserAuthentication", "KeepAliveTimeout"):
        yield from subject.windows.other_than(1, _RDP, name)
    for name in ("KeepAliveEnable", "KeepAliveInterval"):
        value = subject.windows.software(r"Policies\Microsoft\Windows NT\Terminal Services", name)
        if value != 1:
            yield f"{name} is {shown(value)} by policy, not 1"


@windows_check(
    "win-rdp-certificate",
    "Remote Desktop is not bound to a certificate",
    why="A clone does not have the certificate's key, so its Remote Desktop does not answer.",
    remedy=r"Delete SSLCertificateSHA1Hash from WinStations\RDP-Tcp.",
)
def rdp_certificate(subject: Subject) -> Iterator[str]:
    for control, value in subject.windows.in_each_set(_RDP, "SSLCertificateSHA1Hash"):
        if value is not None:
            yield f"{control}: SSLCertificateSHA1Hash is set"


@windows_check(
    "win-services",
    "The services that Azure needs have the right start type",
    why="Without them there is no network, no firewall, or no Remote Desktop.",
    remedy="Set-Service NAME -StartupType Automatic (Manual for Netlogon, Netman, TermService)",
)
def services(subject: Subject) -> Iterator[str]:
    for names, most in ((AUTOMATIC, 2), (ON_DEMAND, 3)):
        for name in names:
            for control, value in subject.windows.in_each_set(f"Services\\{name}", "Start"):
                # what starts earlier than it must does no harm
                if not isinstance(value, int) or not 2 <= value <= most:
                    yield f"{control}: {name} Start is {shown(value)}"


@windows_check(
    "win-firewall",
    "The firewall is on in all three profiles",
    why="On Azure other machines share the network.",
    remedy="Set-NetFirewallProfile -Profile Domain,Public,Private -Enabled True",
)
def firewall(subject: Subject) -> Iterator[str]:
    for profile in ("DomainProfile", "StandardProfile", "PublicProfile"):
        yield from subject.windows.other_than(1, f"{_FIREWALL}\\{profile}", "EnableFirewall")


@windows_check(
    "win-firewall-rdp",
    "The firewall allows Remote Desktop",
    why="Otherwise the service listens, but no connection reaches it.",
    remedy="Set-NetFirewallRule -Group '@FirewallAPI.dll,-28752' -Enabled True",
)
def firewall_rdp(subject: Subject) -> Iterator[str]:
    for control in subject.windows.control_sets:
        rules = subject.windows.hive("SYSTEM").values(f"{control}\\{_FIREWALL}\\FirewallRules") or {}
        if not any(_lets_in(str(rule)) for rule in rules.values()):
            yield f"{control}: no active rule allows TCP 3389 in"


@windows_check(
    "win-firewall-platform",
    "The firewall allows Azure's platform in and out",
    why="The agents report provisioning and health to 168.63.129.16.",
    remedy="New-NetFirewallRule -DisplayName AzurePlatform -RemoteAddress 168.63.129.16 -Profile Any -Action Allow, "
    "once -Direction Inbound and once -Direction Outbound",
    severity="warn",
)
def firewall_platform(subject: Subject) -> Iterator[str]:
    for control in subject.windows.control_sets:
        rules = subject.windows.hive("SYSTEM").values(f"{control}\\{_FIREWALL}\\FirewallRules") or {}
        for direction, words in (("In", "in"), ("Out", "out")):
            wanted = {"Action=Allow", "Active=TRUE", f"Dir={direction}"}
            if not any(wanted <= _fields(str(rule)) and _names_platform(str(rule)) for rule in rules.values()):
                yield f"{control}: no active rule lets {_PLATFORM} {words}"


def _names_platform(rule: str) -> bool:
    """RA4 is one address, or an address with its mask; there may be several. A narrower rule does not count."""
    fields = [part.partition("=") for part in rule.split("|")]
    return not any(name in _NARROWER for name, _, _ in fields) and any(
        name == "RA4" and value.partition("/")[0] == _PLATFORM for name, _, value in fields
    )


def _lets_in(rule: str) -> bool:
    return _opening("tcp", 3389) <= _fields(rule)


def _fields(rule: str) -> set[str]:
    """v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=3389|..., a field may be there more than once."""
    return {part for part in rule.split("|")[1:] if part}


def _opening(protocol: str, port: int) -> set[str]:
    return {"Action=Allow", "Active=TRUE", "Dir=In", f"Protocol={PROTOCOLS[protocol]}", f"LPort={port}"}


@windows_check(
    "win-ports",
    "The firewall opens exactly the ports that the definition declares",
    why="A closed port makes its service unreachable; an undeclared open port is a risk.",
    remedy="Declare it in the definition's ports, and generalize again.",
    source=HOUSE,
)
def ports(subject: Subject) -> Iterator[str]:
    declared = {rule_name(*place): place for place in subject.ports or ()}
    for control in subject.windows.control_sets:
        system = subject.windows.hive("SYSTEM")
        need_keys(system, f"{control}\\{_FIREWALL}\\FirewallRules", "SYSTEM")
        found = system.values(f"{control}\\{_FIREWALL}\\FirewallRules") or {}
        ours = {name.lower(): str(rule) for name, rule in found.items() if name.lower().startswith(PREFIX)}
        for name in declared:
            if name not in ours:
                yield f"{control}: no rule {name}"
        for name, rule in ours.items():
            place = declared.get(name) if subject.ports is not None else _place(name)
            if place is None:
                yield f"{control}: {name} exists, but is not declared"
                continue
            # what a rule is called opens and closes nothing; any other field narrows it
            conditions = {field for field in _fields(rule) if not field.startswith(("Name=", "Desc=", "EmbedCtxt="))}
            if other := conditions ^ _opening(*place):
                yield f"{control}: {name} differs from the rule that goldsmith made: {', '.join(sorted(other))}"


def _place(name: str) -> tuple[str, int] | None:
    """The protocol and port that a rule of ours is named by."""
    protocol, _, port = name.removeprefix(PREFIX).partition("-")
    return (protocol, int(port)) if protocol in PROTOCOLS and port.isdecimal() else None


@windows_check(
    "win-utc",
    "The hardware clock is in UTC",
    why="Azure's clock is UTC. Otherwise a clone's time is wrong by hours until it is synchronized, and Kerberos "
    "fails.",
    remedy=r"Set Control\TimeZoneInformation\RealTimeIsUniversal to 1 (a DWORD).",
)
def utc(subject: Subject) -> Iterator[str]:
    yield from subject.windows.other_than(1, r"Control\TimeZoneInformation", "RealTimeIsUniversal")


@windows_check(
    "win-san-policy",
    "Attached disks come online",
    why="Otherwise data disks and the temporary disk stay offline, and programs on them do not start.",
    remedy="diskpart: san policy=onlineall",
)
def san_policy(subject: Subject) -> Iterator[str]:
    # 1 is OnlineAll
    yield from subject.windows.other_than(1, r"Services\partmgr\Parameters", "SanPolicy")


@windows_check(
    "win-network",
    "Every network card gets its address by DHCP",
    why="A clone with the build's address has no network, or disturbs another machine's.",
    remedy="Remove static addresses, name servers and persistent routes.",
)
def network(subject: Subject) -> Iterator[str]:
    system = subject.windows.hive("SYSTEM")
    for control in subject.windows.control_sets:
        above = f"{control}\\Services\\Tcpip\\Parameters"
        for card in need_keys(system, f"{above}\\Interfaces", "SYSTEM"):
            values = subject.windows.settings(f"{above}\\Interfaces\\{card}")
            if values.get("enabledhcp", 1) != 1:
                yield f"{control}: {card}: EnableDHCP is {shown(values['enabledhcp'])}"
            for name in ("IPAddress", "NameServer", "DefaultGateway"):
                # 0.0.0.0 is compared with, and nothing binds to it
                if fixed := [each for each in _list(values.get(name.lower())) if each not in ("", "0.0.0.0")]:  # noqa: S104
                    yield f"{control}: {card}: {name} {', '.join(fixed)}"
        for route in system.values(f"{above}\\PersistentRoutes") or {}:
            yield f"{control}: persistent route {route}"


def _list(value: object) -> list[str]:
    return value if isinstance(value, list) else [str(value)] if value else []


@windows_check(
    "win-proxy",
    "No proxy is configured",
    why="Azure's agent must reach its host without a proxy, and a clone cannot reach the build's proxy.",
    remedy="netsh winhttp reset proxy",
)
def proxy(subject: Subject) -> Iterator[str]:
    key = r"Microsoft\Windows\CurrentVersion\Internet Settings\Connections"
    value = subject.windows.software(key, "WinHttpSettings")
    # a DWORD of flags stands behind two others: 1 is direct, 2 a proxy
    if isinstance(value, bytes) and len(value) >= 12 and int.from_bytes(value[8:12], "little") & 2:
        yield f"WinHttpSettings names a proxy: {value[16:].decode('latin-1', 'replace').strip(chr(0))[:80]}"


@windows_check(
    "win-crash",
    "After a crash Windows writes a kernel dump and restarts",
    why="Otherwise a crashed clone stays stopped, and its cause is not recorded.",
    remedy=r"Control\CrashControl: CrashDumpEnabled 2, AutoReboot 1",
    severity="warn",
)
def crash(subject: Subject) -> Iterator[str]:
    for name, right in (("CrashDumpEnabled", 2), ("AutoReboot", 1)):
        yield from subject.windows.other_than(right, r"Control\CrashControl", name)


@windows_check(
    "win-temp",
    "TEMP and TMP have their usual paths",
    why="Installers fail with a folder of the build's user, or on a drive that clones do not have.",
    remedy=r"Environment: TEMP and TMP to %SystemRoot%\TEMP",
    severity="warn",
)
def temp(subject: Subject) -> Iterator[str]:
    for name in ("TEMP", "TMP"):
        for control, value in subject.windows.in_each_set(r"Control\Session Manager\Environment", name):
            if str(value).lower() not in (r"%systemroot%\temp", r"c:\windows\temp"):
                yield f"{control}: {name} is {shown(value)}"


@windows_check(
    "win-agent",
    "Azure's agent, or a replacement, is installed",
    why="Without an agent Azure cannot run extensions or reset passwords, and some images never become Ready.",
    remedy="Install the Azure VM agent (WindowsAzureVmAgent.msi) or cloudbase-init.",
    severity="warn",
)
def agent(subject: Subject) -> Iterator[str]:
    names = ("WindowsAzureGuestAgent", "RdAgent", "cloudbase-init")
    system = subject.windows.hive("SYSTEM")
    for control in subject.windows.control_sets:
        if not any(system.values(f"{control}\\Services\\{name}") for name in names):
            yield f"{control}: none of {', '.join(names)}"


@windows_check(
    "win-guest-account",
    "The build's own account was removed",
    why="Otherwise every clone has an account with the same password.",
    remedy="net user goldsmith-build /delete, as the last step",
    source=HOUSE,
)
def guest_account(subject: Subject) -> Iterator[str]:
    names = subject.windows.hive("SAM").keys(r"SAM\Domains\Account\Users\Names")
    if not names:
        raise CannotLook("the SAM has no account, but every Windows has some")
    known = {"administrator", "guest", "defaultaccount", "wdagutilityaccount"} | {n.lower() for n in subject.accounts}
    for name in names:
        if name.lower() not in known:
            yield f"account {name}"
