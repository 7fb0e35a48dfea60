"""`goldsmith vm create`."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.base.errors import GoldsmithError, UsageError
from pipeline.cli import completion, events
from pipeline.cli.events import events_option
from pipeline.cli.hooks import notifying
from pipeline.cli.show import print_error, print_json
from pipeline.cli.vm.deployment import deploy
from pipeline.cli.vm.disk import Caching
from pipeline.cli.vm.option_values import (
    choose_size,
    read_certificate,
    read_data,
    read_os_disk_size,
    read_public_key,
    read_resource_size,
)
from pipeline.cli.vm.options import Name, align, end_events, open_fleet, print_password, say

if TYPE_CHECKING:
    from pipeline.base.store import Store
    from pipeline.instances.fleet import Fleet
    from pipeline.instances.record import Record
    from pipeline.operations.create import Creation, Wishes
    from pipeline.operations.sets import Domains


def register(noun: typer.Typer) -> None:
    noun.command("create")(create)
    noun.command("wait")(wait)


def create(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]", help="The VM's name, which is also its host name (with --template: the template's)."
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            "--image",
            metavar="IMAGE[@VERSION|CHANNEL]",
            help="The master from which the VM is created (default: with --template the template's, else required).",
            autocompletion=completion.complete_reference,
        ),
    ] = "",
    template: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--template",
            metavar="FILE",
            help="An ARM template whose VMs are created, such as a version's template.json (default: none).",
        ),
    ] = None,
    parameters: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--parameters", metavar="FILE", help="The values of the template's parameters (default: none)."),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            "--size",
            metavar="SIZE",
            help="The name of an Azure size, such as Standard_B1s (default: the machine of the master's definition).",
        ),
    ] = "",
    cpus: Annotated[
        int | None,
        typer.Option("--cpus", min=1, max=64, metavar="N", help="The number of processors (default: by --size)."),
    ] = None,
    memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--memory", metavar="SIZE", help="The memory: 2G, 512M (default: by --size)."),
    ] = None,
    admin_user: Annotated[
        str, typer.Option("--admin-user", metavar="USER", help="The user that the guest creates.")
    ] = "azureuser",
    ssh_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--ssh-key", metavar="FILE", help="The user's public SSH key (default: yours in ~/.ssh)."),
    ] = None,
    custom_data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--custom-data",
            metavar="FILE",
            help="Custom data, such as a #cloud-config, at most 64 KiB (default: none).",
        ),
    ] = None,
    user_data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--user-data", metavar="FILE", help="User data in the metadata service, at most 64 KiB (default: none)."
        ),
    ] = None,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="A certificate with its private key, PEM or PKCS#12, that the VM's agent gets (default: none).",
        ),
    ] = None,
    generation: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--generation", min=1, max=2, metavar="1|2", help="1 is BIOS, 2 is UEFI (default: the master's newest)."
        ),
    ] = None,
    secure_boot: Annotated[
        bool, typer.Option("--secure-boot", help="Use Secure Boot with enrolled keys, and a TPM.")
    ] = False,
    network: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--network",
            metavar="NETWORK",
            help="A private network, whose VMs reach each other, also by name (default: none).",
        ),
    ] = None,
    outside: Annotated[
        bool,
        typer.Option("--outside", help="Allow outbound network access, as for builds; this host stays unreachable."),
    ] = False,
    os_disk_caching: Annotated[
        Caching, typer.Option("--os-disk-caching", help="How this host caches the OS disk (see vm disk attach).")
    ] = Caching.READ_WRITE,
    os_disk_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--os-disk-size",
            metavar="SIZE",
            help="The OS disk: 32G, at least the master's; the guest grows its root (default: the master's).",
        ),
    ] = None,
    resource_disk: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--resource-disk",
            metavar="SIZE",
            help="The temporary disk: a size, such as '4 GiB', or none (default: by --size, else 1 GiB).",
        ),
    ] = None,
    count: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--count",
            min=1,
            max=100,
            metavar="N",
            help="The number of VMs: NAME-0, NAME-1, ... (default: one VM called NAME).",
        ),
    ] = None,
    in_set: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="SET",
            help="The set that the VMs join; a set that does not exist is made (default: none).",
            autocompletion=completion.complete_set,
        ),
    ] = "",
    fault_domains: Annotated[
        int | None,
        typer.Option(
            "--fault-domains",
            min=1,
            max=3,
            metavar="N",
            help="The number of fault domains of a new set (default: 2).",
        ),
    ] = None,
    update_domains: Annotated[
        int | None,
        typer.Option(
            "--update-domains",
            min=1,
            max=20,
            metavar="N",
            help="The number of update domains of a new set (default: 5).",
        ),
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return at once; goldsmith vm wait NAME waits for the VM.")
    ] = False,
    _as_events: Annotated[bool, events_option()] = False,
) -> None:
    """Create a VM from a master and wait until its own agent has reported Ready.

    A VM whose provisioning fails is kept, so that you can examine it.

    Examples:
      goldsmith vm create web --image debian-13-web
      goldsmith vm create db --image debian-13 --size Standard_B1s --network lan
      goldsmith vm create web --image debian-13-web --set shop --count 2
      goldsmith vm create --template template.json --parameters web.json
    """
    fleet = open_fleet("create")
    from pipeline.operations.create import Wishes
    from pipeline.operations.sets import Domains

    if template is not None:
        others = [size, cpus, memory, ssh_key, custom_data, user_data, generation, network, resource_disk, count]
        others += [certificate, os_disk_size, in_set, fault_domains, update_domains]
        if name or image or secure_boot or outside or any(each not in ("", None) for each in others):
            raise UsageError(
                "--template cannot be combined with NAME, --image and the options of a VM",
                name="usage",
                hint="give the parameters vmName and imageVersion in the file of --parameters",
            )
        made, outputs = deploy(fleet, template, parameters, partial(create_all, no_wait=no_wait))
        if outputs and events.current() is None:
            print_json(outputs)
        end_events(fleet, made, outputs=outputs)
        return
    if not name or not image:
        raise UsageError(
            "a VM needs a NAME and --image, or --template",
            name="usage",
            hint="goldsmith vm create NAME --image IMAGE; goldsmith gallery list shows all images",
        )

    wishes = Wishes(
        name=name,
        image=image,
        user=admin_user,
        public_key=read_public_key(ssh_key),
        size=choose_size(size, cpus, memory),
        custom_data=read_data(custom_data),
        user_data=read_data(user_data),
        certificate=read_certificate(certificate),
        generation=generation,
        secure=secure_boot,
        network=network,
        outside=outside,
        os_caching=os_disk_caching,
        os_disk_size=read_os_disk_size(os_disk_size),
        resource_size=read_resource_size(resource_disk),
        set=in_set or None,
    )
    names = [name] if count is None else [f"{name}-{number}" for number in range(count)]
    wanted = [replace(wishes, name=each) for each in names]
    if in_set:
        create_in_set(fleet, wishes, wanted, Domains(fault_domains, update_domains), no_wait=no_wait)
        end_events(fleet, names)
        return
    if fault_domains is not None or update_domains is not None:
        raise UsageError(
            "--fault-domains and --update-domains need --set",
            name="usage",
            hint="use --set SET, or leave both options out",
        )
    create_all(fleet, wanted, no_wait=no_wait)
    end_events(fleet, names)


def create_in_set(fleet: Fleet, wishes: Wishes, wanted: list[Wishes], domains: Domains, *, no_wait: bool) -> None:
    """Create VMs in the set of `wishes`, which is made if there is none. If no VM could be made, no set is left."""
    from pipeline.operations.sets import drop_empty_set, ensure_set

    assert wishes.set is not None
    made = ensure_set(fleet, wishes.set, wishes, domains)
    try:
        create_all(fleet, wanted, no_wait=no_wait)
    except BaseException:
        if made:
            drop_empty_set(fleet, wishes.set)
        raise


def create_all(fleet: Fleet, wanted: list[Wishes], *, no_wait: bool) -> None:
    """Create VMs one after the other, and wait for all of them together. A VM that fails does not stop the others."""
    cancelled = threading.Event()
    errors: list[BaseException] = []
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        waits: list[Future[None]] = []
        try:
            for wishes in wanted:
                try:
                    waits += _begin(fleet, wishes, pool, cancelled, no_wait=no_wait)
                except GoldsmithError as error:
                    errors.append(error)
                    break  # an error of space or of a name would occur for the next VM, too
            errors += [failure for wait in waits if (failure := wait.exception()) is not None]
        except BaseException:
            cancelled.set()
            raise
    for other in errors[1:]:
        if not isinstance(other, GoldsmithError):
            raise other
        print_error(other)
    if errors:
        raise errors[0]


def _begin(
    fleet: Fleet, wishes: Wishes, pool: ThreadPoolExecutor, cancelled: threading.Event, *, no_wait: bool
) -> list[Future[None]]:
    """Power a new VM on, and wait for it in `pool`; with `no_wait` a separate process waits."""
    from pipeline.operations.create import begin, forget, leave_to_waiter

    began = time.monotonic()
    creation = begin(fleet, wishes)
    if not no_wait:
        return [pool.submit(finish, fleet.store, creation, began, cancelled)]
    forget(fleet, wishes.name, creation.operation)
    leave_to_waiter(fleet, wishes.name)
    say(wishes.name, f"Starting (provisioning); goldsmith vm wait {wishes.name} waits until it is ready")
    _show_password(creation)
    return []


def finish(store: Store, creation: Creation, began: float, cancelled: threading.Event) -> None:
    """Wait until a VM whose first boot has begun is ready, and print how to reach it. `began`: monotonic seconds."""
    from pipeline.instances.fleet import Fleet
    from pipeline.operations.create import forget, wait_ready

    name = creation.record.name
    # before the wait: whoever examines a VM that fails, or interrupts this command, needs it
    _show_password(creation)
    try:
        with notifying("vm", name):
            record = wait_ready(store, name, creation.operation, lambda text: say(name, text), cancelled)
    finally:
        forget(Fleet(store), name, creation.operation)
    align(Fleet(store))
    _say_running(store, record, time.monotonic() - began)
    if creation.password is None:
        say(name, f"goldsmith vm ssh {name}")


def _say_running(store: Store, record: Record, seconds: float) -> None:
    from pipeline.fabric import service

    link = service.read_link(store, record.id)
    say(record.name, f"Running after {seconds:.0f} s{f', {link.address}' if link is not None else ''}, {record.user}")


def _show_password(creation: Creation) -> None:
    if creation.password is not None:
        print_password(creation.record, creation.password)


def wait(name: Name, _as_events: Annotated[bool, events_option()] = False) -> None:
    """Wait until a VM's own agent has reported Ready.

    Example:
      goldsmith vm wait web
    """
    from pipeline.operations.create import wait_ready

    fleet = open_fleet("wait")
    fleet.keep_fabric()
    record = fleet.refresh(fleet.instances.get(name)) or fleet.instances.get(name)
    if record.provisioned is None:
        began = time.monotonic()
        with notifying("vm", name):
            record = wait_ready(fleet.store, name, None, lambda text: say(name, text), threading.Event())
        _say_running(fleet.store, record, time.monotonic() - began)
    else:
        say(name, f"its agent reported Ready at {record.provisioned}")
    end_events(fleet, [name])
