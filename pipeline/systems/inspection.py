"""How the disks of an operating system are inspected: modules by their names, which the sandbox's worker imports.

A plan and a list of masters read these rows, and must not load a reader of disks for that. A system from another
folder registers a row of its own; its modules are named in the question, so that the worker can import them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any


@dataclass(frozen=True)
class Part:
    """Modules that an inspection stands on, under one version.

    The version is raised when one of them judges or reads the same disk differently: masters are then inspected
    again. A comment, a docstring or a faster way changes no key. Keys name a part by its label, which stays when a
    module moves or is split.
    """

    version: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """`system` is the name of the guest system, `os` what definitions call it, `title` its name in a sentence.

    `installed` is module:class of its `InstalledSystem`. `profiles` are what its disks can be inspected for, the
    usual one first. `checks` are modules in the order of the report; a system shares those of `pipeline.checks.disk`.
    `root_check` is the id of the check that finds its root. `parts` are what only its inspection stands on, by label.
    `package_types` are the kinds of package URLs that its programs get (deb, rpm, ...), each with the IDs of
    os-release for which they do; the one without IDs is for all others.
    """

    system: str
    os: str
    title: str
    installed: str
    profiles: tuple[str, ...]
    checks: tuple[str, ...]
    root_check: str
    parts: Mapping[str, Part] = field(default_factory=dict)
    package_types: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that the worker imports for it."""
        return (self.installed.partition(":")[0], *self.checks)

    def to_json(self) -> dict[str, Any]:
        """What the worker needs of it."""
        return {name: value for name, value in asdict(self).items() if name not in ("parts", "package_types")}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Inspection:
        """What `to_json` made it from, without `parts`."""
        lists = {name: tuple(row[name]) for name in ("profiles", "checks")}
        return cls(**{**row, **lists})


@dataclass(frozen=True)
class DetectedSystem:
    """The system on a disk. `id`, `name` and `version` are os-release's words, empty where it does not say.

    `recognized` is false where no system claims the disk: it is then read as a generic Linux, and `why` says what
    was missing. `profile` is what the disk is inspected for.
    """

    system: str
    os: str
    profile: str
    recognized: bool
    id: str = ""
    name: str = ""
    version: str = ""
    why: str = ""

    def __str__(self) -> str:
        if not self.recognized:
            return f"no system was recognized ({self.why}); read as a generic Linux, profile {self.profile}"
        return f"{self.name or self.id or self.system} (system {self.system}, profile {self.profile})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


#: What is read as the system of a disk that no other claims.
GENERIC = "linux"
_REGISTERED: dict[str, Inspection] = {}


def register(inspection: Inspection) -> None:
    """Add a system from another folder. It is asked before all that were registered earlier."""
    if inspection not in _built_in():
        _REGISTERED.pop(inspection.system, None)
        _REGISTERED[inspection.system] = inspection


def unregister(system: str) -> None:
    _REGISTERED.pop(system, None)


def inspections() -> tuple[Inspection, ...]:
    """Every system's. The last one that claims a disk has it: a distribution stands behind its family."""
    return (*(each for each in _built_in() if each.system not in _REGISTERED), *_REGISTERED.values())


def inspection_of(system: str) -> Inspection:
    """By the system's name. Raises KeyError."""
    return {each.system: each for each in inspections()}[system]


#: The type of a package URL of what belongs to no index of packages.
NO_INDEX = "generic"


def package_type(release: Mapping[str, str]) -> str:
    """The type of the package URLs of a system, by its os-release: deb, rpm, NO_INDEX, ..."""
    ids = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    known = [pair for each in inspections() for pair in each.package_types.items()]
    named = next((kind for kind, its in known if ids & its), None)
    return named or next((kind for kind, its in known if not its), NO_INDEX)


def profiles() -> tuple[str, ...]:
    """Every profile that some system's disks can be inspected for."""
    known = sorted(inspections(), key=lambda each: each.system != GENERIC)
    return tuple(dict.fromkeys(profile for each in known for profile in each.profiles))


def of_profile(profile: str) -> tuple[Inspection, ...]:
    """The systems whose disks can be inspected for a profile, the general ones first."""
    return tuple(each for each in inspections() if profile in each.profiles)


@cache
def _built_in() -> tuple[Inspection, ...]:
    """Of each folder here that has a module `inspection`: families first, of these the generic one last."""
    found: list[Inspection] = [
        import_module(f"{__package__}.{folder.name}.inspection").INSPECTION
        for folder in iter_modules([str(Path(__file__).parent)])
        if folder.ispkg and (Path(__file__).parent / folder.name / "inspection.py").exists()
    ]
    return tuple(sorted(found, key=lambda each: (each.system != each.os, each.system == GENERIC, each.system)))
