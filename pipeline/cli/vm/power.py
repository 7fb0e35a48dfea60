"""`goldsmith vm start`, `stop`, `restart`, `deallocate`, `delete`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.errors import UsageError
from pipeline.cli.removals import count_of
from pipeline.cli.vm.options import Force, Name, open_fleet, print_password

if TYPE_CHECKING:
    from pipeline.operations.start import Started


def register(noun: typer.Typer) -> None:
    for verb in (start, stop, restart, deallocate, redeploy, delete):
        noun.command(verb.__name__)(verb)


def start(
    name: Name,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Start even a generalized VM, to see that it cannot be used.")
    ] = False,
) -> None:
    """Start a VM that is stopped or deallocated, or let a paused VM run on.

    Example:
      goldsmith vm start web
    """
    from pipeline.operations.start import start as start_vm

    started = start_vm(open_fleet("start"), name, anyway=anyway)
    print(f"{name}: Running")
    _print_password(started)
    if started.record.generalized:
        print(
            f"{name}: it is generalized: it has no identity, no user and no medium to provision it, so nobody can "
            f"sign in; goldsmith vm screenshot {name} shows where it waits"
        )


def stop(name: Name, force: Force = False) -> None:
    """Switch a VM off. Its processors, memory and address stay reserved; `goldsmith vm deallocate` releases them.

    Example:
      goldsmith vm stop web
    """
    from pipeline.operations.stop import stop as stop_vm

    record = stop_vm(open_fleet("stop"), name, force=force)
    slot = f"{count_of(record.cpus, 'processor')}, {record.memory >> 20} MiB and its address"
    print(f"{name}: Stopped; {slot} stay reserved: goldsmith vm deallocate {name} gives them back")


def restart(name: Name, force: Force = False) -> None:
    """Switch a VM off and on again.

    Example:
      goldsmith vm restart web
    """
    from pipeline.operations.stop import restart as restart_vm

    started = restart_vm(open_fleet("restart"), name, force=force)
    print(f"{name}: Running")
    _print_password(started)


def deallocate(name: Name, force: Force = False) -> None:
    """Switch a VM off and release its processors, memory and address. Its disks stay.

    Example:
      goldsmith vm deallocate web
    """
    from pipeline.operations.stop import deallocate as deallocate_vm

    deallocate_vm(open_fleet("deallocate"), name, force=force)
    print(f"{name}: Stopped (deallocated)")


def redeploy(name: Name, force: Force = False) -> None:
    """Move a VM to other hardware: deallocate it and start it again. Its resource disk is a new one.

    Example:
      goldsmith vm redeploy web
    """
    from pipeline.operations.redeploy import redeploy as redeploy_vm

    started = redeploy_vm(open_fleet("redeploy"), name, force=force)
    print(f"{name}: Running; its resource disk is new")
    _print_password(started)


def _print_password(started: Started) -> None:
    """A VM that was never provisioned has a new password. Its guest keeps the first one that it has read."""
    if started.password is not None:
        print_password(started.record, started.password)
        name = started.record.name
        print(f"{name}: if its first boot had begun before, the password shown then may be the valid one")


def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, and stop a running VM first.")] = False,
) -> None:
    """Delete a VM with its disks. Its master may be deleted again; attached disks stay.

    Example:
      goldsmith vm delete web
    """
    from pipeline.operations.delete import delete as delete_vm
    from pipeline.operations.delete import refuse_running

    fleet = open_fleet("delete")
    fleet.instances.get(name)
    if not yes:
        refuse_running(fleet, name)
        _ask(name)
    delete_vm(fleet, name, running=yes)
    print(f"{name}: deleted")


def _ask(name: str) -> None:
    """Ask the user at the terminal. Raises UsageError (vm-delete-unconfirmed) if there is no terminal."""
    hint = f"goldsmith vm delete {name} --yes"
    if not sys.stdin.isatty():
        raise UsageError(f"deleting {name} deletes its disks, too", name="vm-delete-unconfirmed", hint=hint)
    if not confirm(f"delete {name} with its disks? [y/N] "):
        raise UsageError(f"{name} was not deleted", name="vm-delete-unconfirmed", hint=hint)


def confirm(question: str) -> bool:
    """Whether the user says yes to a question. Without a terminal nobody is asked, and the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(question, end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
