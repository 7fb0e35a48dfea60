"""The hooks of the project or of the host: the site after a refresh, messages of failures."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import GoldsmithError, Interrupted, UsageError
from pipeline.cli import context
from pipeline.cli.environment import locate_store

if TYPE_CHECKING:
    from pipeline.hooks.declared import Event, Hooks
    from pipeline.hooks.notify import Failure

#: The hooks of a host, where the project has none: VMs are created from any folder.
OF_HOST = Path("/etc/goldsmith/hooks.yaml")


def find_hooks() -> Path:
    """The file of hooks: GOLDSMITH_HOOKS, else the project's, else the host's."""
    if named := os.environ.get("GOLDSMITH_HOOKS"):
        return Path(named).absolute()
    try:
        # where it is declared; nothing else is loaded for it
        own = context.project() / "hooks.yaml"
    except UsageError:
        return OF_HOST
    return own if own.is_file() else OF_HOST


def load_hooks() -> Hooks | None:
    """The declared hooks, None if there is no file. Raises DefinitionError."""
    path = find_hooks()
    if not path.is_file():
        return None
    from pipeline.hooks.declared import read_hooks

    return read_hooks(path)


def notify(event: Event, failures: Sequence[Failure]) -> None:
    """Send a message of these failures. What goes wrong with it is a warning on stderr."""
    from pipeline.base.surroundings import variables
    from pipeline.hooks.notify import send

    try:
        hooks = load_hooks()
    except GoldsmithError as error:
        _warn(f"{find_hooks()} cannot be used, so nobody is notified: {error.message}")
        return
    if hooks is not None:
        for trouble in send(event, failures, hooks, locate_store().runs, variables()):
            _warn(trouble)


@contextmanager
def notifying(event: Event, subject: str, *, also_usage: bool = False) -> Iterator[None]:
    """Notify of an error that ends what is inside. Of wrong usage only with `also_usage`: its user sees it at once,
    but nobody looks at a night.
    """
    try:
        yield
    except GoldsmithError as error:
        from pipeline.hooks.notify import Failure

        silent = isinstance(error, Interrupted) or error.name == "cancelled"
        if not silent and (also_usage or not isinstance(error, UsageError)):
            notify(event, [Failure.of(subject, error)])
        raise


def write_declared_site() -> None:
    """Write the gallery's site if hooks declare one. What goes wrong with it is a warning on stderr."""
    try:
        hooks = load_hooks()
        if hooks is None or hooks.site is None:
            return
        from pipeline.evidence.site import write_site
        from pipeline.evidence.site_data import collect

        write_site(collect(locate_store()), hooks.site, hooks.metrics, link=hooks.link_pages)
    except (GoldsmithError, OSError) as error:
        _warn(f"the gallery's site was not written: {error}")


def _warn(text: str) -> None:
    from pipeline.base.printable import single_line

    print(f"goldsmith: {single_line(text)}", file=sys.stderr)
