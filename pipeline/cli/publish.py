"""`goldsmith publish`: publish versions to a storage container or a folder."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.printable import listed
from pipeline.cli import completion, events
from pipeline.cli.environment import locate_store
from pipeline.cli.events import events_option
from pipeline.cli.gallery.options import ConnectionFrom, KeyFrom, SasFrom
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from pipeline.publish.credentials import Credential
    from pipeline.publish.push import Pushed
    from pipeline.publish.targets import Target
    from pipeline.publish.uploader import Plan

Reference = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@VERSION|CHANNEL]",
        help="The version to publish (default: the golden version).",
        autocompletion=completion.complete_reference,
    ),
]
TargetWord = Annotated[
    str, typer.Argument(metavar="TARGET", help="The URL of a container, a name of publish.yaml, or a folder.")
]
KeepDays = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--keep-days",
        min=1,
        metavar="DAYS",
        help="In an Azure gallery: the number of days until the version's end of life (default: no end of life).",
    ),
]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(
        help="Publish golden masters to Azure storage or a folder.",
        no_args_is_help=True,
        rich_markup_mode=None,
        cls=VerbGroup,
    )
    noun.command("push")(push)
    noun.command("show")(show)
    noun.command("template")(template)
    noun.command("verify")(verify)
    noun.command("clean")(clean)
    app.add_typer(noun, name="publish")


def push(
    reference: Reference,
    target: TargetWord,
    key_from: KeyFrom = None,
    sas_from: SasFrom = None,
    connection_from: ConnectionFrom = None,
    parallel: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--parallel",
            min=1,
            max=8,
            metavar="N",
            help="The number of requests at once (default: 4, or the target's own).",
        ),
    ] = None,
    bandwidth: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--bandwidth",
            metavar="SIZE",
            help="The maximum number of bytes a second, such as 20M (default: the target's own, or no limit).",
        ),
    ] = None,
    no_read_back: Annotated[
        bool, typer.Option("--no-read-back", help="Do not read back the written blocks.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read back the whole disk, also the blocks that the server copied.")
    ] = False,
    keep_days: KeepDays = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    as_json: Annotated[bool, json_option()] = False,
    _as_events: Annotated[bool, events_option()] = False,
) -> None:
    """Publish a version: as a difference from the newest version on the target, or whole if there is none.

    Examples:
      goldsmith publish push debian-13 /srv/images
      goldsmith publish push shop west --bandwidth 20M
    """
    from dataclasses import replace

    from pipeline.base.surroundings import variables
    from pipeline.cli.context import to_bytes
    from pipeline.cli.gallery.options import evidence_judge
    from pipeline.cli.hooks import notifying
    from pipeline.cli.show import print_json
    from pipeline.gallery import Gallery
    from pipeline.publish.page_blob import Options
    from pipeline.publish.push import push as send

    found = chosen_target(target, key_from, sas_from, connection_from)
    found = replace(
        found,
        parallel=parallel or found.parallel,
        rate=to_bytes(bandwidth) if bandwidth is not None else found.rate,
    )
    store = locate_store()
    version = Gallery(store.gallery).get(reference)
    store.ensure()
    stream = events.current()
    line = ProgressLine(quiet=as_json and stream is None)
    try:
        with notifying("publish", f"{version.name} {version.version} to {target}"):
            pushed = send(
                store,
                version,
                found,
                variables(),
                options=Options(found.parallel, not no_read_back, verify),
                judge=evidence_judge([]),
                dry_run=dry_run,
                keep_days=keep_days,
                on_plan=(lambda _plan: None) if as_json else print_plan,
                on_progress=line,
            )
    finally:
        line.close()
    if stream is not None:
        stream.emit("result", document=pushed.to_json())
    elif as_json:
        print_json(pushed.to_json())
    elif not dry_run:
        print_pushed(pushed)


@contextmanager
def received_version(
    word: str, published: str | None, key: str | None, sas: str | None, connection: str | None
) -> Iterator[Path]:
    """The folder of an exported version, or of a version that is received from a target. Raises UsageError."""
    from pipeline.base.errors import UsageError
    from pipeline.base.surroundings import variables
    from pipeline.publish.receive import is_published, received

    is_url = word.startswith(("http://", "https://"))
    if is_url and word.split("?", maxsplit=1)[0].endswith((".vhd", ".vhdx", ".qcow2", ".vmdk")):
        raise UsageError(
            "the URL names a single disk, not a target of goldsmith publish",
            name="no-parcel",
            hint="download the disk, then import it: goldsmith capture DISK --as NAME",
        )
    if not is_url and published is None and not is_published(Path(word)):
        yield Path(word)
        return
    line = ProgressLine(quiet=False)
    found = chosen_target(word, key, sas, connection)
    try:
        with received(found, published, variables(), locate_store().tmp, line) as exported:
            yield exported
    finally:
        line.close()


def chosen_target(word: str, key: str | None, sas: str | None, connection: str | None) -> Target:
    """The target that the command line names. Raises UsageError."""
    from pipeline.publish.targets import find_target

    credential = _credential(key, sas, connection)
    if word.startswith(("http://", "https://", "/", "./", "../")):
        return find_target(word, {}, credential)
    return find_target(word, _declared(), credential)


def _declared() -> dict[str, Target]:
    """The targets that the project declares; none where there is no project."""
    from pipeline.base.errors import UsageError
    from pipeline.cli.context import project, project_option
    from pipeline.publish.declared import declared_targets

    try:
        folder = project()
    except UsageError:
        if project_option() is not None:
            raise
        return {}
    return declared_targets(folder)


def _credential(key: str | None, sas: str | None, connection: str | None) -> Credential | None:
    from pipeline.base.errors import UsageError
    from pipeline.publish.credentials import Credential, Kind, parse_source

    options: list[tuple[Kind, str | None]] = [("key", key), ("sas", sas), ("connection-string", connection)]
    given = [(kind, text) for kind, text in options if text is not None]
    if len(given) > 1:
        raise UsageError(
            "more than one credential is given",
            name="usage",
            hint="use only one of --key-from, --sas-from and --connection-string-from",
        )
    return Credential(given[0][0], parse_source(given[0][1])) if given else None


def show(
    image: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    target: TargetWord,
    key_from: KeyFrom = None,
    sas_from: SasFrom = None,
    connection_from: ConnectionFrom = None,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Show the published versions of an image: their disks and the copy trail of each blob.

    Example:
      goldsmith publish show debian-13 /srv/images
    """
    from pipeline.base.surroundings import variables
    from pipeline.cli.show import print_json, size, table
    from pipeline.publish.published import look

    found = look(image, chosen_target(target, key_from, sas_from, connection_from), variables())
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["version"] + (" (newest)" if each["version"] == found["newest"] else ""),
            disk["file"],
            size(disk["size"]),
            disk["state"],
            f"copied from {disk['base']}" if disk["base"] else "whole",
            each["published"],
        )
        for each in found["versions"]
        for disk in each["disks"]
    ]
    table(rows, ("version", "disk", "size", "state", "sent", "published"), empty=f"nothing of {image} is published")


