"""Packer's older JSON form: builders, provisioners, and `{{user `name`}}` in texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.packer.functions import format_go_time
from pipeline.packer.limits import DEPTH, Budget, NotKnown, Unknown, too_large
from pipeline.packer.template import (
    Attributes,
    Build,
    Provisioner,
    ReadNames,
    Settings,
    Source,
    Template,
    applies,
    load_json,
    overridden,
    read_file,
)

_ACTION = re.compile(r"\{\{-?\s*(?P<body>(?:`[^`]*`|\"[^\"]*\"|[^{}`\"])*?)\s*-?\}\}")
_WORD = re.compile(r"`([^`]*)`|\"([^\"]*)\"|(\S+)")


def read_legacy(path: Path, settings: Settings) -> Template:
    """The builds of a legacy template, one for each builder. Raises UsageError (packer-syntax), (packer-no-build)."""
    document = load_json(read_file(path), path.name)
    texts = _Texts(document, settings)
    builders = document.get("builders")
    if not isinstance(builders, list) or not builders:
        raise UsageError(
            f"{path.name} has no builders",
            name="packer-no-build",
            hint="name a template with `builders`, or one that ends in .pkr.hcl",
        )
    builds = []
    for each in builders:
        attributes = texts.attributes(each)
        kind = attributes.pop("type", "")
        build = Build("", Source(str(kind), str(attributes.pop("name", kind)), attributes))
        build.provisioners += _steps(document.get("provisioners"), build, texts)
        build.post_processors += _steps(_flat(document.get("post-processors")), build, texts)
        builds.append(build)
    return Template(builds, texts.environment.notes())


def _flat(entries: Any) -> list[Any]:
    """Post-processors stand alone, or in chains."""
    listed = entries if isinstance(entries, list) else []
    return [item for each in listed for item in (each if isinstance(each, list) else [each])]


def _steps(entries: Any, build: Build, texts: _Texts) -> list[Provisioner]:
    out = []
    for each in entries if isinstance(entries, list) else []:
        attributes = texts.attributes({"type": each} if isinstance(each, str) else each)
        attributes.update(overridden(attributes, build.source))
        if applies(attributes, build):
            out.append(Provisioner(str(attributes.pop("type", "")), attributes))
    return out


class _Texts:
    """The values of a legacy template: `{{user `name`}}`, `{{env `NAME`}}` and some more are computed.

    Actions such as `{{ .Path }}` belong to a running build; they stay as they are.
    """

    def __init__(self, document: Mapping[str, Any], settings: Settings) -> None:
        declared = document.get("variables")
        self._variables: dict[str, Any] = dict(declared) if isinstance(declared, dict) else {}
        for path in settings.files:
            self._variables.update(load_json(read_file(path), path.name))
        self._variables.update(settings.variables)
        sensitive = document.get("sensitive-variables")
        self._sensitive = set(map(str, sensitive)) if isinstance(sensitive, list) else set()
        self._settings = settings
        self.environment = ReadNames(settings.environment)
        self._budget = Budget()

    def attributes(self, entry: Any) -> Attributes:
        found = self._value(entry, 0)
        return found if isinstance(found, dict) else {}

    def _value(self, value: Any, depth: int) -> Any:
        if depth > DEPTH:
            raise too_large(f"its values are nested more than {DEPTH} deep")
        if isinstance(value, dict):
            return {key: self._value(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, depth + 1) for item in value]
        if not isinstance(value, str):
            return value
        try:
            return self.text(value)
        except NotKnown as error:
            return Unknown(error.reason)

    def text(self, text: str) -> str:
        with self._budget:
            return self._budget.text(_ACTION.sub(self._action, text))

    def _action(self, found: re.Match[str]) -> str:
        words = [next(filter(None, each), "") for each in _WORD.findall(found["body"])]
        rules: dict[str, Callable[..., str]] = {
            "user": self._user,
            "env": lambda name: self.environment.get(name, ""),
            "timestamp": lambda: str(int(self._settings.now.timestamp())),
            "isotime": lambda layout="": format_go_time(layout, self._settings.now),
            "template_dir": lambda: str(self._settings.folder.path),
            "pwd": lambda: str(self._settings.folder.root),
            "lower": str.lower,
            "upper": str.upper,
        }
        if not words or words[0].startswith(".") or words[0] not in rules:
            return found[0]
        try:
            return rules[words[0]](*words[1:])
        except TypeError as error:
            raise NotKnown(f"the action {found[0][:60]}") from error

    def _user(self, name: str) -> str:
        if name in self._sensitive:
            raise NotKnown(f"the variable {name}, which is sensitive: its value is not written into a definition")
        value = self._variables.get(name)
        if value is None:
            raise NotKnown(f"the variable {name}, which has no value: --var {name}=VALUE")
        return self.text(str(value))
