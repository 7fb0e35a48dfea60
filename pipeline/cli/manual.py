"""`goldsmith man`: the manual pages, made from the help of each command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base.errors import HostError

_EXIT_CODES = (
    ("0", "done"),
    ("1", "a check, a gate or a comparison failed, or the gallery has no such thing"),
    ("2", "wrong usage or a wrong definition"),
    ("3", "this host cannot do the work"),
    ("4", "the build or its guest failed"),
    ("5", "publishing failed"),
    ("130, 141, 143", "interrupted"),
)


def register(app: typer.Typer) -> None:
    app.command("man")(man)


def man(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the pages are written; it is made.")],
) -> None:
    """Write the manual pages of all commands, made from their help: goldsmith.1, goldsmith-build.1 and so on.

    Example:
      goldsmith man /usr/local/share/man/man1
    """
    from pipeline.cli.app import app

    # the root of this call has no verb but this
    root: Any = typer.main.get_command(app)
    pages = {name: page(command, name, parent) for name, command, parent in commands(root, "goldsmith", context)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (folder / f"{name.replace(' ', '-')}.1").write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"cannot write {error.filename}: {error.strerror}",
            name="cannot-write",
            hint="name a writable folder: goldsmith man FOLDER",
        ) from error
    print(f"{len(pages)} pages in {folder}")


def commands(command: Any, name: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    """A command and all below it that the help lists: name, command, and the parser's context."""
    if command.hidden:
        return
    context = command.context_class(command, info_name=name.rpartition(" ")[2], parent=parent)
    yield name, command, context
    for word, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, f"{name} {word}", context)


def page(command: Any, name: str, context: Any) -> str:
    """A manual page in the man macros of troff."""
    title = name.replace(" ", "-")
    summary, *paragraphs = [each.strip("\n") for each in (command.help or "").replace("\b", "").split("\n\n")]
    out = [
        f'.TH "{_quote(title.upper())}" 1 "" goldsmith goldsmith',
        ".SH NAME",
        f"{_text(title)} \\- {_text(' '.join(summary.split()).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_text(name)}",
        _text(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        _text(" ".join(summary.split())),
    ]
    for paragraph in paragraphs:
        if paragraph.strip().startswith(("Example:", "Examples:")):
            lines = paragraph.strip().splitlines()[1:]
            out += [".SH EXAMPLES", ".nf", *(_text(line.strip()) for line in lines), ".fi"]
        else:
            out += [".PP", _text(" ".join(paragraph.split()))]
    out += _records(command, context)
    below = [(word, inner) for word, inner in sorted(getattr(command, "commands", {}).items()) if not inner.hidden]
    if below:
        out.append(".SH COMMANDS")
        for word, inner in below:
            # the whole first sentence, as the help of the group has it
            first = " ".join((inner.help or "").replace("\b", "").split("\n\n")[0].split())
            out += [".TP", f".BR {_text(f'{title}-{word}')} (1)", _text(first)]
    out += [".SH EXIT STATUS"]
    for code, meaning in _EXIT_CODES:
        out += [".TP", f".B {_text(code)}", _text(meaning)]
    return "\n".join(out) + "\n"


def _records(command: Any, context: Any) -> list[str]:
    """Arguments and options with their help."""
    sections: dict[str, list[str]] = {"ARGUMENTS": [], "OPTIONS": []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        section = sections["ARGUMENTS" if parameter.param_type_name == "argument" else "OPTIONS"]
        section += [".TP", f".B {_text(record[0])}", _text(" ".join(record[1].split()))]
    return [line for title, lines in sections.items() if lines for line in (f".SH {title}", *lines)]


def _text(text: str) -> str:
    """A line of text that troff prints as it is: no escape, no request, and hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\t", " ")
    return f"\\&{text}" if text.startswith((".", "'")) else text or "\\&"


def _quote(text: str) -> str:
    return _text(text).replace('"', '""')
