"""Which cards a configuration brings up: a clone's card has another name than the build machine's."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.checks.model import AZURE_DOC, CLOUD, CannotLook, Subject, check

#: The name of the first card on Azure and Hyper-V, and what another hypervisor's may be called.
_CLOUD_NAME, _OTHER_NAMES = "eth0", ("eth0", "enp1s0", "ens3")
#: Names that follow from the place of a physical card (systemd.net-naming-scheme(7), biosdevname) or its number.
_PHYSICAL = re.compile(r"(en[a-zA-Z]\w*|eth[1-9]\d*|em\d+|p\d+p\d+|wl\w+|ib\w+|usb\d+)$")
#: Services that bring up every card by themselves.
_TAKES_ALL = frozenset({"connman", "dhcpcd", "net.eth0", "netctl-auto@eth0"})
_KNOWN = frozenset({"systemd-networkd", "NetworkManager", "networking", "network", "wicked", "wickedd", *_TAKES_ALL})
#: Bytes of a netplan file.
_YAML_LIMIT = 256 << 10


@dataclass(frozen=True)
class Network:
    """One network of a configuration: the patterns of names that it is for, none for every card.

    `waits`: the boot waits for this card, or fails without it, whatever else there is.
    """

    path: str
    names: tuple[str, ...]
    waits: bool = False

    def covers(self, card: str) -> bool:
        return not self.names or any(fnmatch.fnmatchcase(card, name) for name in self.names)

    @property
    def pinned(self) -> str:
        """The name of the one physical card that it is bound to, or ''."""
        only = self.names[0] if len(self.names) == 1 else ""
        return only if _PHYSICAL.match(only) else ""


@check(
    "network-pinned",
    "The network starts on any network card",
    why="The card is ens33 on one hypervisor, enp0s3 on another and eth0 on Azure. If the configuration names one "
    "of them, the clone has no network elsewhere.",
    remedy="Match all cards (netplan: match: {name: 'e*'}; systemd-networkd: [Match] Name=e*; NetworkManager: no "
    "interface-name), or leave it to cloud-init: remove the named files.",
    source=AZURE_DOC + "; systemd.net-naming-scheme(7)",
)
def network_pinned(subject: Subject) -> Iterator[str]:
    started = started_services(subject)
    networks = list(_networks(subject, active=True))
    cards = (_CLOUD_NAME,) if subject.profile in CLOUD else _OTHER_NAMES
    off = _cloud_init_off(subject)
    covered = (
        off == ""
        or bool(started & _TAKES_ALL)
        or _network_manager_takes_all(subject)
        or any(network.covers(card) for network in networks for card in cards)
    )
    pinned = [network for network in networks if network.pinned]
    if not covered:
        pinned += [network for network in _networks(subject, active=False) if network.pinned]
    for network in pinned:
        if network.waits or not covered:
            yield f"{network.path} is only for {network.pinned}"
    if covered:
        return
    if not started & _KNOWN and off is None:
        raise CannotLook("goldsmith knows no service here that configures a network card")
    if off:
        yield f"{off} switches cloud-init's network off, and nothing else brings up {' or '.join(cards)}"
    elif not pinned or all(network not in networks for network in pinned):
        managers = ", ".join(sorted(started & _KNOWN)) or "a service that starts"
        yield f"no configuration of {managers} brings up {' or '.join(cards)}"


def _cloud_init_off(subject: Subject) -> str | None:
    """'' where cloud-init configures the network, the file that switches that off, None where it does not run."""
    root = subject.root
    if not any(root.exists(path) for path in ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")):
        return None
    generator = "/usr/lib/systemd/system-generators/cloud-init-generator"
    units = {name for name in subject.started if name.startswith("cloud-init")}
    if root.exists("/etc/cloud/cloud-init.disabled") or not (units or root.exists(generator)):
        return None
    for path in ["/etc/cloud/cloud.cfg", *subject.files_in("/etc/cloud/cloud.cfg.d", ".cfg")]:
        if re.search(r"^network:\s*\{?\s*[\"']?config[\"']?:\s*[\"']?disabled", root.text(path), re.MULTILINE):
            return path
    return ""


def _networks(subject: Subject, *, active: bool) -> Iterator[Network]:
    """Every network of a manager that starts, or of those that do not."""
    started = started_services(subject)
    for services, read in _MANAGERS:
        if bool(services & started) is active:
            yield from read(subject)


def started_services(subject: Subject) -> frozenset[str]:
    """The services that start; netplan's generator starts systemd-networkd at boot, enabled or not."""
    unit = "systemd-networkd.service"
    masked = subject.root.read_link(f"/etc/systemd/system/{unit}") == "/dev/null"
    generators = ("/usr/lib/systemd/system-generators/netplan", "/lib/systemd/system-generators/netplan")
    netplan = any(subject.root.exists(path) for path in generators)
    if netplan and not masked and _netplan_files(subject):
        return subject.started | {"systemd-networkd"}
    return subject.started


def _netplan_files(subject: Subject) -> list[str]:
    files = [*subject.files_in("/etc/netplan", ".yaml"), *subject.files_in("/usr/lib/netplan", ".yaml")]
    return [path for path in files if not path.endswith("/50-cloud-init.yaml")]


def _networkd_networks(subject: Subject) -> Iterator[Network]:
    for folder in ("/etc/systemd/network", "/usr/lib/systemd/network"):
        for path in subject.files_in(folder, ".network"):
            yield from _networkd(subject, path)


