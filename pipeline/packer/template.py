"""The blocks of a template: variables, locals, sources and builds, with the values that can be computed.

A template is a file and the other *.pkr.hcl files of its folder, whose variables, locals and sources it uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.packer.file_functions import add_file_functions
from pipeline.packer.functions import functions
from pipeline.packer.hcl import Evaluator, Names, Node, name_of, parse, trees
from pipeline.packer.limits import FILE_BYTES, FILES, Budget, Folder, NotKnown, Unknown, require_light, too_large

#: The attributes of a block by name, with Unknown for what cannot be computed. Nested blocks are lists of these.
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A block with its labels; `path` says where it is."""

    kind: str
    labels: tuple[str, ...]
    node: Any
    path: Path


@dataclass(frozen=True)
class Source:
    """A source as a build uses it: builder type and name, with its attributes."""

    type: str
    name: str
    attributes: Attributes

    @property
    def address(self) -> str:
        return f"{self.type}.{self.name}"


@dataclass(frozen=True)
class Provisioner:
    """A provisioner or a post-processor."""

    type: str
    attributes: Attributes


@dataclass
class Build:
    """What is done to one source."""

    name: str
    source: Source
    provisioners: list[Provisioner] = field(default_factory=list)
    post_processors: list[Provisioner] = field(default_factory=list)


@dataclass
class Template:
    """A whole template. `notes` has what was read beside it, and blocks that goldsmith has nothing for."""

    builds: list[Build]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """What the caller hands in: variables by name, environment, time, the folders that may be read."""

    variables: Mapping[str, str]
    files: Sequence[Path]
    environment: Mapping[str, str]
    now: datetime
    folder: Folder


def read_file(path: Path) -> str:
    """The text of a template. Raises UsageError (no-such-file), (packer-too-large), (packer-syntax)."""
    try:
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}", name="no-such-file", hint="name a file that ends in .pkr.hcl or .json"
        ) from error
    if len(data) > FILE_BYTES:
        raise too_large(f"{path.name} has more than {FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path.name} is not a text in UTF-8", name="packer-syntax", hint="name a template of Packer"
        ) from error


