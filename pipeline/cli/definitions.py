"""validate, schema, init: the verbs for definitions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.context import project, project_option
from pipeline.cli.usage import json_option

if TYPE_CHECKING:
    from pipeline.definition import Fault


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
            help="Names or files of definitions; by default all.",
            autocompletion=completion.complete_definition,
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print a list of objects instead of lines.")] = False,
) -> None:
    """Check definitions and report all errors at once, as file:line:column: key: message (hint)."""
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import print_json
    from pipeline.definition import DefinitionError, definition_files, load, load_sound_part
    from pipeline.engine.preconditions import check_preconditions
    from pipeline.guest.playbook_check import check_playbooks

    targets = (
        [_target(name) for name in names] if names else [(path, project()) for path in definition_files(project())]
    )
    faults: list[Fault] = []
    verdicts: list[dict[str, object]] = []
    judged: list[tuple[Path, Path, tuple[Fault, ...]]] = []
    good, whole_steps = [], []
    left_out: dict[Path, frozenset[str]] = {}
    for path, folder in targets:
        try:
            good.append(load(path, folder))
            whole_steps.append(good[-1])
            judged.append((path, folder, ()))
        except DefinitionError as error:
            judged.append((path, folder, error.faults))
            if part := load_sound_part(path, folder):
                good.append(part.definition)
                left_out[part.definition.path] = part.left_out
                if not part.left_out & {"steps", "refresh"}:
                    whole_steps.append(part.definition)
    # Ansible is started once for all playbooks
    of_playbooks = check_playbooks(whole_steps, locate_store())
    of_needs = check_preconditions(good, locate_store(), left_out, _print_note)
    for path, folder, own in judged:
        # one message for each place is enough
        places = {(fault.line, fault.column) for fault in own}
        needs = (fault for fault in of_needs.get(path.resolve(), ()) if (fault.line, fault.column) not in places)
        of_file = sorted((*own, *needs), key=lambda fault: (fault.line, fault.column))
        found = (*of_file, *of_playbooks.get(path.resolve(), ()))
        shown = _shown(path, folder)
        faults.extend(found)
        verdicts.append({"file": shown, "ok": not found, "faults": [asdict(fault) for fault in found]})
        if not found and not as_json:
            typer.echo(f"{shown}: ok")
    if as_json:
        print_json(verdicts)
    elif not targets:
        typer.echo(f"no definitions in {project() / 'images'}")
    if faults:
        raise DefinitionError(list(dict.fromkeys(faults)))


def _print_note(text: str) -> None:
    typer.echo(f"goldsmith: note: {text}", err=True)


def schema() -> None:
    """Print the JSON schema of a definition, for editors."""
    import pipeline.systems.registry  # noqa: F401  the schema names the systems that are registered
    from pipeline.definition import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def init(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The name of the new image; by default the folder's name.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="IMAGE",
            help="Start from this image's golden master.",
            autocompletion=completion.complete_image,
        ),
    ] = None,
    base_old: Annotated[str | None, typer.Option("--from", metavar="IMAGE", hidden=True)] = None,
) -> None:
    """Write a commented definition and its playbook. Existing files are not changed."""
    from pipeline.definition.scaffold import write_new

    folder = project_option() or _project_or_here()
    written = write_new(folder, name or _name_of_folder(folder), base or base_old)
    typer.echo(f"wrote {', '.join(str(path.relative_to(folder.resolve())) for path in written)}")


def _name_of_folder(folder: Path) -> str:
    """The name of the project's folder, in lower case. Raises UsageError where no image can have it."""
    from pipeline.base.errors import UsageError
    from pipeline.base.store import IMAGE_NAME

    name = folder.resolve().name.lower()
    if not IMAGE_NAME.fullmatch(name):
        message = f"the name of the folder {folder.resolve()} is not a valid image name"
        raise UsageError(message, name="image-name", hint="name the image: goldsmith init NAME")
    return name


def _project_or_here() -> Path:
    """The project, or where there is none yet the current folder: init begins one."""
    from pipeline.base.errors import UsageError

    try:
        return project()
    except UsageError:
        return Path.cwd()


def _target(name: str) -> tuple[Path, Path]:
    """The file that an argument means, and the project that its paths are relative to.

    A file in a folder called images belongs to the project around it, unless `--project` says otherwise.
    """
    from pipeline.base.errors import UsageError
    from pipeline.definition import load_named

    path = Path(name)
    if "/" not in name and path.suffix not in (".yaml", ".yml"):
        folder = project()
        if not (folder / "images" / f"{name}.yaml").is_file():
            load_named(folder, name)  # raises, with a near name
        return folder / "images" / f"{name}.yaml", folder
    if "/" not in name and not path.exists() and (project() / "images" / name).exists():
        return project() / "images" / name, project()
    if not path.is_file():
        raise UsageError(
            f"{name}: this file does not exist", name="no-such-file", hint="name an image or the file of a definition"
        )
    path = path.resolve()
    if project_option() is None and path.parent.name == "images":
        return path, path.parent.parent
    try:
        return path, project()
    except UsageError:
        return path, path.parent


def _shown(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
