"""Accelerated networking: Azure's virtual function has the MAC address of eth0, and nobody may configure it.

The guest sees two cards: eth0 of Hyper-V's own driver, and a virtual function that the kernel makes its lower half.
Anyone who asks for an address on the virtual function gets eth0's, and eth0 loses it. At rest that is decided as the
network managers decide it in a clone: by their own rules of precedence, on cards as Azure shows them.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.checks.disk.boot import grub_entries
from pipeline.checks.linux.network_manager import Settings, profiles, read_settings
from pipeline.checks.linux.network_names import started_services
from pipeline.checks.model import CLOUD, CannotLook, Subject, check
from pipeline.disk.network_files import Card, NetworkFile, first_fitting, network_files
from pipeline.disk.udev_rules import Device, RuleSet

#: The kernel's driver of the PCI device, and what ethtool says of its network card: mlx4's network part is a module
#: of its own (Linux, drivers/net/ethernet/mellanox/mlx4/en_ethtool.c).
_DRIVERS = {"mana": "mana", "mlx4_core": "mlx4_en", "mlx5_core": "mlx5_core"}
#: Names as Azure's machines have them: PCI domain and slot, with a port since Linux 5.x for mlx5; eth1 where names by
#: place are switched off.
_NAMES = ("enP30832s1", "enP53091s1np0")
_OLD_NAME = "eth1"
#: The card's place as udev writes it (ID_PATH).
_PATH = "acpi-VMBUS:00-pci-7870:00:00.0"
#: Flags of a lower half: up, broadcast, running, multicast, IFF_SLAVE (0x800), as azure-vm-utils asks for them.
_FLAGS = "0x1843"
#: Properties that rules set for others to read: NetworkManager's, azure-vm-utils' own for networkd, networkd's own.
_NM_UNMANAGED, _MANAGED_BY = "NM_UNMANAGED", "ID_NET_MANAGED_BY"
_NETWORKD = "/usr/lib/systemd/systemd-networkd"
_KNOWN = frozenset({"systemd-networkd", "NetworkManager", "networking", "network", "wicked", "wickedd", "connman",
                    "dhcpcd"})  # fmt: skip
_YAML_LIMIT = 256 << 10


@dataclass(frozen=True)
class VirtualFunction:
    """One of the cards that Azure may show. `properties` are what the system's udev rules give to it."""

    module: str
    name: str
    driver: str
    properties: Mapping[str, str]

    @property
    def card(self) -> Card:
        return Card(self.name, self.driver, _PATH, self.properties)


@check(
    "network-sriov",
    "No network manager configures Azure's virtual function",
    why="With accelerated networking a second card has the MAC address of eth0. A manager that configures it "
    "takes eth0's lease, and the machine loses its network. Most VM sizes of Azure have such a card.",
    remedy="Install azure-vm-utils; or write /etc/systemd/network/10-azure-vf.network ([Match] "
    "Driver=mana mlx4_core mlx4_en mlx5_core, [Link] Unmanaged=yes), and for NetworkManager "
    'a udev rule: SUBSYSTEM=="net", DRIVERS=="mana|mlx4_core|mlx5_core", ENV{NM_UNMANAGED}="1".',
    source="Azure: Accelerated Networking, custom images; Azure/azure-vm-utils; systemd.network(5)",
    profiles=CLOUD,
)
def network_sriov(subject: Subject) -> Iterator[str]:
    started = started_services(subject)
    if not started & _KNOWN:
        raise CannotLook("goldsmith knows no service here that configures a network card")
    taken: dict[str, list[str]] = {}
    for function in _virtual_functions(subject):
        for path in _takers(subject, started, function):
            if function.module not in taken.setdefault(path, []):
                taken[path].append(function.module)
    for path, modules in taken.items():
        yield f"{path} configures the virtual function of {', '.join(modules)} too"
    if not taken:
        subject.note(f"{', '.join(sorted(started & _KNOWN))}: {', '.join(_DRIVERS)} are not configured")


def _virtual_functions(subject: Subject) -> Iterator[VirtualFunction]:
    wanted = {_NM_UNMANAGED, _MANAGED_BY}
    for file in network_files(subject.root):
        wanted |= {word.lstrip("!").partition("=")[0] for word in file.match.get("Property", ())}
    rules = RuleSet(subject.root, wanted)
    old = any("net.ifnames=0" in entry.words for entry in grub_entries(subject))
    for module, driver in _DRIVERS.items():
        for name in (_OLD_NAME,) if old else _NAMES:
            device = Device(
                "net",
                name,
                frozenset({module, "hv_pci"}),
                {"flags": _FLAGS, "type": "1"},
                {"ID_NET_DRIVER": driver, "ID_BUS": "pci", "ID_PATH": _PATH},
            )
            yield VirtualFunction(module, name, driver, rules.properties(device))


