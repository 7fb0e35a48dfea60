"""Arguments that the verbs of `vm` share, the fleet, and the check for root."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import GoldsmithError
from pipeline.cli import completion
from pipeline.cli.build import need_root
from pipeline.cli.environment import locate_store
from pipeline.cli.usage import VerbGroup, json_option

if TYPE_CHECKING:
    from pipeline.instances.endpoints import Outcome
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record

Name = Annotated[str, typer.Argument(metavar="NAME", help="The VM.", autocompletion=completion.complete_vm)]
AsJson = Annotated[bool, json_option()]
Force = Annotated[bool, typer.Option("--force", help="Cut its power; data that the guest has not written is lost.")]
#: The caller's own public keys, best first (ssh(1)).
_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


#: The VMs that the verb of this process has opened: their endpoints are brought up to date when it ends.
_opened: list[Fleet] = []


def open_fleet(verb: str, noun: str = "vm ") -> Fleet:
    """The VMs of the store. Raises HostError (root-needed) for a user who is not root."""
    from pipeline.instances.fleet import Fleet

    need_root(f"{noun}{verb}", "virtual machines, their networks and their disks belong to root")
    fleet = Fleet(locate_store().ensure())
    _opened.append(fleet)
    return fleet


class FleetGroup(VerbGroup):
    """Verbs of VMs. After each of them, also after one that failed, endpoints lead to the VMs that there are then."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        finally:
            while _opened:
                align(_opened.pop())


def align(fleet: Fleet) -> list[Outcome]:
    """Bring the endpoints of the store up to date. What was mended, and what cannot be, is printed on stderr."""
    if not fleet.store.endpoints.is_dir():
        return []
    from pipeline.cli.show import print_error
    from pipeline.instances.endpoints import align_endpoints

    try:
        outcomes = align_endpoints(fleet)
    except GoldsmithError as error:
        print_error(error)
        return []
    for each in outcomes:
        if each.mended is not None:
            print(f"endpoint {each.endpoint.name}: {each.mended}", file=sys.stderr)
        if each.error is not None:
            print(f"endpoint {each.endpoint.name} is not served:", file=sys.stderr)
            print_error(each.error)
    return outcomes


def caller_home() -> Path:
    """The caller's home folder, also under sudo."""
    caller = os.environ.get("SUDO_USER")
    if caller:
        try:
            return Path(pwd.getpwnam(caller).pw_dir)
        except KeyError:
            return Path.home()
    return Path.home()


def caller_keys() -> list[Path]:
    """The caller's existing public keys."""
    return [path for name in _KEYS if (path := caller_home() / ".ssh" / name).is_file()]


def say(name: str, text: str) -> None:
    """What a VM does, as a line; with --events as an event."""
    from pipeline.cli import events

    stream = events.current()
    if stream is None:
        print(f"{name}: {text}", flush=True)
    else:
        stream.emit("vm", vm=name, text=text)


def end_events(fleet: Fleet, names: list[str], **more: object) -> None:
    """With --events, the result: the VMs as `vm show --json` has them, and more."""
    from pipeline.cli import events
    from pipeline.cli.vm.listing import to_json

    stream = events.current()
    if stream is not None:
        records = [fleet.instances.get(name) for name in names]
        vms = [to_json(fleet, record, fleet.look(record)) for record in records]
        stream.emit("result", document={"vms": vms, **more})


def print_password(record: Record, password: str) -> None:
    """Print a new random password of a VM's user."""
    print(f"{record.name}: the password of {record.user} is {password} (shown only once, stored nowhere)", flush=True)
