"""udev's rules on a disk at rest: which files count, and which properties they give to one device (udev(7))."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.disk.root import Root

#: By precedence: a file hides those of its name in the later folders. /run is empty on a disk at rest.
FOLDERS = ("/etc/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d")
#: Bytes of a file, and lines of all files that mention what is asked for.
_FILE_LIMIT, _MAX_LINES = 1 << 20, 20_000
#: KEY{attribute} operator "value"; e"..." has C escapes, which no rule of interest uses.
_TOKEN = re.compile(r"([A-Z_]+)(?:\{([^}]*)\})?\s*(==|!=|\+=|-=|:=|=)\s*[ei]?\"((?:[^\"\\]|\\.)*)\"")


@dataclass(frozen=True)
class Device:
    """A device that is added. `drivers` are those of the device and of all above it (DRIVERS, not the net driver)."""

    subsystem: str
    name: str
    drivers: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


def rule_files(root: Root) -> list[str]:
    """The files that udev reads, in its order; a link to /dev/null and an empty file hide the others of the name."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for name in root.listdir(folder):
            if name.endswith(".rules"):
                found.setdefault(name, f"{folder}/{name}")
    return [path for _, path in sorted(found.items()) if root.read_link(path) != "/dev/null"]


class RuleSet:
    """The rules of the files that mention one of `names`; the others cannot set a property of these names."""

    def __init__(self, root: Root, names: Collection[str]) -> None:
        self._files: list[list[str]] = []
        lines = 0
        for path in rule_files(root):
            text = root.text(path, _FILE_LIMIT)
            if any(name in text for name in names):
                self._files.append(list(_lines(text)))
                lines += len(self._files[-1])
                if lines > _MAX_LINES:
                    return

    def properties(self, device: Device) -> dict[str, str]:
        """The properties that the device has after all rules. A rule with a program or a test is taken as not met."""
        properties = dict(device.properties)
        for lines in self._files:
            label = None
            for line in lines:
                tokens = _TOKEN.findall(line)
                if label is not None:
                    if ("LABEL", "", "=", label) in tokens:
                        label = None
                    else:
                        continue
                if all(_met(token, device, properties) for token in tokens):
                    label = _apply(tokens, properties)
        return properties


def _lines(text: str) -> Iterator[str]:
    """Rules without comments; a line that ends in a backslash goes on in the next one."""
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line and not line.startswith("#"):
            yield line


def _met(token: tuple[str, str, str, str], device: Device, properties: Mapping[str, str]) -> bool:
    """Whether a token lets its rule apply; an assignment does. The result of PROGRAM and IMPORT is unknown."""
    key, attribute, operator, pattern = token
    if operator not in ("==", "!="):
        return key not in ("PROGRAM", "IMPORT", "TEST")
    values: Collection[str]
    if key in ("ATTR", "ATTRS"):
        values = [device.attributes[attribute]] if attribute in device.attributes else []
    elif key == "ENV":
        values = [properties.get(attribute, "")]
    elif key == "ACTION":
        values = ["add"]
    elif key in ("SUBSYSTEM", "KERNEL"):
        values = [device.subsystem if key == "SUBSYSTEM" else device.name]
    elif key in ("DRIVERS", "DRIVER"):
        # a network device has no driver of its own: its parent has
        values = device.drivers if key == "DRIVERS" else []
    elif key in ("SUBSYSTEMS", "KERNELS"):
        values = [device.subsystem if key == "SUBSYSTEMS" else device.name]
    else:
        return False
    found = any(fnmatch.fnmatchcase(value, each) for value in values for each in pattern.split("|"))
    return found if operator == "==" else not found


def _apply(tokens: list[tuple[str, str, str, str]], properties: dict[str, str]) -> str | None:
    """Set what a rule sets; the label that it goes to, if it has one."""
    label = None
    for key, attribute, operator, value in tokens:
        if key == "GOTO":
            label = value
        elif key == "ENV" and operator in ("=", ":="):
            properties[attribute] = value
        elif key == "ENV" and operator == "+=":
            properties[attribute] = f"{properties.get(attribute, '')} {value}".strip()
    return label
