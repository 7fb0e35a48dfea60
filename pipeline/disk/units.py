"""Services on a Linux root, and which of them start by themselves: systemd's units, or another init's services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.base.errors import DiskError
from pipeline.disk.root import Root

State = Literal["enabled", "disabled", "static", "masked", "alias"]
#: By precedence, as systemd.unit(5) gives it; /run is empty on a disk at rest.
FOLDERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
KINDS = (".service", ".socket", ".target", ".timer", ".mount", ".path", ".automount", ".swap", ".slice")
_UNIT_LIMIT = 256 << 10
#: OpenRC: scripts, and a folder with links to them for each runlevel.
_SCRIPTS, _RUNLEVELS = "/etc/init.d", "/etc/runlevels"
#: runit: folders, and links to them in each runlevel's folder.
_RUNIT_SERVICES, _RUNIT_LEVELS = "/etc/sv", "/etc/runit/runsvdir"
#: Programs of other kinds of init, which keep services in forms of their own.
_OTHER_INIT = {
    "/etc/dinit.d": "dinit",
    "/etc/s6": "s6",
    "/etc/s6-rc": "s6",
    "/etc/init": "upstart",
    "/etc/inittab": "init by /etc/inittab alone",
    "/sbin/procd": "procd",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """`path` is the file that counts; `wanted_by` are the units whose start starts it."""

    name: str
    state: State
    path: str
    wanted_by: tuple[str, ...] = ()


def read_services(root: Root) -> tuple[Unit, ...]:
    """systemd's units, else OpenRC's, runit's or System V's services. Raises DiskError (no-services)."""
    found = read_units(root) or read_openrc(root) or read_runit(root) or read_sysv(root)
    if found:
        return found
    other = next((name for path, name in _OTHER_INIT.items() if root.exists(path)), None)
    raise DiskError(
        f"the services are managed by {other}, which goldsmith cannot read"
        if other
        else "the root has no services of systemd, OpenRC, runit or System V's init",
        name="no-services",
        hint="--list files shows what is there",
    )


def read_openrc(root: Root) -> tuple[Unit, ...]:
    """The scripts in /etc/init.d; enabled are those that a runlevel has. None on a root without runlevels."""
    levels = root.listdir(_RUNLEVELS)
    wanted = {level: set(root.listdir(f"{_RUNLEVELS}/{level}")) for level in levels}
    return _listed(root, _SCRIPTS, wanted) if levels else ()


def read_runit(root: Root) -> tuple[Unit, ...]:
    levels = [name for name in root.listdir(_RUNIT_LEVELS) if name != "current"]
    wanted = {level: set(root.listdir(f"{_RUNIT_LEVELS}/{level}")) for level in levels}
    return _listed(root, _RUNIT_SERVICES, wanted) if levels else ()


def read_sysv(root: Root) -> tuple[Unit, ...]:
    """The scripts in /etc/init.d; enabled are those that a runlevel starts (rcN.d/S20name)."""
    wanted: dict[str, set[str]] = {}
    for level in "S0123456":
        for folder in (f"/etc/rc{level}.d", f"/etc/rc.d/rc{level}.d"):
            names = {name[3:] for name in root.listdir(folder) if name[:1] == "S" and name[1:3].isdigit()}
            wanted.setdefault(f"rc{level}", set()).update(names)
    return _listed(root, _SCRIPTS, wanted) or _listed(root, "/etc/rc.d/init.d", wanted)


def _listed(root: Root, folder: str, wanted: dict[str, set[str]]) -> tuple[Unit, ...]:
    found = []
    for name in root.listdir(folder):
        path = f"{folder}/{name}"
        levels = tuple(sorted(level for level, names in wanted.items() if name in names))
        # helpers that scripts share, and notes
        if not levels and (name in ("README", "skeleton", "functions") or name.endswith(".sh") or "." in name):
            continue
        found.append(Unit(name, "enabled" if levels else "disabled", path, levels))
    return tuple(found)


def read_units(root: Root) -> tuple[Unit, ...]:
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
