"""Files of systemd-networkd on a disk at rest: which of them count, in which order, and which one takes a card.

The rules are those of systemd.network(5): files of all folders are sorted together by name; a file in /etc hides one
of the same name below /usr; drop-ins are read after their file; the first file whose [Match] fits is the card's.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.disk.root import Root

FOLDERS = (
    "/etc/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
    "/lib/systemd/network",
)
_FILE_LIMIT = 256 << 10
_YES = ("yes", "true", "1", "on", "y", "t")


@dataclass(frozen=True)
class Card:
    """A card as networkd sees it. `driver` is what ethtool says, which need not be the kernel module's name."""

    name: str
    driver: str
    path: str
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkFile:
    """`name` decides the order; `path` is for people; `match` has the words of each key of [Match]."""

    name: str
    path: str
    match: Mapping[str, tuple[str, ...]]
    unmanaged: bool = False

    def fits(self, card: Card) -> bool:
        """Whether [Match] fits this card of a virtual machine on Hyper-V; a file without [Match] fits every card."""
        return all(_fits(key, words, card) for key, words in self.match.items())


def network_files(root: Root) -> list[NetworkFile]:
    """The .network files that networkd reads, not yet sorted. Raises DiskError (file-too-large)."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for name in root.listdir(folder):
            if name.endswith(".network"):
                found.setdefault(name, f"{folder}/{name}")
    read = [_read(root, name, path) for name, path in found.items() if root.read_link(path) != "/dev/null"]
    return [file for file in read if file is not None]


def first_fitting(files: Iterable[NetworkFile], card: Card) -> NetworkFile | None:
    """The file that networkd takes for a card, None where none fits: the card is left alone then."""
    return next((file for file in sorted(files, key=lambda each: each.name) if file.fits(card)), None)


def _read(root: Root, name: str, path: str) -> NetworkFile | None:
    """A file with its drop-ins; None for an empty one, which hides the others of its name."""
    parts = [root.text(path, _FILE_LIMIT)]
    if not parts[0].strip():
        return None
    extra: dict[str, str] = {}
    for folder in FOLDERS:
        for each in root.listdir(f"{folder}/{name}.d"):
            if each.endswith(".conf"):
                extra.setdefault(each, f"{folder}/{name}.d/{each}")
    parts += [root.text(each, _FILE_LIMIT) for _, each in sorted(extra.items())]
    match: dict[str, tuple[str, ...]] = {}
    unmanaged = False
    for part in parts:
        section = ""
        for raw in part.splitlines():
            line = raw.strip()
            if not line or line[0] in "#;":
                continue
            key, equals, value = (word.strip() for word in line.partition("="))
            if line.startswith("["):
                section = line
            elif section == "[Match]" and equals:
                # an empty value takes back what was listed
                match[key] = (*match.get(key, ()), *_words(value)) if value else ()
            elif section == "[Link]" and key == "Unmanaged":
                unmanaged = value.lower() in _YES
    return NetworkFile(name, path, {key: words for key, words in match.items() if words}, unmanaged)


def _words(value: str) -> list[str]:
    return [word.strip("\"'") for word in value.split()]


def _fits(key: str, words: tuple[str, ...], card: Card) -> bool:
    if key == "Property":
        return all(_property(word, card) for word in words)
    if key == "Virtualization":
        return _any_of(words, "microsoft") or _any_of(words, "vm") or _any_of(words, "yes")
    values = {"Name": card.name, "Driver": card.driver, "Path": card.path, "Type": "ether", "OriginalName": card.name}
    # a kind is what `ip link add type` makes; a hardware card has none. A clone has neither the build's MAC address
    # nor its host name; what else may stand here (kernel versions, command lines) is rare
    return _any_of(words, values.get(key))


def _any_of(words: tuple[str, ...], value: str | None) -> bool:
    """Whether one of the patterns fits; a ! before the first one inverts the list."""
    inverted = words[0].startswith("!")
    patterns = [word.removeprefix("!") for word in words]
    found = value is not None and any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)
    return found is not inverted


def _property(word: str, card: Card) -> bool:
    inverted = word.startswith("!")
    key, _, value = word.removeprefix("!").partition("=")
    return (card.properties.get(key) == value) is not inverted
