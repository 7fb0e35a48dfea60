"""From files to definitions: every fault of a file at once, and the order that masters impose on files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from pipeline.base import surroundings
from pipeline.base.errors import UsageError
from pipeline.base.printable import listed
from pipeline.base.project import IMAGES, definition_files
from pipeline.base.store import IMAGE_NAME
from pipeline.definition import rules
from pipeline.definition.composition import (
    Composed,
    compose,
    duplicates,
    image_names,
    names_of,
    unused_defaults,
)
from pipeline.definition.conversion import make_definition
from pipeline.definition.cross_rules import check_cross_rules
from pipeline.definition.diagnostics import DefinitionError, Fault, closest, shown
from pipeline.definition.document import Document, missing_values
from pipeline.definition.error_messages import fault_of
from pipeline.definition.model import (
    Definition,
    MasterSource,
    PlaybookStep,
)
from pipeline.definition.playbook_files import config_of
from pipeline.definition.reading import absolute, relative
from pipeline.definition.rules import Context
from pipeline.definition.schema_models import Written


def load(path: Path, project: Path, name: str | None = None) -> Definition:
    """Read one image of a file, by default its only one; raises DefinitionError with every fault of it."""
    path, project = absolute(path), project.resolve()
    images = compose(path, project)
    if name is None and len(images) > 1:
        file, line, column = images[0].document.position(("matrix",), at_key=True)
        message = f"makes {len(images)} images: {_listed(images)}"
        raise DefinitionError([Fault(file, line, column, "matrix", message, "name one of them", "image-is-matrix")])
    chosen = next((image for image in images if image.name == name), images[0])
    return load_composed(chosen, path, project)


def load_composed(image: Composed, path: Path, project: Path) -> Definition:
    """The definition of one image of a file; raises DefinitionError with every fault of it."""
    path, project = absolute(path), project.resolve()
    document = replace(image.document, faults=list(image.document.faults))
    definition = _check(document, image, path, project)
    if document.faults or definition is None:
        own = relative(path, project)
        faults = sorted(
            set(document.faults), key=lambda fault: (fault.file != own, fault.file, fault.line, fault.column)
        )
        raise DefinitionError(faults)
    return definition


def load_file(path: Path, project: Path) -> list[Definition]:
    """Every image of one file, in the order of its matrix; raises DefinitionError with the faults of all."""
    definitions: list[Definition] = []
    faults: list[Fault] = []
    for image in compose(absolute(path), project.resolve()):
        try:
            definitions.append(load_composed(image, path, project))
        except DefinitionError as error:
            faults.extend(error.faults)
    if faults:
        raise DefinitionError(list(dict.fromkeys(faults)))
    return definitions


def load_named(project: Path, name: str) -> Definition:
    """Read the image NAME of the project; raises UsageError with a near name where there is none."""
    return load(find_definition(project, name), project, name)


def find_definition(project: Path, name: str) -> Path:
    """The file that makes the image NAME; raises UsageError with a near name where there is none.

    That is images/NAME.yaml, or the file of a matrix with an image of that name.
    """
    path = project / IMAGES / f"{name}.yaml"
    names: dict[str, Path] = {}
    if IMAGE_NAME.fullmatch(name):
        if path.is_file() and names_of(path, project) == [name]:
            return path
        names = image_names(project)
        if name in names:
            return names[name]
    if IMAGE_NAME.fullmatch(name) and path.is_file():
        images = names_of(path, project)
        message = f"{IMAGES}/{name}.yaml makes {len(images)} images, none of which is {name}"
        raise UsageError(message, name="image-is-matrix", hint=f"name one of {listed(images)}")
    hint = closest(name, names) or (f"existing images: {listed(sorted(names))}" if names else "goldsmith init NAME")
    if IMAGE_NAME.fullmatch(name) and path.with_suffix(".yml").is_file():
        hint = f"rename {IMAGES}/{name}.yml to {name}.yaml"
    raise UsageError(f"{IMAGES}/{name}.yaml: no such definition", name="no-such-image", hint=hint)


def load_all(project: Path) -> list[Definition]:
    """Read every definition of the project, by name; raises DefinitionError with the faults of all."""
    definitions: list[Definition] = []
    faults: list[Fault] = []
    for path in definition_files(project):
        try:
            definitions.extend(load_file(path, project))
        except DefinitionError as error:
            faults.extend(error.faults)
    faults.extend(project_faults(project))
    if faults:
        raise DefinitionError(list(dict.fromkeys(faults)))
    return definitions


def project_faults(project: Path) -> list[Fault]:
    """What is wrong between the files of a project: one name for two images, a parameter that no image needs."""
    project = project.resolve()
    images = [image for path in definition_files(project) for image in compose(path, project)]
    return [
        *(fault for faults in duplicates(project).values() for fault in faults),
        *unused_defaults(project, images),
    ]


def require_known_settings(project: Path) -> None:
    """Raise UsageError (parameter-unknown) for a parameter of the command line that no image of the project uses."""
    wanted = surroundings.settings()
    if not wanted:
        return
    project = project.resolve()
    known = {name for path in definition_files(project) for image in compose(path, project) for name in image.used}
    for name in wanted:
        if name not in known:
            hint = f"parameters of this project: {listed(sorted(known))}" if known else "declare it: parameters:"
            raise UsageError(
                f"--set {name}: no definition uses a parameter of this name",
                name="parameter-unknown",
                hint=closest(name, known) or hint,
            )


def build_order(definitions: Iterable[Definition]) -> list[Definition]:
    """Masters before what begins with them, otherwise in the order given; raises DefinitionError on a cycle.

    A master that is not among the definitions, or that is named by its version, is taken to exist already.
    """
    by_name = {definition.name: definition for definition in definitions}
    ordered: dict[str, Definition] = {}

    def visit(definition: Definition, chain: tuple[str, ...]) -> None:
        if definition.name in ordered:
            return
        if definition.name in chain:
            cycle = (*chain[chain.index(definition.name) :], definition.name)
            file = relative(definition.path, definition.project)
            raise DefinitionError([Fault(file, 1, 1, "source.master", _cycle_message(cycle))])
        source = definition.source
        if isinstance(source, MasterSource) and source.is_channel and source.image in by_name:
            visit(by_name[source.image], (*chain, definition.name))
        ordered[definition.name] = definition

    for definition in by_name.values():
        visit(definition, ())
    return list(ordered.values())


# -- one file -----------------------------------------------------------------------------------------------


def read_places(definition: Definition) -> Document:
    """The document of a definition that was read before, to say where in it something stands."""
    (image,) = compose(definition.path, definition.project, definition.name)
    return replace(image.document, faults=[])


def _listed(images: Sequence[Composed], most: int = 8) -> str:
    names = [image.name for image in images]
    return ", ".join(names if len(names) <= most else [*names[:most], "..."])


def _check(document: Document, image: Composed, path: Path, project: Path) -> Definition | None:
    """Put all faults of a document into it; a Definition where there are none."""
    if path.suffix != ".yaml":
        document.add(
            (), f"the file's name must end in .yaml, not {path.suffix or 'without a suffix'}", f"{path.stem}.yaml"
        )
    if not IMAGE_NAME.fullmatch(path.stem):
        message = f"{shown(path.stem)} is not a valid image name"
        document.add((), message, rules.IMAGE_NAME_RULE)
    data = document.data
    if data is None:
        if not document.faults:
            document.add((), "is empty", "write a new definition with goldsmith init NAME")
        return None
    if not isinstance(data, dict):
        document.add((), f"must be a mapping, not {shown(data)}", "start the file with goldsmith: 1")
        return None
    version = data.get("goldsmith")
    if isinstance(version, int) and not isinstance(version, bool) and version > rules.FORMAT:
        # A later format has keys that this one does not know; to complain of each would hide what is wrong.
        hint = "use a newer version of goldsmith"
        document.add(
            ("goldsmith",), f"format version {shown(version)} is not supported (supported: {rules.FORMAT})", hint
        )
        return None
    context = Context(project)
    spoken_for = {(fault.file, fault.line, fault.column) for fault in document.faults}
    for place in missing_values(document):
        document.add(place, "has no value", "add a value, or remove the key")
        spoken_for.add(document.position(place))
    spoken_for |= {document.position(place) for place in document.unresolved}
    shape: Written | None = None
    try:
        shape = Written.model_validate(data, context=context)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            fault = fault_of(cast(dict[str, Any], detail), document, context)
            if (fault.file, fault.line, fault.column) not in spoken_for:
                document.faults.append(fault)
    check_cross_rules(document, data)
    _cycle(document, data, image.name, path, project)
    if shape is None or document.faults:
        return None
    definition = make_definition(shape, path, project, image)
    playbooks = [step for step in (*definition.steps, *definition.refresh.steps) if isinstance(step, PlaybookStep)]
    document.faults.extend(fault for step in playbooks for fault in config_of(step).faults)
    return definition


# -- masters ------------------------------------------------------------------------------------------------


def _cycle(document: Document, data: dict[str, Any], name: str, path: Path, project: Path) -> None:
    """Follow the masters from here; other files are read for their source only, their faults are their own."""
    chain = [name]
    following = _master_of(data)
    while following is not None:
        chain.append(following)
        if following in chain[:-1]:
            document.add(("source", "master"), _cycle_message(chain[chain.index(following) :]))
            return
        beside = path.parent / f"{following}.yaml"
        other = beside if beside.is_file() else image_names(project).get(following)
        images = compose(other, project) if other else []
        following = next((_master_of(each.document.data) for each in images if each.name == following), None)


def _cycle_message(chain: Sequence[str]) -> str:
    return f"the masters form a cycle: {' -> '.join(chain)}"


def _master_of(data: object) -> str | None:
    """The image whose channel this begins with. A numbered version exists already and cannot close a cycle."""
    source = data.get("source") if isinstance(data, dict) else None
    master = source.get("master") if isinstance(source, dict) else None
    if not isinstance(master, str):
        return None
    image, _, reference = master.partition("@")
    if not IMAGE_NAME.fullmatch(image) or (reference or "golden") not in rules.CHANNELS:
        return None
    return image
