"""`goldsmith try`: a temporary VM for one look at a master."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import GuestError
from pipeline.cli import completion
from pipeline.cli.vm.access import ssh_argv, wait_for_sshd
from pipeline.cli.vm.options import open_fleet

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.instances.fleet import Fleet


def register(app: typer.Typer) -> None:
    app.command("try", context_settings={"ignore_unknown_options": True})(try_image)


def try_image(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE[@VERSION|CHANNEL]",
            help="The master (default: its golden version).",
            autocompletion=completion.complete_reference,
        ),
    ],
    command: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[COMMAND]...", help="The command to run in the VM (default: a shell)."),
    ] = None,
) -> None:
    """Start a VM from a master, open a shell in it, and delete the VM when the shell ends.

    Examples:
      goldsmith try debian-13
      goldsmith try debian-13 uname -r
    """
    from pipeline.base import process, scratch
    from pipeline.guest.access import tmpfs_root
    from pipeline.operations.delete import delete

    fleet = open_fleet("try", noun="")
    name = f"try-{secrets.token_hex(4)}"
    with scratch.folder(tmpfs_root().parent) as folder:
        key = folder / "key"
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], deadline=30)
        try:
            code = _run(fleet, name, image, key, command or [])
        finally:
            if fleet.instances.find(name) is not None:
                delete(fleet, name, running=True)
                print(f"{name}: deleted", file=sys.stderr)
    if code:
        raise typer.Exit(code)


def _run(fleet: Fleet, name: str, image: str, key: Path, command: list[str]) -> int:
    from pipeline.operations.create import Wishes, begin, wait_ready

    began = time.monotonic()
    public_key = key.with_suffix(".pub").read_text().strip()
    creation = begin(fleet, Wishes(name=name, image=image, user="azureuser", public_key=public_key))
    print(f"{name}: Starting (provisioning)", file=sys.stderr, flush=True)
    try:
        record = wait_ready(fleet.store, name, creation.operation, lambda _text: None, threading.Event())
    except GuestError as error:
        # what the error would show is deleted with the VM
        error.evidence, error.hint = None, f"goldsmith vm create NAME --image {image} keeps such a VM for a look"
        raise
    words = f"Running after {time.monotonic() - began:.0f} s; it is deleted when the shell ends"
    print(f"{name}: {words}", file=sys.stderr, flush=True)
    wait_for_sshd(fleet, record)
    argv = ssh_argv(fleet, record, record.user, key, command)
    return os.spawnvp(os.P_WAIT, argv[0], argv)  # noqa: S606  the terminal is the shell's own
