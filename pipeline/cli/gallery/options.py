"""Arguments and options that the gallery's verbs share, the gallery, and the judge of its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.cli import completion
from pipeline.cli.environment import locate_store, signing_key
from pipeline.cli.usage import json_option

if TYPE_CHECKING:
    from pipeline.gallery import Gallery
    from pipeline.gallery.integrity import Judge

Reference = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@VERSION|CHANNEL]",
        help="The version (default: the golden version).",
        autocompletion=completion.complete_reference,
    ),
]
Image = Annotated[str, typer.Argument(metavar="NAME", help="The image.", autocompletion=completion.complete_image)]
SomeNames = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        metavar="NAME...", help="Only these images (default: all).", autocompletion=completion.complete_image
    ),
]
AsJson = Annotated[bool, json_option()]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")]
Keys = Annotated[
    list[Path],
    typer.Option(
        "--key",
        metavar="FILE",
        help="A trusted public key; masters without its signature count as damaged; repeatable.",
    ),
]
Repository = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--archive", metavar="FOLDER", help="The archive's folder (default: `archive` in the store)."),
]
AllowUnsigned = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Accept a master without a trusted signature; it is shown as unsigned."),
]
KeyFrom = Annotated[
    Optional[str],  # noqa: UP045  typer reads this at run time
    typer.Option(
        "--key-from",
        metavar="SOURCE",
        help="Use an account key from file:PATH, env:NAME or command:WORDS (default: Azure's login chain).",
    ),
]
SasFrom = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--sas-from",
        metavar="SOURCE",
        help="Use a shared access signature (SAS) from file:PATH, env:NAME or command:WORDS (default: none).",
    ),
]
ConnectionFrom = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--connection-string-from",
        metavar="SOURCE",
        help="Use a connection string from file:PATH, env:NAME or command:WORDS (default: none).",
    ),
]


def open_gallery() -> Gallery:
    """The gallery of the store."""
    from pipeline.gallery import Gallery

    return Gallery(locate_store().gallery)


def evidence_judge(keys: list[Path], *, arriving: bool = False, admit: str | None = None) -> Judge:
    """The judge of a master's evidence by the trusted keys: the given ones, else those beside this host's own key.

    Masters that this host makes, and `arriving` ones, must be signed, except the master whose manifest has the digest
    `admit`.
    """
    from functools import partial

    from pipeline.evidence import signing, unsigned
    from pipeline.evidence.verification import judge

    key = signing_key()
    trusted = keys or signing.trusted(key)
    demanded = bool(keys) or arriving or signing.signs(key)
    admitted = (
        set() if keys or not demanded else set(unsigned.admitted(unsigned.register_beside(key), open_gallery()))
    )
    if admit is not None:
        admitted.add(admit)
    return partial(judge, keys=[signing.load_public(path) for path in trusted], demanded=demanded, admitted=admitted)