def template(
    reference: Reference,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An Azure gallery of publish.yaml.")],
    as_bicep: Annotated[bool, typer.Option("--bicep", help="Print a Bicep file, not an ARM template.")] = False,
    keep_days: KeepDays = None,
) -> None:
    """Print an ARM template of a gallery's image definitions and version. It is not compiled and not deployed.

    Example:
      goldsmith publish template debian-13 fleet --bicep
    """
    from pipeline.base.errors import UsageError
    from pipeline.gallery import Gallery
    from pipeline.publish.deployment_template import arm, bicep

    found = chosen_target(target, None, None, None)
    if found.gallery is None:
        raise UsageError(
            f"{found.shown} is not an Azure gallery",
            name="target-kind",
            hint="declare a target with `gallery:` in publish.yaml; see docs/publish.md",
        )
    version = Gallery(locate_store().gallery).get(reference)
    print((bicep if as_bicep else arm)(version, found.gallery, keep_days), end="")


def verify(
    reference: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="The published version (default: all versions).")
    ],
    target: TargetWord,
    key_from: KeyFrom = None,
    sas_from: SasFrom = None,
    connection_from: ConnectionFrom = None,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Read published versions whole and compare them with their digests.

    Example:
      goldsmith publish verify debian-13 west
    """
    from pipeline.base.surroundings import variables
    from pipeline.cli.show import print_json
    from pipeline.publish.errors import PublishError
    from pipeline.publish.published import verify as read

    image, _, which = reference.partition("@")
    found = chosen_target(target, key_from, sas_from, connection_from)
    store, line = locate_store().ensure(), ProgressLine(quiet=as_json)
    try:
        findings = read(image, which or None, found, variables(), store.tmp, line)
    finally:
        line.close()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'BAD' if finding.wrong else 'good':8} {image} {finding.version}  {finding.wrong}".rstrip())
    if bad := [finding.version for finding in findings if finding.wrong]:
        raise PublishError(
            f"{len(bad)} of {len(findings)} published versions of {image} are damaged: {listed(bad)}",
            name="publish-damaged",
            hint="publish another version; readers must not use the damaged one",
        )


def clean(
    target: TargetWord,
    image: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this image (default: all images).")
    ] = None,
    key_from: KeyFrom = None,
    sas_from: SasFrom = None,
    connection_from: ConnectionFrom = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Remove the leftovers of interrupted pushes. Published versions, leased blobs and foreign blobs stay.

    Example:
      goldsmith publish clean west --dry-run
    """
    from pipeline.base.surroundings import variables
    from pipeline.cli.removals import Row, print_removals
    from pipeline.publish.published import clean as sweep

    found = sweep(image, chosen_target(target, key_from, sas_from, connection_from), variables(), dry_run=dry_run)
    rows = [Row("upload", each.folder, each.bytes, "no index names it", each.kept) for each in found]
    print_removals(rows, dry=dry_run, as_json=as_json)


