"""validate, schema, init: the verbs for definitions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion
from pipeline.cli.context import project, project_option
from pipeline.cli.usage import json_option, keep_stdout_for, set_option

if TYPE_CHECKING:
    from pipeline.definition import Composed, Definition, Fault


class Format(StrEnum):
    """How `validate` prints faults."""

    LINES = "lines"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"
    SARIF = "sarif"


def register(app: typer.Typer) -> None:
    """Add the verbs to the root command."""
    app.command()(validate)
    app.command()(schema)
    app.command()(init)


def validate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|PATH]...",
            help="Names or files of definitions (default: all).",
            autocompletion=completion.complete_definition,
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print a list of objects instead of lines.")] = False,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            metavar="lines|json|github|gitlab|sarif",
            callback=keep_stdout_for(lambda value: value is not Format.LINES),
            help="How faults are printed: lines for VS Code and pre-commit, json as --json, or what GitHub, GitLab "
            "or a reader of SARIF reads (default: lines).",
        ),
    ] = Format.LINES,
    show: Annotated[
        bool, typer.Option("--show", help="Print each definition as merged, with the place of each value.")
    ] = False,
    _settings: Annotated[Optional[list[str]], set_option()] = None,  # noqa: UP045
) -> None:
    """Check definitions and report all errors at once, as file:line:column: key: message (hint).

    Examples:
      goldsmith validate
      goldsmith validate shop --show
      goldsmith validate --format sarif > goldsmith.sarif
    """
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json, print_text
    from pipeline.definition import DefinitionError, definition_files, project_faults
    from pipeline.definition.fault_formats import FORMATS
    from pipeline.engine.preconditions import check_preconditions
    from pipeline.guest.playbook_check import check_playbooks

    form = Format.JSON if as_json else form
    targets = [_target(name) for name in names or ()]
    if not names:
        targets = [(path, project(), None) for path in definition_files(project())]
        _require_known_settings()
    faults: list[Fault] = [] if names else project_faults(project())
    files = [_read(*target) for target in targets]
    # Ansible is started once for all playbooks
    of_playbooks = check_playbooks([each for file in files for each in file.whole_steps], locate_store())
    left_out = {file.path: file.left_out for file in files}
    good = [each for file in files for each in file.good]
    of_needs = check_preconditions(good, locate_store(), left_out, _print_note)
    verdicts: list[dict[str, object]] = []
    for file in files:
        # one message for each place is enough
        places = {(fault.file, fault.line, fault.column) for fault in file.faults}
        needs = [
            fault for fault in of_needs.get(file.path, ()) if (fault.file, fault.line, fault.column) not in places
        ]
        found = (*_sorted((*file.faults, *needs), file.shown), *of_playbooks.get(file.path, ()))
        faults.extend(found)
        verdicts.append(file.verdict(found, show=show))
        if form is Format.LINES:
            _print_file(file, good=not found, show=show)
    faults = list(dict.fromkeys(faults))
    if form is Format.JSON:
        print_json(verdicts)
    elif form is not Format.LINES:
        found = FORMATS[form.value](faults)
        (print_text if isinstance(found, str) else print_json)(found)
    elif not targets:
        typer.echo(f"no definitions in {project() / 'images'}")
    if faults:
        raise DefinitionError(faults)


def find_faults(path: Path, folder: Path) -> list[Fault]:
    """The faults of a definition of the project in `folder`, as `validate` reports them."""
    from pipeline.cli.environment import locate_store
    from pipeline.engine.preconditions import check_preconditions
    from pipeline.guest.playbook_check import check_playbooks

    file, store = _read(path, folder, None), locate_store()
    of_playbooks = check_playbooks(file.whole_steps, store)
    of_needs = check_preconditions(file.good, store, {file.path: file.left_out}, lambda _note: None)
    return [*file.faults, *of_needs.get(file.path, ()), *of_playbooks.get(file.path, ())]


@dataclass
class _File:
    """One file with its images: their readable parts, and the faults."""

    path: Path
    shown: str
    images: list[Composed]
    faults: list[Fault] = field(default_factory=list)
    good: list[Definition] = field(default_factory=list)
    whole_steps: list[Definition] = field(default_factory=list)
    left_out: frozenset[str] = frozenset()

    def verdict(self, found: Sequence[Fault], *, show: bool) -> dict[str, object]:
        """The file's object in the output of --json."""
        from pipeline.definition import provenance

        names = [image.name for image in self.images]
        verdict: dict[str, object] = {"file": self.shown, "ok": not found, "faults": [asdict(each) for each in found]}
        verdict["images"] = names
        if show:
            verdict["merged"] = {
                image.name: [
                    {"key": key, "value": value, "from": place} for key, value, place in provenance(image.document)
                ]
                for image in self.images
            }
        return verdict


