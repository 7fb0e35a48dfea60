"""`goldsmith prove`: clones of a master, or of any disk, on every machine of the matrix."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import UsageError
from pipeline.cli import completion, context
from pipeline.cli.build import need_root
from pipeline.cli.events import events_option
from pipeline.cli.usage import json_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.cache.layers import Image
    from pipeline.definition import Definition
    from pipeline.systems.inspection import DetectedSystem

#: Ends of names that are disks' and no image's.
DISK_SUFFIXES = (".vhd", ".vhdx", ".qcow2", ".raw", ".img", ".vmdk")


def register(app: typer.Typer) -> None:
    app.command("prove")(prove)


def prove(
    what: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE[@VERSION]|DISK",
            help="A master of the gallery, or the path of a fixed VHD.",
            autocompletion=completion.complete_reference,
        ),
    ],
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            metavar="TARGET",
            help="Test only this target of the matrix; repeatable (default: all targets).",
            autocompletion=completion.complete_target,
        ),
    ] = [],  # noqa: B006  typer wants a list, and nobody changes it
    target_old: Annotated[
        list[str], typer.Option("--cell", metavar="TARGET", hidden=True, autocompletion=completion.complete_target)
    ] = [],  # noqa: B006
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="PROFILE",
            help="For a DISK: test it as the system of this profile (default: as the detected system).",
            autocompletion=completion.complete_profile,
        ),
    ] = "",
    revocation_list: Annotated[
        Path | None,
        typer.Option(
            "--revocation-list",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            resolve_path=True,
            help="A revocation list for targets with Secure Boot: UEFI Forum's DBXUpdate.bin, x64 (default: none).",
        ),
    ] = None,
    suite: Annotated[
        list[str],
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="Run this test suite (lisa) against a clone; repeatable (default: no suite).",
            autocompletion=completion.complete_suite,
        ),
    ] = [],  # noqa: B006
    suite_case: Annotated[
        list[str],
        typer.Option(
            "--suite-case",
            metavar="CASE",
            help="Run only this test case of the --suite; repeatable (default: all its cases).",
        ),
    ] = [],  # noqa: B006
    as_json: Annotated[bool, json_option("Print the results as JSON.")] = False,
    _as_events: Annotated[bool, events_option()] = False,
) -> None:
    """Test a master: start clones on each machine of the test matrix, provisioned by a local Azure fabric.

    Examples:
      goldsmith prove debian-13
      goldsmith prove some.vhd --target gen2
      goldsmith prove debian-13 --suite lisa
    """
    from pipeline.cli import events
    from pipeline.cli.environment import locate_store
    from pipeline.cli.show import follow, print_json
    from pipeline.definition import TARGET_GENERATION
    from pipeline.engine import runner
    from pipeline.prove.lisa import SUITES
    from pipeline.prove.suites import choose_cases, find_suite, need_installed
    from pipeline.stages.prove import Prove, prove_whole

    targets = [*target, *target_old]
    unknown = [name for name in targets if name not in TARGET_GENERATION]
    if unknown:
        hint = f"targets: {', '.join(TARGET_GENERATION)}"
        raise UsageError(f"there is no test target {unknown[0]}", name="usage", hint=hint)
    suites = [find_suite(SUITES, name) for name in suite]
    if suite_case and len(suites) != 1:
        hint = "name one suite: --suite lisa --suite-case verify_grub"
        raise UsageError("--suite-case is for one test suite", name="usage", hint=hint)
    need_root("prove")
    store = locate_store()
    for each in suites:
        need_installed(store, each)
    suites = [choose_cases(store, each, suite_case) for each in suites]
    subject = _subject(what, profile or None)
    definition, name, master, held = subject.definition, subject.name, subject.master, subject.held
    if subject.system is not None and not as_json:
        print(f"detected: {subject.system}")
    stream = events.current()
    progress = follow(image=name)
    try:
        # the clones use this file: it must not be pruned meanwhile
        with held:
            run = runner.run_alone(
                Prove(),
                definition,
                name,
                store,
                lambda build: prove_whole(build, master, targets, revocation_list, suites),
                title=", ".join((*targets, *suite)) or "all targets",
                command=" ".join(["goldsmith", *sys.argv[1:]]),
                listeners=[] if as_json and stream is None else [progress],
            )
    finally:
        progress.close()
    clones = run.record["stages"][-1]["cells"]
    if as_json or stream is not None:
        system = {} if subject.system is None else {"detected": subject.system.to_json()}
        document = {name: {**seen, **system} for name, seen in clones.items()}
        if stream is not None:
            stream.emit("result", document=document)
        else:
            print_json(document)
        return
    _print(clones)
    print(f"{name} passed all tests; screenshots, serial logs and the fabric's records are in {run.folder / 'prove'}")


def is_disk(what: str) -> bool:
    """Whether the word is a path rather than a master: versions and images have dots in their names too."""
    path = Path(what)
    return "/" in what or path.is_file() or ("@" not in what and path.suffix.lower() in DISK_SUFFIXES)


@dataclass(frozen=True)
class _Subject:
    """The disk under test and its definition; a disk file has none. `held` protects it meanwhile.

    `system` is the system found on a disk file, None for a master.
    """

    definition: Definition
    name: str
    master: Image
    held: AbstractContextManager[None]
    system: DetectedSystem | None = None


def _subject(what: str, profile: str | None) -> _Subject:
    from pipeline.cli.environment import locate_store
    from pipeline.definition import load_named
    from pipeline.gallery import Gallery
    from pipeline.gallery.retention import leased

    if is_disk(what):
        return _disk(Path(what).absolute(), profile)
    if profile is not None:
        raise UsageError(
            "--profile is for a disk", name="usage", hint=f"{what} is tested by its definition; leave --profile out"
        )
    gallery = Gallery(locate_store().gallery)
    version = gallery.get(what)
    definition = load_named(context.project(), version.name)
    named = f"{version.name} {version.version}"
    return _Subject(definition, named, version.image, leased(gallery, version, "a proof"))


def _disk(path: Path, profile: str | None) -> _Subject:
    from pipeline.base.disk_format import known_format
    from pipeline.cache.layers import Image
    from pipeline.definition.conversion import make_definition
    from pipeline.definition.rules import Context
    from pipeline.definition.schema_models import Written
    from pipeline.disk.mapping import disk_format
    from pipeline.systems.questions import detect_system

    if not path.is_file():
        raise UsageError(f"{path} is not a file", name="disk-missing", hint="name an image or the path of a disk")
    found = disk_format(path)
    row = known_format(found)
    if not row.is_output:
        raise UsageError(
            f"{path.name} is a {found} disk, but only a fixed VHD can be tested",
            name="disk-format",
            hint=f"goldsmith vhd convert {path.name} OUT.vhd",
        )
    size = row.verify(path)
    system = detect_system(path, row.key, profile=profile)
    # with the defaults of its system, as a definition that names nothing but the disk
    source = {"disk": {"path": str(path), "format": "vhd"}}
    words = {"goldsmith": 1, "os": system.os, "source": source, "generalize": {"agent": "outside"}}
    definition = make_definition(Written.model_validate(words, context=Context(path.parent)), path, path.parent)
    image = Image(path, row, size=size)
    return _Subject(definition, path.name, image, nullcontext(), system)


def _print(clones: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each clone, then what it showed."""
    from pipeline.cli.show import table
    from pipeline.prove.matrix import UNPROVEN

    def took(seen: Mapping[str, Any], what: str) -> str:
        return f"{seen['seconds'][what]:.0f} s" if what in seen["seconds"] else "-"

    whens = ("ready", "ssh", "second boot", "reimage")
    table([(name, *(took(seen, when) for when in whens)) for name, seen in clones.items()], ("clone", *whens))
    for name, seen in clones.items():
        print(f"\n{name}")
        width = max(16, *map(len, seen["checks"]))
        for what, value in seen["checks"].items():
            print(f"  {what:{width}} {value}")
        for what, picture in seen.get("pages", {}).items():
            print(f"  {'picture':{width}} {what}: {picture}")
        for suite, found in seen.get("suites", {}).items():
            _print_suite(suite, found)
    print("\nnot tested here")
    for what, checks in UNPROVEN.items():
        print(f"  {what}: see the checks {', '.join(checks)}")


def _print_suite(name: str, found: Mapping[str, Any]) -> None:
    """Each case of a test suite, with why it was skipped or why its failure was expected."""
    from pipeline.base.printable import single_line
    from pipeline.cli.show import table

    print(f"\n{name} {found['version']}")
    rows = [
        (
            case["name"],
            case["status"],
            f"{case['seconds']:.0f} s",
            single_line(case["reason"] or case["message"], 160),
        )
        for case in found["cases"]
    ]
    table(rows, ("case", "result", "time", "reason"))