def _takers(subject: Subject, started: frozenset[str], function: VirtualFunction) -> Iterator[str]:
    """What configures this card: a path, or the name of a service."""
    if "systemd-networkd" in started and not _managed_by_another(subject, function):
        files = [*network_files(subject.root), *_netplan_files(subject, "networkd")]
        first = first_fitting(files, function.card)
        if first is not None and not first.unmanaged:
            yield first.path
    if "NetworkManager" in started:
        yield from _network_manager(subject, function)
    if "networking" in started:
        yield from _interfaces(subject, function.name)
    for service, path, key in (("dhcpcd", "/etc/dhcpcd.conf", "denyinterfaces"),
                               ("connman", "/etc/connman/main.conf", "NetworkInterfaceBlacklist")):  # fmt: skip
        if service in started and not _denied(subject, path, key, function.name):
            yield service


def _managed_by_another(subject: Subject, function: VirtualFunction) -> bool:
    """Whether this system's networkd knows ID_NET_MANAGED_BY (younger ones do), and it names another manager."""
    owner = function.properties.get(_MANAGED_BY, "")
    if owner in ("", "io.systemd.Network"):
        return False
    return _MANAGED_BY.encode() in (subject.root.read(_NETWORKD) or b"")


def _netplan_files(subject: Subject, renderer: str) -> Iterator[NetworkFile]:
    """What netplan's generator writes at boot for a renderer: one file 10-netplan-ID.network for each device."""
    devices: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    default = "networkd"
    for path in _netplan_paths(subject):
        network = _netplan(subject, path)
        default = str(network.get("renderer", default))
        ethernets = network.get("ethernets")
        for name, settings in ethernets.items() if isinstance(ethernets, dict) else ():
            if isinstance(settings, dict):
                # files are merged, later ones on top (netplan(5))
                devices.setdefault(str(name), {}).update(settings)
                origin[str(name)] = path
    for name, settings in devices.items():
        if str(settings.get("renderer", default)) != renderer:
            continue
        match = settings.get("match")
        if not isinstance(match, dict):
            yield NetworkFile(f"10-netplan-{name}.network", origin[name], {"Name": (name,)})
        elif "macaddress" not in match:
            words = {key.title(): _words(value) for key, value in match.items() if key in ("name", "driver")}
            yield NetworkFile(f"10-netplan-{name}.network", origin[name], {k: w for k, w in words.items() if w})


def _words(value: object) -> tuple[str, ...]:
    """A pattern of netplan, or a list of them."""
    return tuple(str(word) for word in value) if isinstance(value, list) else tuple(str(value or "").split())


def _netplan_paths(subject: Subject) -> list[str]:
    """netplan's files in its order; one in /etc hides one of its name. cloud-init writes its own in the clone."""
    found: dict[str, str] = {}
    for folder in ("/etc/netplan", "/usr/lib/netplan", "/lib/netplan"):
        for path in subject.files_in(folder, ".yaml"):
            found.setdefault(posixpath.basename(path), path)
    found.pop("50-cloud-init.yaml", None)
    return [path for _, path in sorted(found.items())]


def _netplan(subject: Subject, path: str) -> dict[str, Any]:
    try:
        whole = yaml.safe_load(subject.root.text(path, _YAML_LIMIT))
    except (yaml.YAMLError, RecursionError):
        raise CannotLook(f"{path} is not YAML") from None
    network = whole.get("network") if isinstance(whole, dict) else None
    return network if isinstance(network, dict) else {}


def _network_manager(subject: Subject, function: VirtualFunction) -> Iterator[str]:
    settings = read_settings(subject)
    if function.properties.get(_NM_UNMANAGED, "") in ("1", "true") or settings.leaves(function.name, function.driver):
        return
    yield from _profiles(subject, settings, function)


def _profiles(subject: Subject, settings: Settings, function: VirtualFunction) -> Iterator[str]:
    """The connections that NetworkManager would bring up on the card."""
    found = [profile.path for profile in profiles(subject) if profile.fits(function.name, function.driver)]
    found += [
        file.path for file in _netplan_files(subject, "NetworkManager")
        if file.fits(function.card)
    ]  # fmt: skip
    yield from found
    if not found and not settings.makes_no_profile(function.name, function.driver):
        yield "NetworkManager's own connection for each card"


def _interfaces(subject: Subject, name: str) -> Iterator[str]:
    """ifupdown's files that bring up the card: by its name, or by a pattern behind a slash (interfaces(5))."""
    for path in ["/etc/network/interfaces", *subject.files_in("/etc/network/interfaces.d")]:
        for line in subject.lines(path):
            words = line.split()
            if words[0] in ("auto", "allow-auto", "allow-hotplug") and any(_names(word, name) for word in words[1:]):
                yield path


def _names(word: str, name: str) -> bool:
    """Whether a word of `auto` or `allow-hotplug` names the card: NAME, /PATTERN, /PATTERN=LOGICAL."""
    if not word.startswith("/"):
        return word == name
    return fnmatch.fnmatchcase(name, re.split("[=/]", word[1:])[0])


def _denied(subject: Subject, path: str, key: str, name: str) -> bool:
    """Whether a setting of dhcpcd (patterns) or connman (beginnings) leaves the card out."""
    for line in subject.lines(path):
        found = re.match(rf"{key}\s*=?\s*(.*)", line)
        if found and any(fnmatch.fnmatchcase(name, f"{word}*") for word in re.split(r"[\s,]+", found[1]) if word):
            return True
    return False
