"""What an operating system says of its definitions. Each registers its own with `pipeline.systems.registry`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.definition.diagnostics import Wrong, closest, shown
from pipeline.definition.document import Document
from pipeline.definition.model import GeneralizeAgent
from pipeline.definition.units import GIB

#: What a definition means that does not say `os:`. Format 1 of definitions has it so.
DEFAULT = "linux"


#: Puts faults into the document. It gets plain data, which may have any shape.
Check = Callable[[Document, dict[str, Any]], None]


def _no_rules(_document: Document, _data: dict[str, Any]) -> None:
    """A system whose definitions need no more than the format."""


@dataclass(frozen=True)
class SystemRules:
    """What a definition with `os: NAME` means where it says nothing, and the rules that hold for it alone."""

    name: str
    check: Check = _no_rules
    generations: tuple[int, ...] = (1, 2)
    #: The bytes of memory of a guest.
    memory: int = 2 * GIB
    #: What generalizes it: `generalize: agent`.
    agent: GeneralizeAgent = "none"
    #: The years of Microsoft's Secure Boot keys that must start it, unless the definition says otherwise.
    secure_boot_keys: tuple[int, ...] = (2011, 2023)
    #: The generations on which it is installed under Secure Boot with a TPM, unless the definition says otherwise.
    trusted_boot: tuple[tuple[int, ...], ...] = ()


_RULES: dict[str, SystemRules] = {}
#: Rules that a distribution adds to those of the system that its definitions name.
_ADDED: dict[str, list[Check]] = {}


def register(rules: SystemRules) -> None:
    """Let definitions say `os: NAME`. Those of the same name are replaced."""
    _RULES[rules.name] = rules


def add_check(name: str, check: Check) -> None:
    """Let `check` look too at the definitions that say `os: NAME`."""
    if check not in _ADDED.setdefault(name, []):
        _ADDED[name].append(check)


def unregister(name: str) -> None:
    """Forget a system's rules."""
    _RULES.pop(name, None)
    _ADDED.pop(name, None)


def names() -> tuple[str, ...]:
    """What `os:` may say."""
    return tuple(_RULES)


def rules_of(name: object) -> SystemRules:
    """The rules for a value of `os:`; those of the default where it names no system, which is a fault of its own."""
    assert DEFAULT in _RULES, "import pipeline.systems.registry: no operating system has registered its rules"
    return _RULES.get(name, _RULES[DEFAULT]) if isinstance(name, str) else _RULES[DEFAULT]


def check_definition(document: Document, data: dict[str, Any]) -> None:
    """Put the faults into the document that the definition has by the rules of its operating system."""
    rules = rules_of(data.get("os"))
    for check in (rules.check, *_ADDED.get(rules.name, ())):
        check(document, data)


def known_system(value: str) -> str:
    """A validator of `os:`. Raises `Wrong` with a near name."""
    known = names()
    if value not in known:
        choice = " or ".join([", ".join(known[:-1]), known[-1]]) if len(known) > 1 else known[0]
        raise Wrong(f"must be {choice}, not {shown(value)}", closest(value, known))
    return value


# ---- rules that several systems have ---------------------------------------------------------------------------


@dataclass(frozen=True)
class StepRules:
    """The steps that a system does not run, and the paths that are not its own."""

    #: Keys of steps of another system, each with a hint; and what is said of them.
    foreign: Mapping[str, str]
    why: str
    #: Paths that `copy: to` must not have, and one that it may.
    foreign_path: re.Pattern[str]
    example: str
    #: Keys of every step that only another system has, and what is said of them.
    other_keys: Mapping[str, str] = field(default_factory=dict)


def check_steps(document: Document, data: dict[str, Any], rules: StepRules) -> None:
    """Put a fault into the document for each step that the system does not run."""
    _check_list(document, ("steps",), data.get("steps"), rules)
    if isinstance(refresh := data.get("refresh"), dict):
        _check_list(document, ("refresh", "steps"), refresh.get("steps"), rules)


def _check_list(document: Document, place: tuple[str, ...], steps: object, rules: StepRules) -> None:
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if not isinstance(step, dict):
            continue
        for key, hint in rules.foreign.items():
            if key in step:
                document.add((*place, index, key), rules.why, hint, at_key=True)
        for key, why in rules.other_keys.items():
            if key in step:
                document.add((*place, index, key), why, f"remove {key}", at_key=True)
        copied = step.get("copy")
        to = copied.get("to") if isinstance(copied, dict) else None
        if isinstance(to, str) and rules.foreign_path.match(to):
            document.add((*place, index, "copy", "to"), "is a path of another operating system", rules.example)


def check_keys(document: Document, data: dict[str, Any], foreign: Mapping[tuple[str, ...], tuple[str, str]]) -> None:
    """Put a fault (message, hint) into the document for each key (a place in it) that is another system's."""
    for place, (message, hint) in foreign.items():
        part: object = data
        for key in place[:-1]:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and place[-1] in part:
            document.add(place, message, hint, at_key=True)
