"""NetworkManager's files on a disk at rest: which cards it leaves alone, and the connections that it has."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.checks.model import Subject

#: Settings, the weakest first (NetworkManager.conf(5)); a file in /etc hides one of its name below /usr.
_SYSTEM, _MAIN, _LOCAL = (
    "/usr/lib/NetworkManager/conf.d",
    "/etc/NetworkManager/NetworkManager.conf",
    "/etc/NetworkManager/conf.d",
)
_KEYFILES = ("/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections")
_IFCFG = "/etc/sysconfig/network-scripts"
_ETHERNET = ("ethernet", "802-3-ethernet")


@dataclass
class Settings:
    """`unmanaged` and `no_auto` are lists of devices; `devices` are (devices, managed) of [device] sections."""

    unmanaged: list[str] = field(default_factory=list)
    no_auto: list[str] = field(default_factory=list)
    devices: list[tuple[list[str], bool]] = field(default_factory=list)

    def leaves(self, name: str, driver: str) -> bool:
        """Whether NetworkManager leaves a card alone."""
        if _listed(self.unmanaged, name, driver):
            return True
        first = next((managed for each, managed in self.devices if not each or _listed(each, name, driver)), True)
        return not first

    def makes_no_profile(self, name: str, driver: str) -> bool:
        """Whether a card without a connection gets none of NetworkManager's own."""
        return _listed(self.no_auto, name, driver)


@dataclass(frozen=True)
class Profile:
    """A connection of Ethernet that is brought up by itself; without patterns it is for every card."""

    path: str
    names: tuple[str, ...]
    drivers: tuple[str, ...] = ()

    def fits(self, name: str, driver: str) -> bool:
        return _any_pattern(self.names, name) and _any_pattern(self.drivers, driver)


def read_settings(subject: Subject) -> Settings:
    """What NetworkManager.conf and conf.d say in the end: later files replace, += adds."""
    local = {posixpath.basename(path) for path in subject.files_in(_LOCAL, ".conf")}
    paths = [path for path in subject.files_in(_SYSTEM, ".conf") if posixpath.basename(path) not in local]
    paths += [_MAIN, *subject.files_in(_LOCAL, ".conf")]
    unmanaged: list[str] = []
    no_auto: list[str] = []
    sections: dict[str, dict[str, str]] = {}
    for path in paths:
        for section, key, operator, value in _entries(subject, path):
            if (section, key) == ("keyfile", "unmanaged-devices"):
                unmanaged = _change(unmanaged, operator, value)
            elif (section, key) == ("main", "no-auto-default"):
                no_auto = _change(no_auto, operator, value)
            elif section.startswith("device"):
                sections.setdefault(section, {})[key] = value
    devices = [
        (_devices(each.get("match-device", "")), each["managed"].lower() not in ("0", "no", "false", "off"))
        for each in sections.values()
        if "managed" in each
    ]
    return Settings(unmanaged, no_auto, devices)


def profiles(subject: Subject) -> Iterator[Profile]:
    """The connections in keyfiles and ifcfg files. Those with a hardware address are of the build's card."""
    hidden: set[str] = set()
    for folder in _KEYFILES:
        for path in subject.files_in(folder):
            base = posixpath.basename(path)
            if base in hidden:
                continue
            hidden.add(base)
            known = {(section, key): value for section, key, _, value in _entries(subject, path)}
            if (
                known.get(("connection", "type")) in _ETHERNET
                and known.get(("connection", "autoconnect"), "true") not in ("false", "0", "no")
                and not known.get(("ethernet", "mac-address"))
            ):
                names = (known.get(("connection", "interface-name"), ""), known.get(("match", "interface-name"), ""))
                drivers = known.get(("match", "driver"), "")
                yield Profile(path, tuple(_devices(" ".join(names))), tuple(_devices(drivers)))
    for path in subject.files_in(_IFCFG):
        if re.search(r"/ifcfg-(?!lo$)[^/~.]+$", path):
            known = {("", key): value.strip("\"'") for _, key, _, value in _entries(subject, path)}
            if known.get(("", "ONBOOT"), "yes").lower() in ("yes", "true") and not known.get(("", "HWADDR")):
                yield Profile(path, tuple(_devices(known.get(("", "DEVICE"), ""))))


def _entries(subject: Subject, path: str) -> Iterator[tuple[str, str, str, str]]:
    """(section, key, operator, value) of each line of an ini file."""
    section = ""
    for line in subject.lines(path, "#;"):
        if line.startswith("["):
            section = line.strip("[] \t")
        elif found := re.match(r"([\w.-]+?)\s*([+-]?=)\s*(.*)", line):
            yield section, found[1], found[2], found[3].strip()


def _change(before: list[str], operator: str, value: str) -> list[str]:
    words = _devices(value)
    if operator == "+=":
        return [*before, *words]
    return [word for word in before if word not in words] if operator == "-=" else words


def _devices(value: str) -> list[str]:
    return [word for word in re.split(r"[,;\s]+", value) if word]


def _any_pattern(patterns: tuple[str, ...], value: str) -> bool:
    """Patterns of a connection's [match]: one of them fits; those with ! must not."""
    if any(fnmatch.fnmatchcase(value, each[1:]) for each in patterns if each.startswith("!")):
        return False
    wanted = [each.lstrip("|&") for each in patterns if not each.startswith("!")]
    return not wanted or any(fnmatch.fnmatchcase(value, each) for each in wanted)


def _listed(words: list[str], name: str, driver: str) -> bool:
    """Whether a list of devices (NetworkManager.conf(5), Device List Format) has a card; except: goes before all."""
    if any(_is_device(word.removeprefix("except:"), name, driver) for word in words if word.startswith("except:")):
        return False
    plain = [word for word in words if not word.startswith("except:")]
    # a list of exceptions alone means all others
    return any(_is_device(word, name, driver) for word in plain) or (bool(words) and not plain)


def _is_device(word: str, name: str, driver: str) -> bool:
    kind, colon, value = word.partition(":")
    if kind == "type" and colon:
        return value == "ethernet"
    if kind == "driver" and colon:
        return fnmatch.fnmatchcase(driver, value.split("/")[0])
    if kind == "interface-name" and colon:
        return name == value[1:] if value.startswith("=") else fnmatch.fnmatchcase(name, value.removeprefix("~"))
    return word == "*" or fnmatch.fnmatchcase(name, word)