class ProgressLine:
    """One line on a terminal that is rewritten; elsewhere a line for each step."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._lock = threading.Lock()

    def __call__(self, what: str, done: int, total: int, rate: float) -> None:
        from pipeline.cli import door
        from pipeline.cli.show import size

        if self._quiet:
            return
        if (stream := events.current()) is not None:
            stream.transfer(what, done, total, rate)
            return
        with self._lock:
            if self._live:
                rest = f", {max(0, total - done) / rate:.0f} s left" if rate > 1 and total else ""
                text = f"{what}: {size(done)} of {size(total)}, {size(int(rate))}/s{rest}" if total else what
                # a line that is as wide as the terminal would wrap, and the next could not be written over it
                width = max(10, shutil.get_terminal_size().columns - 1)
                shown = text if len(text) <= width else f"{text[: width - 1]}\u2026"
                print(f"{door.own(chr(13), sys.stderr)}{shown:{width}}", end="", file=sys.stderr, flush=True)
            elif what != self._shown and total:
                print(f"{what}: {size(total)}", file=sys.stderr, flush=True)
            self._shown = what

    def close(self) -> None:
        if self._live and self._shown:
            print(file=sys.stderr)


def print_plan(plan: Plan) -> None:
    from pipeline.cli.show import size

    if plan.published:
        print(f"{plan.name} {plan.version} is published already")
    for disk in plan.disks:
        how = f"difference from {disk.base}" if disk.base else f"whole, because {disk.why}"
        cleared = f", {size(disk.cleared)} cleared" if disk.cleared else ""
        print(f"{disk.file}  {size(disk.bytes)} of {size(disk.size)} to send{cleared}: {how}")


def print_pushed(pushed: Pushed) -> None:
    from pipeline.cli.show import size

    if pushed.plan.published:
        return
    for disk in pushed.disks:
        planned = next(each for each in pushed.plan.disks if each.file == disk.file)
        if planned.base and not disk.base:
            print(f"{disk.file}  was sent whole, because {disk.why}")
        if disk.resumed:
            print(f"{disk.file}  {size(disk.resumed)} had been sent before")
    print(
        f"published {pushed.plan.name} {pushed.plan.version}: {size(pushed.sent)} sent, "
        f"{size(pushed.received)} read back, {pushed.seconds:.1f} s"
    )
    print(f"  {pushed.url}/{pushed.plan.folder}")