class ReadNames(dict[str, str]):
    """The environment; it remembers which variables a template has read, because their values may be secrets."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(variables)
        self._read: dict[str, None] = {}

    def get(self, name: str, default: Any = None) -> Any:
        if name in self:
            self._read[name] = None
        return super().get(name, default)

    def notes(self) -> list[str]:
        return [
            f"env {name}: the template reads this variable of your environment; its value may stand in the files"
            for name in self._read
        ]


class _Lazy(Mapping[str, Any]):
    """Variables or locals: each is computed when it is first needed. A circle makes Unknown."""

    def __init__(self, what: str, compute: Mapping[str, Callable[[], Any]]) -> None:
        self._what = what
        self._compute = compute
        self._found: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._found:
            self._found[name] = Unknown(f"{self._what}.{name}, which needs itself")
            try:
                self._found[name] = self._compute[name]()
            except NotKnown as error:
                self._found[name] = Unknown(error.reason)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._compute

    def __iter__(self) -> Iterator[str]:
        return iter(self._compute)

    def __len__(self) -> int:
        return len(self._compute)


class HclTemplate:
    """Reads one template. Raises UsageError (packer-syntax), (packer-too-large), (packer-no-build)."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._notes: list[str] = []
        self._environment = ReadNames(settings.environment)
        table = functions(self._environment, settings.now)
        self._evaluator = Evaluator(table, Budget())
        add_file_functions(table, settings.folder, self._evaluator)
        self._blocks = list(self._read_blocks())
        self._given = self._given_values()
        self._names = self._make_names()

    def read(self) -> Template:
        own = [each for each in self._blocks if each.kind == "build" and each.path == self._path]
        builds = own or [each for each in self._blocks if each.kind == "build"]
        found = [build for block in builds for build in self._builds(block)]
        if not found:
            raise UsageError(
                f"{self._path.name} has no build with a source",
                name="packer-no-build",
                hint="name the file that has the build block",
            )
        for block in self._blocks:
            if block.kind == "data":
                self._notes.append(f"data {'.'.join(block.labels)}: nothing is fetched during an import")
        return Template(found, [*self._notes, *self._environment.notes()])

    def _read_blocks(self) -> Iterator[Block]:
        others = sorted(each for each in self._path.parent.glob("*.pkr.hcl") if each != self._path)
        if len(others) > FILES:
            raise too_large(f"its folder has more than {FILES} templates")
        for path in (self._path, *others):
            # a neighbour may be a link to anywhere
            if path != self._path and not path.resolve().is_relative_to(self._settings.folder.root):
                self._notes.append(f"{path.name}: outside of {self._settings.folder.root}; it was not read")
                continue
            tree = parse(read_file(path), path.name)
            for node in trees(trees(tree)[0]):
                if node.data == "block":
                    kind, *labels, body = trees(node)
                    yield Block(name_of(kind), tuple(map(name_of, labels)), body, path)

    # -- names -----------------------------------------------------------------------------------------------------

    def _given_values(self) -> dict[str, Any]:
        """The values of variable files, of PKR_VAR_NAME, and of --var, the later before the earlier."""
        found: dict[str, Any] = {}
        files = [*sorted(self._path.parent.glob("*.auto.pkrvars.hcl")), *self._settings.files]
        for path in files:
            if path.suffix == ".json":
                found.update(_json_object(path))
                continue
            for node in trees(trees(parse(read_file(path), path.name))[0]):
                if node.data == "attribute":
                    name, value = trees(node)
                    found[name_of(name)] = self._evaluator.try_value(value, {})
        for variable, text in self._settings.environment.items():
            if variable.startswith("PKR_VAR_"):
                found[variable.removeprefix("PKR_VAR_")] = self._written_value(text)
        for variable, text in self._settings.variables.items():
            found[variable] = self._written_value(text)
        return found

    def _written_value(self, text: str) -> Any:
        """A value of the command line: a list or a map if it is written as such, else the text."""
        if not text.lstrip().startswith(("[", "{")):
            return text
        body = trees(parse(f"x = {text}", "--var"))[0]
        return self._evaluator.try_value(trees(trees(body)[0])[1], {})

    def _make_names(self) -> Names:
        variables: dict[str, Callable[[], Any]] = {}
        local: dict[str, Callable[[], Any]] = {}
        names: dict[str, Any] = {}
        for block in reversed(self._blocks):  # so that the template's own block is the last and counts
            attributes = dict(_attribute_nodes(block.node))
            if block.kind == "variable" and block.labels:
                variables[block.labels[0]] = self._variable(block.labels[0], attributes, names)
            elif block.kind == "variables":
                for name, node in attributes.items():
                    variables[name] = self._variable(name, {"default": node}, names)
            elif block.kind == "locals":
                local.update({name: self._local(node, names) for name, node in attributes.items()})
            elif block.kind == "local" and block.labels and "expression" in attributes:
                local[block.labels[0]] = self._local(attributes["expression"], names)
        folder = self._settings.folder
        names["var"] = _Lazy("var", variables)
        names["local"] = _Lazy("local", local)
        names["path"] = {"root": str(folder.path), "cwd": str(folder.root)}
        names["packer"] = {"version": Unknown("the version of Packer")}
        names["build"] = Unknown("a value of a running build")
        names["data"] = Unknown("data that Packer fetches")
        names["source"] = Unknown("a value of a running build")
        return names

    def _variable(self, name: str, attributes: Mapping[str, Node], names: Names) -> Callable[[], Any]:
        def compute() -> Any:
            if "sensitive" in attributes and self._evaluator.try_value(attributes["sensitive"], {}) is True:
                raise NotKnown(f"the variable {name}, which is sensitive: its value is not written into a definition")
            if name in self._given:
                return self._given[name]
            if "default" not in attributes:
                raise NotKnown(f"the variable {name}, which has no value: --var {name}=VALUE")
            return self._evaluator.value(attributes["default"], names)

        return compute

    def _local(self, node: Node, names: Names) -> Callable[[], Any]:
        return lambda: self._evaluator.value(node, names)

    # -- builds ----------------------------------------------------------------------------------------------------

    def _attributes(self, body: Node, names: Names) -> Attributes:
        """The values of a body. Nested blocks are lists, `dynamic` ones written out."""
        found: Attributes = {name: self._evaluator.try_value(node, names) for name, node in _attribute_nodes(body)}
        with self._evaluator.budget:
            for kind, _labels, inner in _block_nodes(body):
                if kind != "dynamic":
                    found.setdefault(kind, [])
                    if isinstance(found[kind], list):
                        found[kind].append(self._attributes(inner, names))
        require_light(found)
        return found

    def _source(self, address: str, extra: Attributes) -> Source:
        kind, _, name = address.removeprefix("source.").partition(".")
        for block in self._blocks:
            if block.kind == "source" and block.labels == (kind, name):
                return Source(kind, extra.get("name", name), {**self._attributes(block.node, self._names), **extra})
        raise UsageError(
            f"the template has no source {kind}.{name}",
            name="packer-no-build",
            hint="name the file whose folder has the source's block",
        )

    def _builds(self, block: Block) -> Iterator[Build]:
        attributes = self._attributes(block.node, self._names)
        name = attributes.get("name")
        sources = attributes.get("sources", [])
        if isinstance(sources, Unknown):
            self._notes.append(f"build {name or ''}: its sources need {sources.reason}")
            sources = []
        inner = [(kind, labels, body) for kind, labels, body in _block_nodes(block.node)]
        found = [self._source(each, {}) for each in sources if isinstance(each, str)]
        found += [
            self._source(labels[0], self._attributes(body, self._names))
            for kind, labels, body in inner
            if kind == "source" and labels
        ]
        for source in found:
            build = Build(name if isinstance(name, str) else "", source)
            names = {**self._names, "source": {"type": source.type, "name": source.name}}
            for kind, labels, body in inner:
                self._add(build, kind, labels, body, names)
            yield build

    def _add(self, build: Build, kind: str, labels: Sequence[str], body: Node, names: Names) -> None:
        """Add a nested block of a build to it, if it is meant for its source."""
        if kind == "post-processors":
            for inner_kind, inner_labels, inner in _block_nodes(body):
                self._add(build, inner_kind, inner_labels, inner, names)
            return
        if kind == "dynamic" and labels:
            self._notes.append(f"dynamic {labels[0]}: not turned")
            return
        if kind not in ("provisioner", "post-processor") or not labels:
            return
        found = Provisioner(labels[0], self._attributes(body, names))
        if applies(found.attributes, build):
            found.attributes.update(overridden(found.attributes, build.source))
            (build.provisioners if kind == "provisioner" else build.post_processors).append(found)


