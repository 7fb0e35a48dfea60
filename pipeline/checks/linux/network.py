"""The network of a clone is not the network of the build."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pipeline.checks.linux.network_names import netplan_devices
from pipeline.checks.model import AZURE_DOC, CLOUD_INIT, HOUSE, Subject, check

_MAC = re.compile(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b")


def _configurations(subject: Subject) -> Iterator[str]:
    yield "/etc/network/interfaces"
    for folder, suffix in (
        ("/etc/network/interfaces.d", ""),
        ("/etc/netplan", ".yaml"),
        ("/etc/systemd/network", ""),
        ("/etc/NetworkManager/system-connections", ""),
        ("/etc/sysconfig/network-scripts", ""),
    ):
        yield from subject.files_in(folder, suffix)


@check(
    "netplan-cloud-init",
    "cloud-init's network file of the build was removed",
    why="It names the build machine's network card, so a clone waits for a card that does not exist.",
    remedy="rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* "
    "/etc/systemd/network/*cloud-init* /etc/NetworkManager/system-connections/cloud-init-*, and what else is named.",
    source=CLOUD_INIT,
)
def netplan_cloud_init(subject: Subject) -> Iterator[str]:
    for path in ("/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init",
                 "/etc/network/interfaces.d/50-cloud-init.cfg"):  # fmt: skip
        if subject.root.exists(path):
            yield f"{path} is there"
    for path in (*subject.files_in("/etc/systemd/network"), *subject.files_in(_KEYFILES)):
        if "cloud-init" in path:
            yield f"{path} is there"
    for path in ["/etc/network/interfaces", *_ifcfg_files(subject)]:
        if any(line.startswith(_BY_CLOUD_INIT) for line in subject.root.text(path).splitlines()[:3]):
            yield f"{path} was written by cloud-init"


#: cloud-init's first line in a network file that has the system's own name: cloudinit/net/sysconfig.py; eni.py by
#: cloudinit/distros/alpine.py, NETWORK_FILE_HEADER.
_BY_CLOUD_INIT = ("# Created by cloud-init", "# This file is generated from information provided by the datasource")
_KEYFILES = "/etc/NetworkManager/system-connections"


def _ifcfg_files(subject: Subject) -> list[str]:
    """Red Hat's and SUSE's files, a card each."""
    folders = ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network")
    return [path for folder in folders for path in subject.files_in(folder) if "/ifcfg-" in path]


@check(
    "network-hardware-address",
    "No network file names a hardware address",
    why="Each clone has another network card.",
    remedy="Match by name or driver (hv_netvsc) instead of macaddress, HWADDR or [Match] MACAddress.",
    source=AZURE_DOC,
)
def network_hardware_address(subject: Subject) -> Iterator[str]:
    for path in _configurations(subject):
        if path.endswith("50-cloud-init.yaml") or path.endswith("50-cloud-init"):
            continue
        for line in subject.lines(path):
            found = _MAC.search(line)
            if found and found[0] != "00:00:00:00:00:00":
                yield f"{path}: {line}"


@check(
    "network-static-address",
    "No network file gives a fixed address",
    why="Azure assigns addresses by DHCP. Two clones with the same address receive each other's traffic.",
    remedy="Use DHCP.",
    source=AZURE_DOC,
    severity="warn",
)
def network_static_address(subject: Subject) -> Iterator[str]:
    for path in _configurations(subject):
        if path.endswith(".yaml"):
            for name, settings in netplan_devices(subject, path, _NETPLAN_KINDS):
                if settings.get("addresses"):
                    yield f"{path}: {name}: addresses: {settings['addresses']}"
            continue
        for line in subject.lines(path):
            # the loopback's, which Red Hat's systems have in a file, is every machine's
            if _FIXED.match(line) and not re.search(r"=\s*[\"']?127\.", line):
                yield f"{path}: {line}"


#: Devices of netplan that may have an address.
_NETPLAN_KINDS = ("ethernets", "bonds", "bridges", "vlans", "wifis")
#: A fixed address in interfaces(5), systemd.network(5), a keyfile, an ifcfg.
_FIXED = re.compile(
    r"(iface\s+(?!lo\b)\S+\s+inet6?\s+static\b|Address\s*=|address\d*\s*=\s*\d|IPADDR\d*\s*=|IPV6ADDR\s*=)"
)


@check(
    "resolv-conf",
    "The name servers of the build are not shipped",
    why="A clone would query a server of the build's network until DHCP corrects this, or always.",
    remedy="Remove the nameserver and search lines; if systemd-resolved starts, make /etc/resolv.conf a link: "
    "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
    source=HOUSE,
    severity="warn",
)
def resolv_conf(subject: Subject) -> Iterator[str]:
    if subject.root.read_link("/etc/resolv.conf") is None:
        for line in subject.lines("/etc/resolv.conf", "#;"):
            words = line.split()
            if words[0] in ("search", "domain") or (words[0] == "nameserver" and not _is_anybodys(words[-1])):
                yield f"/etc/resolv.conf: {line}"
    for path in _resolver_settings(subject):
        if path.endswith(".yaml"):
            for name, settings in netplan_devices(subject, path, _NETPLAN_KINDS):
                servers = settings.get("nameservers")
                addresses = servers.get("addresses") if isinstance(servers, dict) else None
                if isinstance(addresses, list) and any(_is_private(str(address)) for address in addresses):
                    yield f"{path}: {name}: nameservers: {addresses}"
            continue
        for line in subject.lines(path, "#;"):
            found = _SERVERS.match(line)
            if found and any(_is_private(word) for word in re.findall(r"[0-9a-fA-F.:]{3,}", found[1])):
                yield f"{path}: {line}"


#: Lines that name servers: of resolved.conf and .network, keyfiles, ifcfg, interfaces, dhclient, netconfig.
_SERVERS = re.compile(
    r"(?:DNS|FallbackDNS|dns|DNS\d|dns-nameservers?|nameserver|NETCONFIG_DNS_STATIC_SERVERS"
    r"|(?:supersede|prepend|append)\s+domain-name-servers)[\s=]+(.*)"
)
#: Azure's resolver, the same on each of its machines.
_AZURE_RESOLVER = "168.63.129.16"


def _resolver_settings(subject: Subject) -> Iterator[str]:
    yield from ("/etc/systemd/resolved.conf", "/etc/dhcp/dhclient.conf", "/etc/dhclient.conf")
    yield from ("/etc/sysconfig/network/config", "/etc/resolvconf/resolv.conf.d/head")
    yield from ("/etc/resolvconf/resolv.conf.d/base", "/etc/resolvconf/resolv.conf.d/tail")
    yield from subject.files_in("/etc/systemd/resolved.conf.d", ".conf")
    yield from _configurations(subject)


def _is_anybodys(address: str) -> bool:
    """An address of the loopback (see the check `resolver`), or the cloud's own."""
    return address == _AZURE_RESOLVER or address.startswith("127.") or address == "::1"


def _is_private(word: str) -> bool:
    """An address of a private network, the build's most likely."""
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        return False
    return address.is_private and not address.is_loopback and not address.is_unspecified
