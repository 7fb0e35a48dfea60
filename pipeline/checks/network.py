"""The network of a clone is not the network of the build."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.checks.model import AZURE_DOC, CLOUD_INIT, HOUSE, Subject, check

_MAC = re.compile(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b")
_BUILDERS = ("goldsmith", "packer", "debian-build")


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
    "cloud-init's network file of the build is gone",
    why="It names the build machine's card; the clone then waits for a card that does not exist.",
    remedy="rm /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init",
    source=CLOUD_INIT,
)
def netplan_cloud_init(subject: Subject) -> Iterator[str]:
    for path in ("/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init",
                 "/etc/network/interfaces.d/50-cloud-init.cfg"):  # fmt: skip
        if subject.root.exists(path):
            yield f"{path} is there"
    for path in subject.files_in("/etc/systemd/network"):
        if "cloud-init" in path:
            yield f"{path} is there"


@check(
    "network-hardware-address",
    "No network file names a hardware address",
    why="Each clone has another card.",
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
    why="Azure gives addresses by DHCP; two clones with one address take each other's traffic.",
    remedy="Use DHCP.",
    source=AZURE_DOC,
    severity="warn",
)
def network_static_address(subject: Subject) -> Iterator[str]:
    for path in _configurations(subject):
        for line in subject.lines(path):
            if re.match(r"(iface\s+(?!lo\b)\S+\s+inet6?\s+static\b|Address\s*=|IPADDR\s*=|addresses:\s*\[)", line):
                yield f"{path}: {line}"


@check(
    "resolv-conf",
    "The name servers of the build are not shipped",
    why="A clone would ask a server of the build's network until DHCP corrects it, or for ever.",
    remedy="Empty /etc/resolv.conf, or make it a link to systemd-resolved's.",
    source=HOUSE,
    severity="warn",
)
def resolv_conf(subject: Subject) -> Iterator[str]:
    if subject.root.read_link("/etc/resolv.conf") is not None:
        return
    for line in subject.lines("/etc/resolv.conf", "#;"):
        if line.startswith(("nameserver", "search", "domain")):
            yield f"/etc/resolv.conf: {line}"


@check(
    "host-name",
    "The build's host name is not shipped",
    why="Clones would announce it to DHCP before they are named.",
    remedy="echo localhost > /etc/hostname; drop the name's line from /etc/hosts.",
    source=HOUSE,
    severity="warn",
)
def host_name(subject: Subject) -> Iterator[str]:
    for path in ("/etc/hostname", "/etc/hosts", "/etc/mailname"):
        for line in subject.lines(path):
            if any(name in line.lower() for name in _BUILDERS):
                yield f"{path}: {line}"
