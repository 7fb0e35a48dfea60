"""Whether a clone can resolve names: who writes /etc/resolv.conf, and whether that one starts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from pipeline.checks.model import HOUSE, CannotLook, Subject, check

PATH = "/etc/resolv.conf"
#: Who writes what the link points at: the beginning of its target, the service, and programs that do it without one.
_WRITERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("/run/systemd/resolve/", "systemd-resolved", ()),
    ("/usr/lib/systemd/resolv.conf", "systemd-resolved", ()),
    ("/lib/systemd/resolv.conf", "systemd-resolved", ()),
    ("/run/NetworkManager/", "NetworkManager", ()),
    ("/run/connman/", "connman", ()),
    ("/run/netconfig/", "netconfig", ("/sbin/netconfig", "/usr/sbin/netconfig")),
    ("/run/resolvconf/", "resolvconf", ("/sbin/resolvconf", "/usr/sbin/resolvconf")),
    ("/etc/resolvconf/run/", "resolvconf", ("/sbin/resolvconf", "/usr/sbin/resolvconf")),
)
#: Services that answer on an address of the loopback, beside systemd-resolved's 127.0.0.53 and .54.
_LOCAL = frozenset({
    "dnsmasq", "unbound", "bind9", "named", "pdns-recursor", "knot-resolver", "kresd@1", "stubby", "dnscrypt-proxy",
    "pdnsd", "coredns", "NetworkManager", "AdGuardHome", "pihole-FTL", "nsd", "maradns",
})  # fmt: skip
#: Services that configure cards and have a DHCP client write the file.
_MANAGERS = frozenset({"wicked", "wickedd", "network", "networking"})
_DHCP_CLIENTS = (
    *("/sbin/dhclient", "/usr/sbin/dhclient", "/sbin/dhcpcd", "/usr/sbin/dhcpcd", "/sbin/udhcpc", "/usr/sbin/udhcpc"),
    *("/sbin/resolvconf", "/usr/sbin/resolvconf", "/sbin/netconfig", "/usr/sbin/netconfig"),
)


@check(
    "resolver",
    "Names can be resolved: the service that writes /etc/resolv.conf starts",
    why="If the file is a link to the file of a disabled service, no name can be resolved: updates, extensions and "
    "the cloud's agent fail.",
    remedy="systemctl unmask systemd-resolved; systemctl enable systemd-resolved. Or, if another program "
    "writes the file (NetworkManager, dhclient, resolvconf), remove the link.",
    source="systemd-resolved(8), resolv.conf(5), and " + HOUSE,
)
def resolver(subject: Subject) -> Iterator[str]:
    target = subject.root.read_link(PATH)
    if target is not None:
        where = re.sub(r"^/var/run/", "/run/", posixpath.normpath(posixpath.join("/etc", target)))
        writer = next((row for row in _WRITERS if where.startswith(row[0])), None)
        if writer is not None:
            if not _works(subject, writer[1], writer[2]):
                yield f"{PATH} is a link to {target}, which {writer[1]} writes: {_state(subject, writer[1])}"
            return
        if not subject.root.exists(PATH):
            if where.startswith(("/run/", "/dev/", "/tmp/")):  # noqa: S108  a path of the disk that is looked at
                raise CannotLook(f"{PATH} is a link to {target}: which program writes that is not known")
            yield f"{PATH} is a link to {target}, which does not exist"
            return
    servers = [line.split()[1] for line in subject.lines(PATH, "#;") if re.match(r"nameserver\s+\S", line)]
    if not servers:
        yield from _without_servers(subject)
    elif all(server in ("127.0.0.53", "127.0.0.54") for server in servers):
        if "systemd-resolved" not in subject.started:
            yield f"{PATH} asks {servers[0]}, systemd-resolved's: {_state(subject, 'systemd-resolved')}"
    elif all(re.match(r"127\.|::1$", server) for server in servers) and not _LOCAL & subject.started:
        yield f"{PATH} asks {servers[0]}, and no service that answers names starts"


def _works(subject: Subject, service: str, programs: tuple[str, ...]) -> bool:
    for program in programs:
        if subject.root.exists(program):
            # resolvconf of systemd is a link to resolvectl, which only tells systemd-resolved
            link = subject.root.read_link(program) or ""
            return not link.endswith("resolvectl") or "systemd-resolved" in subject.started
    return service in subject.started


def _state(subject: Subject, service: str) -> str:
    for folder in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"):
        unit = f"{folder}/{service}.service"
        if subject.root.read_link(unit) == "/dev/null":
            return "it is masked"
        if subject.root.exists(unit):
            return "it does not start at boot"
    return "it is not installed"


def _without_servers(subject: Subject) -> Iterator[str]:
    """Nothing is in the file: anyone who starts has to fill it, or to answer without it."""
    started = subject.started
    there = subject.root.exists(PATH)
    if "systemd-resolved" in started:
        hosts = next((line for line in subject.lines("/etc/nsswitch.conf") if line.startswith("hosts:")), "")
        if re.search(r"\bresolve\b", hosts) or (not there and _tmpfiles_link(subject)):
            return
    if started & {"connman", "dhcpcd"}:
        return
    if "NetworkManager" in started and not _network_manager_leaves_it(subject):
        return
    if started & _MANAGERS and any(subject.root.exists(program) for program in _DHCP_CLIENTS):
        return
    yield f"{PATH} {'names no server' if there else 'is missing'}, and nothing that starts at boot writes it"


def _tmpfiles_link(subject: Subject) -> bool:
    """Whether systemd-tmpfiles makes the link at boot."""
    folders = ("/etc/tmpfiles.d", "/usr/lib/tmpfiles.d")
    paths = [path for folder in folders for path in subject.files_in(folder, ".conf")]
    return any(re.match(r"L\S*\s+/etc/resolv\.conf\s", line) for path in paths for line in subject.lines(path))


def _network_manager_leaves_it(subject: Subject) -> bool:
    paths = ["/etc/NetworkManager/NetworkManager.conf"]
    for folder in ("/usr/lib/NetworkManager/conf.d", "/etc/NetworkManager/conf.d"):
        paths += subject.files_in(folder, ".conf")
    return any(
        re.match(r"(dns\s*=\s*none|rc-manager\s*=\s*unmanaged)\b", line)
        for path in paths
        for line in subject.lines(path)
    )
