"""The operating systems that are known: those of the folders here, and what others register.

A folder with a module `system` is an operating system; nothing else lists it. A system from elsewhere calls
`register`. Importing this module hands each system's rules to `pipeline.definition`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pipeline.systems
from pipeline.base.errors import UsageError
from pipeline.definition import Definition, system_rules
from pipeline.systems import inspection
from pipeline.systems.base import GuestSystem

_SYSTEMS: dict[str, GuestSystem] = {}


def register(system: GuestSystem) -> None:
    """Make a system known, and its rules to definitions. One of the same name is replaced."""
    _SYSTEMS[system.name] = system
    inspection.register(system.inspection)
    if system.rules is not None:
        system_rules.register(system.rules)
    for check in system.added_rules:
        system_rules.add_check(system.os, check)


def unregister(name: str) -> None:
    """Forget a system and its rules."""
    system = _SYSTEMS.pop(name)
    inspection.unregister(name)
    if system.rules is not None:
        system_rules.unregister(system.rules.name)


def names() -> tuple[str, ...]:
    """The names of all systems that are known."""
    return tuple(_SYSTEMS)


def all_systems() -> tuple[GuestSystem, ...]:
    """All systems that are known."""
    return tuple(_SYSTEMS.values())


def get(name: str) -> GuestSystem:
    """A system by its name. Raises UsageError (system-unknown)."""
    if name not in _SYSTEMS:
        raise UsageError(
            f"no operating system is called {name}",
            name="system-unknown",
            hint=f"known systems: {', '.join(_SYSTEMS)}",
        )
    return _SYSTEMS[name]


def for_definition(definition: Definition, suite: str | None) -> GuestSystem:
    """The system of a definition: the distribution that claims it, else the one that its `os:` names."""
    same = [system for system in _SYSTEMS.values() if system.os == definition.os and system.name != definition.os]
    return next((system for system in same if system.claims(definition, suite)), get(definition.os))


def _register_own() -> None:
    """Every folder here that has a module `system`, in the order of their names."""
    for folder in pkgutil.iter_modules(pipeline.systems.__path__):
        if folder.ispkg and (Path(__file__).parent / folder.name / "system.py").exists():
            register(importlib.import_module(f"pipeline.systems.{folder.name}.system").SYSTEM)


_register_own()
