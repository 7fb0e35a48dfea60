"""The parser's errors in goldsmith's form, help texts that are not cut, and `--json`, which keeps stdout clean."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from pipeline.base import surroundings
from pipeline.base.errors import UsageError
from pipeline.base.file_errors import describe_os_error
from pipeline.cli import door

#: The help options of every verb, and the width of help texts.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


#: The parser's message about a file or folder that may not be read.
_UNREADABLE = re.compile(r"ath '(?P<path>.+)' is not readable", re.DOTALL)


#: The start of the paragraph of examples in a verb's docstring, one command on each line.
_EXAMPLES = re.compile(r"^Examples?:$", re.MULTILINE)
#: A paragraph of help that begins with this line is printed as it is: the parser does not join its lines.
_AS_IT_IS = "\b"


class VerbGroup(TyperGroup):
    """A group of verbs. Its list has the whole first paragraph of each; examples are printed as written."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for verb in self.commands.values():
            text = verb.help or ""
            verb.short_help = verb.short_help or " ".join(text.split("\n\n")[0].split())
            if _AS_IT_IS not in text:
                verb.help = _EXAMPLES.sub(lambda found: f"{_AS_IT_IS}\n{found[0]}", text) or None


class RootGroup(VerbGroup):
    """The root command: its verbs are listed in sections."""

    #: The sections of the root's help, and their verbs in order.
    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Build": ("init", "import", "validate", "plan", "build", "refresh", "capture", "prove", "schema"),
        "Look": ("inspect", "checks", "iso", "runs", "shell"),
        "Gallery": ("gallery", "publish", "key"),
        "VMs": ("vm", "set", "endpoint", "deploy", "try", "serve"),
        "Disks": ("disk", "vhd"),
        "Host": ("doctor", "suite", "clean", "completion", "man", "help"),
    }

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; a test holds that each verb is in a section."""
        widest = max(map(len, self.list_commands(ctx)))
        for title, verbs in self.sections.items():
            rows = [
                (f"{verb:{widest}}", self.commands[verb].short_help or "") for verb in verbs if verb in self.commands
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def json_option(text: str = "Print JSON.") -> Any:
    """The option `--json`: one JSON document on stdout, and everything else on stderr."""
    return typer.Option("--json", callback=_keep_stdout_clean, help=text)


def set_option() -> Any:
    """The option `--set NAME=VALUE`, which may be given several times: parameters of definitions."""
    return typer.Option(
        "--set",
        metavar="NAME=VALUE",
        callback=_hand_in_settings,
        help="Set a parameter of the definitions, such as suite=trixie; repeatable (default: as defined).",
    )


def _hand_in_settings(context: typer.Context, words: list[str] | None) -> list[str]:
    settings: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {word} has no value", name="usage", hint="write --set NAME=VALUE")
        if name in settings:
            raise UsageError(f"--set {name} is given twice", name="usage", hint=f"remove one --set {name}=...")
        settings[name] = value
    if not context.resilient_parsing:
        surroundings.hand_in_settings(settings)
    return list(words or [])


def _keep_stdout_clean(context: typer.Context, value: bool) -> bool:
    if value and not context.resilient_parsing:
        context.with_resource(door.document_only())
    return value


def keep_stdout_for(is_document: Callable[[Any], bool]) -> Callable[[typer.Context, Any], Any]:
    """The callback of an option: for the values that ask for a document, stdout has nothing but the document."""

    def keep(context: typer.Context, value: Any) -> Any:
        if is_document(value) and not context.resilient_parsing:
            context.with_resource(door.document_only())
        return value

    return keep


def unreadable_input(error: OSError) -> UsageError:
    """The error for an input that this user may not read: it names the owner, and has the exit code of unreadable
    inputs.
    """
    named = describe_os_error(error)
    return UsageError(named.message, name=named.name, hint=named.hint)


def describe_usage_error(error: Exception) -> UsageError | None:
    """The parser's error as ours; None for an error that is not the parser's.

    The parser's classes are the bundled ones or click's own, by the version of typer; both know `format_message`.
    """
    format_message = getattr(error, "format_message", None)
    if not callable(format_message):
        return None
    message = str(format_message()).strip()
    if found := _UNREADABLE.search(message):
        return unreadable_input(PermissionError(errno.EACCES, os.strerror(errno.EACCES), found["path"]))
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "goldsmith"
    return UsageError(message[:1].lower() + message[1:], name="usage", hint=f"{where} --help")
