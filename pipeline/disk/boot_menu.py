"""What a boot loader's menu boots: grub.cfg, entries of the Boot Loader Specification, extlinux.conf.

By grub2's blscfg command (Fedora's patch, Boot Loader Specification type 1), grub-editenv's block of variables, and
syslinux' doc/menu.txt.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.disk.root import Root

#: Where Fedora and its like keep an entry for each kernel; a grub.cfg with the command blscfg reads them.
ENTRIES = "/boot/loader/entries"
_BLSCFG = re.compile(r"^\s*blscfg\b", re.MULTILINE)
_SET = re.compile(r"^\s*set\s+(\w+)=[\"']?([^\"'\n]*)", re.MULTILINE)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
#: The key of the kernel's file in an entry, and in extlinux.conf.
_KERNEL_KEYS = frozenset({"linux", "kernel"})
#: A kernel that boots with every driver there is, named by the machine that made it: never booted by itself.
_RESCUE = "0-rescue"


@dataclass(frozen=True)
class Entry:
    """A kernel that a menu boots, with its command line and its initramfs.

    `path` is the file that has it. Paths are as the boot loader writes them: /boot may be a file system of its own.
    """

    path: str
    kernel: str
    words: tuple[str, ...]
    initrd: tuple[str, ...] = ()


def read_menus(root: Root, menus: Sequence[str]) -> list[Entry]:
    """What the menus boot, recovery and rescue entries left out; the first is the usual one."""
    found: list[Entry] = []
    for path in menus:
        text = root.text(path)
        if posixpath.basename(path) == "extlinux.conf":
            found += _extlinux(path, text)
            continue
        found += _grub(path, text)
        if _BLSCFG.search(text):
            found += _entries(root, _variables(root, path, text))
    # two menus may both read the folder of entries
    return [
        entry
        for entry in dict.fromkeys(found)
        if not {"single", "recovery"} & set(entry.words) and _RESCUE not in entry.kernel
    ]


def _grub(path: str, text: str) -> Iterator[Entry]:
    """One for each `linux` line of grub.cfg, with the `initrd` line that follows it."""
    entry: Entry | None = None
    for words in map(str.split, text.splitlines()):
        if len(words) > 1 and re.fullmatch(r"linux(16|efi)?", words[0]):
            if entry is not None:
                yield entry
            entry = Entry(path, words[1], tuple(words[2:]))
        elif len(words) > 1 and re.fullmatch(r"initrd(16|efi)?", words[0]) and entry is not None:
            entry = replace(entry, initrd=tuple(words[1:]))
    if entry is not None:
        yield entry


def _variables(root: Root, menu: str, text: str) -> dict[str, str]:
    """GRUB's variables that entries may use: set by the menu, and on top those of its saved block."""
    found = dict(_SET.findall(text))
    for line in root.text(posixpath.join(posixpath.dirname(menu), "grubenv")).splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = value
    return found


def _entries(root: Root, variables: Mapping[str, str]) -> Iterator[Entry]:
    names = [name for name in root.listdir(ENTRIES) if name.endswith(".conf")]
    for name in sorted(names, key=_version_key, reverse=True):
        path = f"{ENTRIES}/{name}"
        kernel, initrd, options = "", [], []
        for line in root.text(path).splitlines():
            key, _, value = line.strip().partition(" ")
            words = _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), value).split()
            if key in _KERNEL_KEYS and words:
                kernel = words[0]
            elif key == "initrd":
                # what a tool adds of its own, such as tuned, is a variable that is usually empty
                initrd += [word for word in words if not word.startswith("$")]
            elif key == "options":
                options += words
        if kernel:
            yield Entry(path, kernel, tuple(options), tuple(initrd))


def _version_key(name: str) -> list[tuple[int, str]]:
    """Numbers by their value, so that 5.14.0-427 stands behind 5.14.0-70."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d]+", name)]


def _extlinux(path: str, text: str) -> Iterator[Entry]:
    """One for each label; words in capitals or not, paths relative to the file's own folder."""
    entry: Entry | None = None
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        words = value.split()
        if key.lower() in _KERNEL_KEYS and words and not words[0].endswith((".c32", ".0")):
            if entry is not None:
                yield entry
            entry = Entry(path, _beside(path, words[0]), ())
        elif entry is not None and key.lower() == "initrd" and words:
            entry = replace(entry, initrd=tuple(_beside(path, each) for each in words[0].split(",")))
        elif entry is not None and key.lower() == "append":
            inside = [word for word in words if word.startswith("initrd=")]
            given = tuple(_beside(path, each) for word in inside for each in word[7:].split(","))
            rest = tuple(word for word in words if word not in inside)
            entry = replace(entry, words=rest, initrd=entry.initrd or given)
    if entry is not None:
        yield entry


def _beside(menu: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(menu), name))
