"""`goldsmith vm ssh`: SSH access to a VM."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base import process
from pipeline.base.errors import UsageError
from pipeline.cli.vm.options import Name, caller_keys, open_fleet

if TYPE_CHECKING:
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record

#: Seconds to reach a guest's port.
REACH = 30.0


def register(noun: typer.Typer) -> None:
    noun.command("ssh", context_settings={"ignore_unknown_options": True})(ssh)
    noun.command("connect", hidden=True)(connect)


def running(fleet: Fleet, name: str) -> Record:
    """A VM that runs. Raises UsageError (vm-not-running)."""
    fleet.keep_fabric()
    record = fleet.instances.get(name)
    if not fleet.is_on(record):
        raise UsageError(f"{name} is not running", name="vm-not-running", hint=f"goldsmith vm start {name} starts it")
    return record


def ssh(
    name: Name,
    command: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[COMMAND]...", help="The command to run in the VM (default: a shell)."),
    ] = None,
    user: Annotated[
        str,
        typer.Option(
            "--user", "-l", metavar="USER", help="The user in the VM (default: the one that the VM was created with)."
        ),
    ] = "",
    identity: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--identity", "-i", metavar="FILE", help="The private key (default: yours in ~/.ssh)."),
    ] = None,
) -> None:
    """Open a shell in a VM, or run a command there, over SSH through the VM's own network.

    Examples:
      goldsmith vm ssh web
      goldsmith vm ssh web systemctl status nginx
    """
    fleet = open_fleet("ssh")
    record = running(fleet, name)
    wait_for_sshd(fleet, record)
    argv = ssh_argv(fleet, record, user or record.user, identity, command or [])
    # the shell takes this process's place: it must own the terminal
    os.execvp(argv[0], argv)  # noqa: S606


def wait_for_sshd(fleet: Fleet, record: Record) -> None:
    """Wait for the guest's sshd; print a line if that takes time. Raises GuestError (guest-sshd-dead)."""
    from pipeline.fabric import service
    from pipeline.guest.timeouts import Timeouts
    from pipeline.hypervisor import accelerator
    from pipeline.instances.agent import wait_greeting

    verdict = accelerator.choose("auto", fleet.store)
    deadline = Timeouts.for_kind(verdict.kind == "kvm", verdict.slowness).ssh

    def say() -> None:
        print(f"{record.name}: waiting for its sshd", file=sys.stderr, flush=True)

    wait_greeting(service.ensure(fleet.store), record, deadline, say)


def ssh_argv(fleet: Fleet, record: Record, user: str, identity: Path | None, command: list[str]) -> list[str]:
    """The argv of an ssh to a VM. No other machine is on its wire, so the first host key that it shows is trusted."""
    # the same goldsmith, in any current folder
    code = f"PYTHONPATH={process.own_variables()['PYTHONPATH']}"
    way = ["env", code, f"GOLDSMITH_HOME={fleet.store.root}"]
    way += [sys.executable, "-P", "-m", "pipeline", "vm", "connect", record.name, "22"]
    options = {
        "ProxyCommand": shlex.join(way),
        "UserKnownHostsFile": str(fleet.folder(record) / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "accept-new",
        "HostKeyAlias": record.id,
        "LogLevel": "ERROR",
    }
    key = identity or _own_key(record)
    words = [word for option, value in options.items() for word in ("-o", f"{option}={value}")]
    return ["ssh", *words, *(["-i", str(key)] if key else []), f"{user}@{record.name}", *command]


def _own_key(record: Record) -> Path | None:
    """The caller's private key whose public half the VM was made with."""
    wanted = record.public_key.split()[:2]
    for path in caller_keys():
        if path.read_text().split()[:2] == wanted:
            return path.with_suffix("")
    return None


def connect(name: Name, port: Annotated[int, typer.Argument(min=1, max=65535)]) -> None:
    """Connect standard input and output to a port of a VM, as `goldsmith vm ssh` needs it."""
    from pipeline.base.errors import GuestError, Interrupted
    from pipeline.fabric import service
    from pipeline.network.relay import join_stdio

    fleet = open_fleet("connect")
    record = running(fleet, name)
    try:
        link = service.ensure(fleet.store).connect(record.id, port, REACH)
    except OSError as error:
        raise GuestError(
            f"{name} does not answer at port {port}: {error.strerror or error}",
            name="guest-unreachable",
            hint=f"goldsmith vm show {name} says whether its agent has reported Ready",
        ) from None
    # the caller, ssh for example, ends it by a signal when there is nothing more to say
    with link, contextlib.suppress(Interrupted):
        join_stdio(link)
