"""`goldsmith import packer`: a definition from a Packer template."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.cli import completion
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.packer.imported import Imported


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Make definitions from the templates of other tools.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=VerbGroup,
    )
    noun.command("packer")(packer)
    noun.callback()(_nothing)
    app.add_typer(noun, name="import")


def _nothing() -> None:
    """Make definitions from the templates of other tools."""


def packer(
    template: Annotated[
        Path, typer.Argument(metavar="FILE", help="A template: FILE.pkr.hcl, or the older FILE.json.")
    ],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--as", metavar="NAME", help="The name of the image (default: the file's name)."),
    ] = None,
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--source", metavar="TYPE.NAME", help="The source to import (default: the first that goldsmith can turn)."
        ),
    ] = None,
    base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--base",
            metavar="IMAGE",
            help="Begin with this image's golden master (default: with what the template's source names).",
            autocompletion=completion.complete_image,
        ),
    ] = None,
    variables: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--var", metavar="NAME=VALUE", help="A variable of the template; repeatable (default: its own default)."
        ),
    ] = None,
    files: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            "--var-file",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A file of variables, FILE.pkrvars.hcl or FILE.json; repeatable (default: *.auto.pkrvars.hcl).",
        ),
    ] = None,
    root: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--root",
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Also read files below this folder; it is ${path.cwd} (default: the template's folder only).",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the definition.")] = False,
    as_json: Annotated[bool, json_option("Print as JSON what was turned and what was not.")] = False,
) -> None:
    """Make a definition from a Packer template. Nothing of the template is run, and nothing is downloaded.

    The definition passes goldsmith validate. What goldsmith cannot turn is listed, and stands in its comments.

    Examples:
      goldsmith import packer debian.pkr.hcl --as shop
      goldsmith import packer windows_2022.json --base windows-2022 --var edition=core
    """
    from pipeline.base.surroundings import variables as environment
    from pipeline.cli.definitions import project_or_here
    from pipeline.cli.show import print_json
    from pipeline.packer.conversion import choose_build, folder_of, image_name, name_others, read_template, turn
    from pipeline.packer.imported import settle
    from pipeline.packer.template import Settings

    project = project_or_here().resolve()
    folder = folder_of(template, root)
    settings = Settings(_pairs(variables or []), files or [], environment(), datetime.now(UTC), folder)
    read = read_template(template, settings)
    build, others = choose_build(read, source)
    imported = turn(build, name or image_name(build, template), project, folder, base)
    name_others(imported, others, read.notes)
    settle(imported, lambda found: _faults(found, project, template.name))
    written = [] if dry_run else imported.write(project, template.name)
    if as_json:
        print_json(_summary(imported, [str(path.relative_to(project)) for path in written]))
        return
    if dry_run:
        print(imported.text(template.name), end="")
        return
    _print(imported, [str(path.relative_to(project)) for path in written])


def _pairs(words: Sequence[str]) -> dict[str, str]:
    from pipeline.base.errors import UsageError

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--var {word} has no value", name="usage", hint="write --var NAME=VALUE")
        found[name] = value
    return found


def _faults(imported: Imported, project: Path, template: str) -> list[tuple[str, str]]:
    """The faults that goldsmith validate would find: key and message."""
    from pipeline.cli.definitions import find_faults
    from pipeline.packer.staging import staged

    with staged(imported, project, template) as path:
        faults = find_faults(path, path.parent.parent)
    # a fault of a playbook has no key of the definition
    return [
        (key, fault.message)
        for fault in faults
        for key in (imported.keys_of_playbook(fault.file) if fault.file.startswith("playbooks/") else [fault.key])
    ]


def _summary(imported: Imported, written: Sequence[str]) -> dict[str, object]:
    return {
        "image": imported.name,
        "written": list(written),
        "turned": imported.turned,
        "missing": [{"what": each.what, "why": each.why} for each in imported.missing],
        "definition": imported.document,
    }


def _print(imported: Imported, written: Sequence[str]) -> None:
    from pipeline.base.printable import single_line

    for line in imported.turned:
        print(f"turned      {single_line(line)}")
    for each in imported.missing:
        print(f"not turned  {each.what}: {each.why}")
    print(f"wrote {written[0]} and {len(written) - 1} other files" if len(written) > 1 else f"wrote {written[0]}")