def applies(attributes: Attributes, build: Build) -> bool:
    """Whether `only` and `except` let a provisioner run for this source."""
    names = {build.source.address, f"{build.name}.{build.source.address}", build.source.name, build.source.type}
    only, leave_out = attributes.get("only"), attributes.get("except")
    if isinstance(only, list) and only and not names & {each for each in only if isinstance(each, str)}:
        return False
    return not (isinstance(leave_out, list) and names & {each for each in leave_out if isinstance(each, str)})


def overridden(attributes: Attributes, source: Source) -> Attributes:
    """What `override` sets for this source."""
    override = attributes.get("override")
    if not isinstance(override, dict):
        return {}
    found = override.get(source.name) or override.get(source.address) or override.get(source.type)
    return dict(found) if isinstance(found, dict) else {}


def _attribute_nodes(body: Node) -> Iterator[tuple[str, Node]]:
    for node in trees(body) if not isinstance(body, str) else ():
        if node.data == "attribute":
            name, value = trees(node)
            yield name_of(name), value


def _block_nodes(body: Node) -> Iterator[tuple[str, tuple[str, ...], Node]]:
    for node in trees(body) if not isinstance(body, str) else ():
        if node.data == "block":
            kind, *labels, inner = trees(node)
            yield name_of(kind), tuple(map(name_of, labels)), inner


def _json_object(path: Path) -> dict[str, Any]:
    return load_json(read_file(path), path.name)


def load_json(text: str, name: str) -> dict[str, Any]:
    """A JSON object. Raises UsageError (packer-syntax)."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{name}: this is not JSON: {str(error)[:200]}",
            name="packer-syntax",
            hint="run packer validate on the template, then import it again",
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"{name} is not a JSON object", name="packer-syntax", hint="name a template of Packer")
    return found