def _read(path: Path, folder: Path, only: str | None) -> _File:
    """Read the images of a file, or only the named one."""
    from pipeline.definition import DefinitionError, compose, load_composed, load_sound_part

    images = [image for image in compose(path.resolve(), folder.resolve()) if only in (None, image.name)]
    file = _File(path.resolve(), _shown(path, folder), images)
    for image in images:
        try:
            definition = load_composed(image, path, folder)
            file.good.append(definition)
            file.whole_steps.append(definition)
        except DefinitionError as error:
            file.faults = list(dict.fromkeys((*file.faults, *error.faults)))
            if part := load_sound_part(path, folder, image):
                file.good.append(part.definition)
                file.left_out |= part.left_out
                if not part.left_out & {"steps", "refresh"}:
                    file.whole_steps.append(part.definition)
    return file


def _sorted(faults: Sequence[Fault], own: str) -> list[Fault]:
    """In the order of the file; faults in other files come last."""
    return sorted(faults, key=lambda fault: (fault.file != own, fault.file, fault.line, fault.column))


def _print_file(file: _File, *, good: bool, show: bool) -> None:
    from pipeline.definition import provenance

    names = [image.name for image in file.images]
    if good:
        count = "1 image" if len(names) == 1 else f"{len(names)} images"
        several = f" ({count}: {', '.join(names)})" if names != [file.path.stem] else ""
        typer.echo(f"{file.shown}: ok{several}")
    if show:
        for image in file.images:
            rows = list(provenance(image.document))
            typer.echo(f"# {image.name}")
            for key, value, place in rows:
                typer.echo(f"{key}: {json.dumps(value, ensure_ascii=False)}  # {place}")


def _require_known_settings() -> None:
    from pipeline.definition import require_known_settings

    require_known_settings(project())


def _print_note(text: str) -> None:
    typer.echo(f"goldsmith: note: {text}", err=True)


def schema(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[WHAT]",
            help="definition, plan (the output of plan --all --json), or events (a line of --events).",
        ),
    ] = "definition",
) -> None:
    """Print a JSON schema: of a definition for editors, of plan --all --json or of --events for programs.

    Examples:
      goldsmith schema
      goldsmith schema plan
    """
    import pipeline.systems.registry  # noqa: F401  the schema names the systems that are registered

    if what not in ("definition", "plan", "events"):
        raise UsageError(
            f"there is no schema of {what}",
            name="usage",
            hint="goldsmith schema definition, goldsmith schema plan, or goldsmith schema events",
        )
    if what == "plan":
        from pipeline.engine.image_plan import plan_schema as make_schema
    elif what == "events":
        from pipeline.cli.events import event_schema as make_schema
    else:
        from pipeline.definition import json_schema as make_schema
    typer.echo(json.dumps(make_schema(), indent=2))


def init(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The name of the new image (default: the folder's name).")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="IMAGE",
            help="Start from this image's golden master (default: from a Debian release).",
            autocompletion=completion.complete_image,
        ),
    ] = None,
    base_old: Annotated[str | None, typer.Option("--from", metavar="IMAGE", hidden=True)] = None,
) -> None:
    """Write a commented definition and its playbook. Existing files are not changed.

    Example:
      goldsmith init shop --base debian-13
    """
    import pipeline.systems.registry  # noqa: F401  the schema names the systems that are registered
    from pipeline.definition.scaffold import write_new

    folder = project_option() or project_or_here()
    written = write_new(folder, name or _name_of_folder(folder), base or base_old)
    typer.echo(f"wrote {', '.join(str(path.relative_to(folder.resolve())) for path in written)}")


def _name_of_folder(folder: Path) -> str:
    """The name of the project's folder, in lower case. Raises UsageError if it is not a valid image name."""
    from pipeline.base.errors import UsageError
    from pipeline.base.store import IMAGE_NAME

    name = folder.resolve().name.lower()
    if not IMAGE_NAME.fullmatch(name):
        message = f"the name of the folder {folder.resolve()} is not a valid image name"
        raise UsageError(message, name="image-name", hint="name the image: goldsmith init NAME")
    return name


def project_or_here() -> Path:
    """The project, or the current folder if there is none yet: init begins a project there."""
    from pipeline.base.errors import UsageError

    try:
        return project()
    except UsageError:
        return Path.cwd()


def _target(name: str) -> tuple[Path, Path, str | None]:
    """The file that an argument names, the project of its relative paths, and the image if there is only one.

    A file in a folder called images belongs to the project around it, unless `--project` says otherwise.
    """
    from pipeline.base.errors import UsageError
    from pipeline.definition import find_definition

    path = Path(name)
    if "/" not in name and path.suffix not in (".yaml", ".yml"):
        folder = project()
        if (folder / "images" / f"{name}.yaml").is_file():
            return folder / "images" / f"{name}.yaml", folder, None
        return find_definition(folder, name), folder, name
    if "/" not in name and not path.exists() and (project() / "images" / name).exists():
        return project() / "images" / name, project(), None
    if not path.is_file():
        raise UsageError(
            f"{name}: this file does not exist", name="no-such-file", hint="name an image or the file of a definition"
        )
    path = path.resolve()
    if project_option() is None and path.parent.name == "images":
        return path, path.parent.parent, None
    try:
        return path, project(), None
    except UsageError:
        return path, path.parent, None


def _shown(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
