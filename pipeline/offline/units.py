"""systemd's units on a Linux root, and which of them start by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.offline.root import Root

State = Literal["enabled", "disabled", "static", "masked", "alias"]
#: By precedence, as systemd.unit(5) gives it; /run is empty on a disk at rest.
FOLDERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
KINDS = (".service", ".socket", ".target", ".timer", ".mount", ".path", ".automount", ".swap", ".slice")
_UNIT_LIMIT = 256 << 10


@dataclass(frozen=True, slots=True)
class Unit:
    """`path` is the file that counts; `wanted_by` are the units whose start starts it."""

    name: str
    state: State
    path: str
    wanted_by: tuple[str, ...] = ()


def units(root: Root) -> tuple[Unit, ...]:
    """Every unit with a file of its own, sorted by name; none on a root without systemd."""
    found: dict[str, str] = {}
    wanted: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for name in root.listdir(folder):
            if name.endswith((".wants", ".requires")):
                for each in root.listdir(f"{folder}/{name}"):
                    wanted.setdefault(each, set()).add(name.rpartition(".")[0])
            elif name.endswith(KINDS):
                found.setdefault(name, f"{folder}/{name}")
    return tuple(
        Unit(name, _state(root, name, path, bool(wanted.get(name))), path, tuple(sorted(wanted.get(name, ()))))
        for name, path in sorted(found.items())
    )


def _state(root: Root, name: str, path: str, wanted: bool) -> State:
    target = root.read_link(path)
    if target == "/dev/null":
        return "masked"
    if target is not None and target.rsplit("/", 1)[-1] != name:
        return "alias"
    if wanted:
        return "enabled"
    sections = (line.strip() for line in root.text(path, _UNIT_LIMIT).splitlines())
    return "disabled" if "[Install]" in sections else "static"
