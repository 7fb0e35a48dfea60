"""`goldsmith completion`, and the names that a shell completes: images, versions, channels, runs, stages, targets.

The parser library makes the shells' scripts; a shell asks goldsmith itself for the words. A completion never
fails and never prints an error: what cannot be read has no words.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.errors import GoldsmithError

if TYPE_CHECKING:
    from pipeline.gallery import Gallery

#: The variable with which a shell asks for words; the library derives it from the program's name.
VARIABLE = "_GOLDSMITH_COMPLETE"


#: As the library's script for bash, but bash itself breaks words at @: the words are taken from the line, and of each
#: answer bash gets what is behind the last @.
_BASH = f"""\
_goldsmith_completion() {{
    local IFS=$' \\t' line="${{COMP_LINE:0:COMP_POINT}}" words count current
    read -ra words <<< "$line"
    count=$(( ${{#words[@]}} - 1 ))
    [[ "$line" == *[[:space:]] ]] && count=$(( count + 1 ))
    current="${{words[count]}}"
    IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="$line" COMP_CWORD="$count" {VARIABLE}=complete_bash "$1" ) )
    if [[ "$current" == *@* && "$COMP_WORDBREAKS" == *@* ]]; then
        COMPREPLY=( "${{COMPREPLY[@]#"${{current%@*}}@"}}" )
    fi
    return 0
}}

complete -o default -F _goldsmith_completion goldsmith
"""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    app.command("completion")(completion)


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")],
) -> None:
    """Print the script that completes verbs, options and names in a shell (docs/command-line.md).

    Example:
      goldsmith completion bash > /etc/bash_completion.d/goldsmith
    """
    from typer.completion import shell_complete

    if shell is Shell.BASH:
        print(_BASH, end="")
        return
    enable_completion()
    root = context.find_root()
    shell_complete(root.command, {}, "goldsmith", VARIABLE, f"source_{shell.value}")


def enable_completion() -> None:
    """Make the library know its shells: it does so only where it is to add options of its own to the root command."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def completed_words() -> list[str]:
    """The words before the one that a shell wants completed; empty if no shell asks."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    if VARIABLE not in os.environ or not line:
        return []
    words = line.split()
    return words[1:] if line[-1].isspace() else words[1:-1]


def _project_of_line() -> Path | None:
    """The folder of `--project` in the line that is completed: the root command does not run for a completion."""
    words = completed_words()
    if len(words) > 1 and words[0] == "--project":
        return Path(words[1]).expanduser()
    if words and words[0].startswith("--project="):
        return Path(words[0].partition("=")[2]).expanduser()
    return None


def _quiet(find: Callable[[str], Iterable[str]]) -> Callable[[str], list[str]]:
    """`find` gets the typed text; its words with this beginning are offered, and none if it fails."""

    @functools.wraps(find)
    def complete(incomplete: str) -> list[str]:
        import logging

        # a damaged record is skipped without a word: this is not the place to report it
        logging.getLogger("goldsmith.records").setLevel(logging.CRITICAL)
        try:
            return sorted({word for word in find(incomplete) if word.startswith(incomplete)})
        except (GoldsmithError, OSError):
            return []

    # the library looks at the parameters' names and types to know what to hand over
    complete.__annotations__ = {"incomplete": str, "return": list[str]}
    del complete.__wrapped__
    return complete


@_quiet
def complete_definition(_incomplete: str) -> Iterable[str]:
    """Images of the project."""
    from pipeline.base.project import definition_files, find_project
    from pipeline.cli import context

    project = find_project(context.project_option() or _project_of_line())
    files = definition_files(project)
    # only a file with a matrix must be parsed to know its images, and that doubles the time of the answer
    if not any(b"matrix" in path.read_bytes() for path in files):
        return [path.stem for path in files]
    import pipeline.systems.registry  # noqa: F401  definitions are read by the rules of the systems
    from pipeline.definition import image_names

    return list(image_names(project))


@_quiet
def complete_image(_incomplete: str) -> Iterable[str]:
    """Images of the gallery."""
    from pipeline.base.names import folders
    from pipeline.base.store import IMAGE_NAME
    from pipeline.cli.environment import locate_store

    return folders(locate_store().gallery, IMAGE_NAME)


@_quiet
def complete_reference(incomplete: str) -> Iterable[str]:
    """NAME, and after the @ the image's versions and channels."""
    from pipeline.base.names import VERSION, folders
    from pipeline.base.store import IMAGE_NAME
    from pipeline.cli.environment import locate_store

    gallery = locate_store().gallery
    images = folders(gallery, IMAGE_NAME)
    name, at, _ = incomplete.partition("@")
    if not at:
        return images
    if name not in images:
        return []
    found = (gallery / name).iterdir()
    return [f"{name}@{each.name}" for each in found if VERSION.fullmatch(each.name) or each.is_symlink()]


@_quiet
def complete_channel(_incomplete: str) -> Iterable[str]:
    """Channels of any image."""
    from pipeline.gallery import CANDIDATE, GOLDEN
    from pipeline.gallery.channels import channel_names

    return {GOLDEN, CANDIDATE, *channel_names(_gallery())}


@_quiet
def complete_run(_incomplete: str) -> Iterable[str]:
    from pipeline.base.names import RUN_ID, folders
    from pipeline.cli.environment import locate_store

    return folders(locate_store().runs, RUN_ID)


@_quiet
def complete_vm(_incomplete: str) -> Iterable[str]:
    from pipeline.base.names import INSTANCE_NAME, folders
    from pipeline.cli.environment import locate_store

    return folders(locate_store().instances, INSTANCE_NAME)


@_quiet
def complete_disk(_incomplete: str) -> Iterable[str]:
    from pipeline.base.names import INSTANCE_NAME, folders
    from pipeline.cli.environment import locate_store

    return folders(locate_store().disks, INSTANCE_NAME)


@_quiet
def complete_set(_incomplete: str) -> Iterable[str]:
    from pipeline.base.names import INSTANCE_NAME, folders
    from pipeline.cli.environment import locate_store

    return folders(locate_store().sets, INSTANCE_NAME)


@_quiet
def complete_endpoint(_incomplete: str) -> Iterable[str]:
    from pipeline.base.names import INSTANCE_NAME, folders
    from pipeline.cli.environment import locate_store

    return folders(locate_store().endpoints, INSTANCE_NAME)


@_quiet
def complete_deployment(_incomplete: str) -> Iterable[str]:
    from pipeline.base.names import INSTANCE_NAME, folders
    from pipeline.cli.environment import locate_store

    return folders(locate_store().deployments, INSTANCE_NAME)


@_quiet
def complete_stage(_incomplete: str) -> Iterable[str]:
    from pipeline.stages import STAGE_NAMES

    return STAGE_NAMES


@_quiet
def complete_profile(_incomplete: str) -> Iterable[str]:
    from pipeline.checks import all_checks

    return {profile for check in all_checks(None) for profile in check.profiles}


@_quiet
def complete_target(_incomplete: str) -> Iterable[str]:
    from pipeline.definition import TARGET_GENERATION

    return list(TARGET_GENERATION)


@_quiet
def complete_suite(_incomplete: str) -> Iterable[str]:
    from pipeline.prove.lisa import SUITES

    return list(SUITES)


def _gallery() -> Gallery:
    from pipeline.cli.environment import locate_store
    from pipeline.gallery import Gallery

    return Gallery(locate_store().gallery)
