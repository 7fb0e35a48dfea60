"""The help of every verb: an example, the default and the unit of each option that has one, sections at the root."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import typer

from pipeline.cli.app import app
from pipeline.cli.usage import RootGroup

ROOT: Any = typer.main.get_command(app)
#: What a number of an option counts, or the choice that it is.
UNIT = re.compile(r"\b(number of|port|hours?|seconds?|bytes|MiB|GiB|1 is BIOS)\b")
#: An example of a size, which has a unit: 20G, '8 GiB'.
SIZE = re.compile(r"\b\d+ ?(G|M|GiB|MiB)\b")


def verbs(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb that help shows, with the words that name it."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        words = (*path, name)
        if hasattr(command, "commands"):
            yield from verbs(command, words)
        else:
            yield words, command


VERBS = [pytest.param(words, command, id=" ".join(words)) for words, command in verbs()]


def examples(command: Any) -> list[str]:
    _, _, text = (command.help or "").partition("\b\nExample")
    return [line.strip() for line in text.splitlines()[1:]]


def shown_params(command: Any) -> list[Any]:
    return [each for each in command.params if not getattr(each, "hidden", False) and each.name != "help"]


def faults(command: Any) -> list[str]:
    """What the help of a verb does not say of its arguments and options."""
    context = typer.Context(command)
    hints = get_type_hints(inspect.unwrap(command.callback))
    found = []
    for each in shown_params(command):
        record = each.get_help_record(context)
        text = record[1] if record else ""
        name = each.opts[0]
        if not each.help:
            found.append(f"{name}: no help")
        if each.param_type_name != "option" or getattr(each, "is_flag", False):
            continue
        optional = not each.required and not each.multiple
        if optional and "default: " not in text:
            found.append(f"{name}: no default")
        kinds = {hints[each.name], *get_args(hints[each.name])}
        if kinds & {int, float, list[int]} and not UNIT.search(text):
            found.append(f"{name}: no unit")
        if each.metavar == "SIZE" and not (SIZE.search(text) or "Azure size" in text):
            found.append(f"{name}: no size with its unit")
    return found


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_every_verb_has_an_example_that_it_takes(words: tuple[str, ...], command: Any) -> None:
    lines = examples(command)
    assert lines, "its docstring needs a paragraph that begins with `Example:`"
    names = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    for line in lines:
        first, *rest = shlex.split(line.partition(" > ")[0])
        assert first == "goldsmith", line
        # `vhd apply` and `vhd merge` are one verb with two names, and have one help
        assert rest[: len(words) - 1] == [*words[:-1]]
        assert rest[len(words) - 1] == words[-1] or {rest[1], words[1]} == {"apply", "merge"}, line
        options = [word for word in rest[len(words) :] if word.startswith("--")]
        assert set(options) <= names, line


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_options_have_their_default_and_their_unit(words: tuple[str, ...], command: Any) -> None:
    assert faults(command) == []


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_examples_are_printed_as_they_are(words: tuple[str, ...], command: Any) -> None:
    shown = command.get_help(typer.Context(command, terminal_width=80)).splitlines()
    assert [line for line in examples(command) if f"    {line}" not in shown] == []


def test_the_root_has_every_verb_in_one_section() -> None:
    listed = [verb for section in RootGroup.sections.values() for verb in section]
    assert sorted(listed) == sorted(name for name, command in ROOT.commands.items() if not command.hidden)
    assert list(RootGroup.sections) == ["Build", "Look", "Gallery", "VMs", "Disks", "Host"]
    text = ROOT.get_help(typer.Context(ROOT))
    assert [line[:-1] for line in text.splitlines() if line[:-1] in RootGroup.sections] == list(RootGroup.sections)


def sample(
    hours: int = typer.Option(1, "--hours", show_default=False, help="Ends then."),
    size: str = typer.Option("", "--size", metavar="SIZE", help="How much (default: all)."),
) -> None:
    """Do it."""


def test_the_judge_of_help_judges() -> None:
    judged = typer.Typer(add_completion=False)
    judged.command()(sample)
    command: Any = typer.main.get_command(judged)
    assert faults(command) == ["--hours: no default", "--hours: no unit", "--size: no size with its unit"]
    assert examples(command) == []