def _netplan_networks(subject: Subject) -> Iterator[Network]:
    for path in _netplan_files(subject):
        yield from _netplan(subject, path)


def _ifcfg_networks(subject: Subject) -> Iterator[Network]:
    for folder in ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network"):
        for path in subject.files_in(folder):
            if re.search(r"/ifcfg-(?!lo$)[^/~]+$", path) and not path.endswith((".bak", ".orig", ".rpmsave")):
                yield _ifcfg(subject, path)


def _networkd(subject: Subject, path: str) -> Iterator[Network]:
    if subject.root.read_link(path) == "/dev/null":
        return
    match: dict[str, str] = {}
    section = ""
    if any(re.match(r"Unmanaged\s*=\s*(yes|true|1|on)\b", line) for line in subject.lines(path)):
        return
    for line in subject.lines(path, "#;"):
        if line.startswith("["):
            section = line
        elif section == "[Match]":
            key, _, value = line.partition("=")
            match[key.strip()] = f"{match.get(key.strip(), '')} {value.strip()}".strip()
    # containers, tunnels, other hosts: no physical card of a clone
    if {"Virtualization", "Host", "MACAddress", "PermanentMACAddress"} & match.keys() or not match:
        return
    if match.get("Kind", "!*") != "!*" or match.get("Type", "ether") not in ("ether", "!loopback"):
        return
    names = tuple(match.get("Name", "").split())
    if not names and {"Path", "Property"} & match.keys():
        names = (match.get("Path") or match["Property"],)
    yield Network(path, tuple(name for name in names if not name.startswith("!")))


def netplan_devices(subject: Subject, path: str, kinds: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, settings) of each device of these kinds in a netplan file. Raises CannotLook where it is not YAML."""
    text = subject.root.text(path, _YAML_LIMIT)
    try:
        whole = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise CannotLook(f"{path} is not YAML") from None
    network = whole.get("network") if isinstance(whole, dict) else None
    for kind in kinds:
        devices = network.get(kind) if isinstance(network, dict) else None
        for name, settings in devices.items() if isinstance(devices, dict) else ():
            yield str(name), settings if isinstance(settings, dict) else {}


def _netplan(subject: Subject, path: str) -> Iterator[Network]:
    for name, settings in netplan_devices(subject, path, ("ethernets",)):
        match = settings.get("match")
        if not isinstance(match, dict):
            yield Network(path, (name,), waits=settings.get("optional") is not True)
        elif "macaddress" not in match:
            wanted = match.get("name")
            yield Network(path, (str(wanted),) if wanted else ())


def _interfaces(subject: Subject) -> Iterator[Network]:
    """ifupdown's: what is brought up at boot (auto), and what when it appears (allow-hotplug)."""
    for path in ["/etc/network/interfaces", *subject.files_in("/etc/network/interfaces.d")]:
        if re.search(r"/50-cloud-init(\.cfg)?$", path):
            continue
        for line in subject.lines(path):
            words = line.split()
            if words[0] in ("auto", "allow-auto", "allow-hotplug"):
                for name in words[1:]:
                    # /pattern or /pattern=logical (interfaces(5))
                    plain = name.removeprefix("/").split("=")[0].split("/")[0]
                    if plain != "lo":
                        yield Network(path, (plain,), waits=words[0] != "allow-hotplug")


def _ifcfg(subject: Subject, path: str) -> Network:
    name = _setting(subject, path, "DEVICE") or ("" if "network-scripts" in path else path.rsplit("ifcfg-", 1)[-1])
    # initscripts fail without the card; NetworkManager and wicked do not
    starts = _setting(subject, path, "ONBOOT").lower() in ("yes", "true", "")
    return Network(path, (name,) if name else (), waits=starts and "network" in subject.started)


def _keyfiles(subject: Subject) -> Iterator[Network]:
    for folder in ("/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections"):
        for path in subject.files_in(folder):
            name = _setting(subject, path, "interface-name")
            if _setting(subject, path, "type") in ("ethernet", "802-3-ethernet"):
                yield Network(path, (name,) if name else ())


def _setting(subject: Subject, path: str, key: str) -> str:
    pattern = re.compile(rf"{re.escape(key)}\s*=\s*(.*)")
    found = (match for line in subject.lines(path, "#;") if (match := pattern.match(line)))
    first = next(found, None)
    return first[1].strip().strip("\"'") if first else ""


def _network_manager_takes_all(subject: Subject) -> bool:
    """Whether NetworkManager makes a connection for a card that nobody has configured."""
    if "NetworkManager" not in subject.started:
        return False
    paths = ["/etc/NetworkManager/NetworkManager.conf"]
    for folder in ("/usr/lib/NetworkManager/conf.d", "/etc/NetworkManager/conf.d"):
        paths += subject.files_in(folder, ".conf")
    lines = [line for path in paths for line in subject.lines(path)]
    return not any(re.match(r"(no-auto-default\s*=\s*\*|unmanaged-devices\s*=\s*\*)", line) for line in lines)


#: Kinds of configuration, each with the services that bring up cards by it.
_MANAGERS: tuple[tuple[frozenset[str], Callable[[Subject], Iterator[Network]]], ...] = (
    (frozenset({"systemd-networkd"}), _networkd_networks),
    (frozenset({"systemd-networkd", "NetworkManager"}), _netplan_networks),
    (frozenset({"networking", "ifup@eth0"}), _interfaces),
    (frozenset({"NetworkManager"}), _keyfiles),
    (frozenset({"NetworkManager", "network", "wicked", "wickedd"}), _ifcfg_networks),
)
