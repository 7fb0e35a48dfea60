"""Create a VM from a master: its record and disks, its place on the fabric, its first boot until it reports Ready."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.base import process
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, HostError, UsageError
from pipeline.base.names import INSTANCE_NAME
from pipeline.base.runs import now
from pipeline.base.store import Store
from pipeline.fabric import service
from pipeline.fabric.launch import write_medium
from pipeline.gallery import Gallery, Version
from pipeline.gallery.master import reading
from pipeline.gallery.retention import lease_to_instance, withdrawn
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor.machine import Machine
from pipeline.hypervisor.persistent import find_domain
from pipeline.instances.agent import ServiceRecord, greets
from pipeline.instances.budget import Demand
from pipeline.instances.disks import create_disks, disk_size, os_disk_size
from pipeline.instances.fleet import CERTIFICATE, CUSTOM_DATA, USER_DATA, Fleet
from pipeline.instances.power import spec_of, switch_on
from pipeline.instances.record import Operation, Record, check_name, new_id
from pipeline.instances.sizes import Size
from pipeline.operations.certificates import wait_certificate
from pipeline.systems import registry
from pipeline.systems.base import AwaitedBoot, GuestSystem

#: The largest custom data and user data that Azure accepts, in bytes.
#: https://learn.microsoft.com/azure/virtual-machines/custom-data
LARGEST_DATA = 64 << 10
#: Called with a line of progress.
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """The user's wishes for a new VM. `generation` None: the newest that the master boots on; `size` None: the
    master's own machine."""

    name: str
    image: str
    user: str
    public_key: str = ""
    size: Size | None = None
    custom_data: bytes = b""
    user_data: bytes = b""
    #: The PEM of its certificate with the private key, as `read_certificate` gives it.
    certificate: bytes = field(default=b"", repr=False)
    generation: int | None = None
    secure: bool = False
    network: str | None = None
    outside: bool = False
    os_caching: str = "ReadWrite"
    #: Bytes of the OS disk; None: those of the master's.
    os_disk_size: int | None = None
    #: Bytes of the resource disk; None: that of the size.
    resource_size: int | None = None
    #: The set that the VM joins.
    set: str | None = None


def is_public_key(text: str) -> bool:
    """Whether a text is the line of an SSH public key (sshd(8), AUTHORIZED_KEYS)."""
    return text.startswith(("ssh-", "ecdsa-", "sk-")) and "\n" not in text and len(text.split()) >= 2


def system_of(record: Record) -> GuestSystem:
    """The operating system of an instance."""
    return registry.get(record.system)


# ---- what is checked before anything is made ---------------------------------------------------------------------


def choose_master(gallery: Gallery, reference: str) -> Version:
    """The master that a VM is made from. Raises NotFound (gallery-unknown), CheckFailed (image-withdrawn),
    UsageError (disk-missing) where its disk was archived."""
    version = gallery.get(reference)
    gone = withdrawn(gallery, version.name)
    if version.version in gone:
        raise CheckFailed(
            f"{version.name} {version.version} was withdrawn: {gone[version.version]}",
            name="image-withdrawn",
            hint=f"goldsmith gallery list {version.name} shows the others; goldsmith gallery promote accepts it",
        )
    with reading(version):
        if missing := version.missing():
            raise UsageError(
                f"{version.name} {version.version} has no {missing[0]} here",
                name="disk-missing",
                hint=f"goldsmith gallery restore {version.name}@{version.version} restores it from the archive",
            )
    return version


def plan(fleet: Fleet, wishes: Wishes) -> tuple[Record, Version]:
    """The record of a new VM that does not exist yet. Raises an error for wishes that cannot be met."""
    version = choose_master(fleet.gallery, wishes.image)
    system = registry.get(str(version.manifest.get("os", "linux")))
    check_name(wishes.name, system.longest_host_name)
    if wishes.network is not None and not INSTANCE_NAME.fullmatch(wishes.network):
        raise UsageError(
            f"{wishes.network!r} cannot be the name of a network",
            name="network-name",
            hint="lower case letters, digits and hyphens, at most 63, neither first nor last a hyphen",
        )
    if not system.signs_in_by_password and not wishes.public_key:
        raise UsageError(
            "no SSH public key was found for the VM's user",
            name="ssh-key-missing",
            hint="create one with ssh-keygen -t ed25519, or name a public key with --ssh-key FILE",
        )
    generation = wishes.generation or max(version.manifest["generations"])
    if generation not in version.manifest["generations"]:
        made_for = " and ".join(map(str, version.manifest["generations"]))
        raise UsageError(
            f"{version.name} {version.version} was made for generation {made_for}",
            name="generation-unsupported",
            hint=f"leave --generation out; `generations:` of {version.name}'s definition says what it is made for",
        )
    if wishes.secure and generation != 2:
        raise UsageError(
            "Secure Boot needs generation 2", name="generation-unsupported", hint="leave out one of the options"
        )
    _refuse_smaller_disk(version, wishes.os_disk_size)
    if wishes.set is not None:
        fleet.sets.get(wishes.set)
    machine = version.manifest.get("machine") or {"cpus": 1, "memory": 1 << 30}
    size = wishes.size or Size(None, int(machine["cpus"]), int(machine["memory"]))
    record = Record(
        id=new_id(),
        name=wishes.name,
        created=now(),
        host=socket.gethostname(),
        image=version.name,
        version=version.version,
        digest=version.digest,
        system=system.name,
        generation=generation,
        secure=wishes.secure,
        size=size.name,
        cpus=size.cpus,
        memory=size.memory,
        user=wishes.user,
        public_key=wishes.public_key,
        disk_size=disk_size(version, wishes.os_disk_size or 0),
        network=wishes.network,
        outside=wishes.outside,
        os_caching=wishes.os_caching,
        os_disk_size=wishes.os_disk_size or 0,
        resource_size=size.resource if wishes.resource_size is None else wishes.resource_size,
        set=wishes.set,
        operation=Operation.begin("create"),
    )
    return record, version


def _refuse_smaller_disk(version: Version, wanted: int | None) -> None:
    """Raise UsageError (os-disk-too-small) for an OS disk that the master does not fit on."""
    least = os_disk_size(version, 0)
    if wanted is not None and wanted < least:
        raise UsageError(
            f"an OS disk of {_mib(wanted)} MiB is smaller than that of {version.name} {version.version}, which has "
            f"{_mib(least)} MiB",
            name="os-disk-too-small",
            hint=f"use at least {_mib(least)} MiB, or leave the size out",
        )


def _mib(size: int) -> int:
    """Whole MiB, rounded up."""
    return -(-size // (1 << 20))


# ---- making it ---------------------------------------------------------------------------------------------------


@dataclass
class Creation:
    """A VM whose first boot has begun. `password`: the administrator's, if the system's login needs one."""

    record: Record
    password: str | None

    @property
    def operation(self) -> str:
        assert self.record.operation is not None
        return self.record.operation.id


def begin(fleet: Fleet, wishes: Wishes) -> Creation:
    """Make the VM and power it on. Returns before its guest has reported anything.

    Raises UsageError (vm-exists), HostError (vm-no-room) and the errors of `plan`; then no part of the VM is left.
    """
    record, version = plan(fleet, wishes)
    with fleet.instances.hold(record.name):
        if fleet.instances.find(record.name) is not None:
            raise UsageError(
                f"the VM {record.name} exists already",
                name="vm-exists",
                hint=f"choose another name; goldsmith vm show {record.name} shows the existing VM",
            )
        fleet.is_on(record)  # raises where libvirt does not answer: then nothing is begun
        try:
            record = make_at_rest(fleet, record, version, wishes)
            password = launch(fleet, record)
        except BaseException:
            _undo(fleet, record)
            raise
    return Creation(record, password)


def _undo(fleet: Fleet, record: Record) -> None:
    """Delete what there is of a VM whose creation failed; without libvirt the next command carries it to its end."""
    if fleet.instances.find(record.name) is None:
        return
    fleet.instances.save(replace(record, operation=Operation.begin("delete")))
    with contextlib.suppress(BuildError, HostError):
        fleet.destroy(record)


def make_at_rest(fleet: Fleet, record: Record, version: Version, wishes: Wishes) -> Record:
    """Reserve the VM's share of the host; make its record, its lease and its disks. The caller holds the name.

    Raises HostError (vm-no-room).
    """
    record = _reserve(fleet, record, wishes)
    lease_to_instance(fleet.gallery, version, record.id, f"VM {record.name} runs from it")
    disk = create_disks(fleet.folder(record), version, record.os_disk_size)
    return fleet.instances.save(replace(record, disk=disk.to_json()))


def _reserve(fleet: Fleet, record: Record, wishes: Wishes) -> Record:
    """Reserve the VM's resources of the host, deal its domains, and write its record. Returns the record."""
    with fleet.instances.hold_budget():
        fleet.instances.sweep()
        others = fleet.instances.all()
        budget = fleet.measure_budget(others)
        disk = record.disk_size + record.resource_size
        budget.refuse_excess(record.name, Demand(record.cpus, record.memory, disk))
        record = fleet.sets.deal_domains(record, others)
        fleet.instances.add(record, files_of(wishes))
        return record


def files_of(wishes: Wishes) -> dict[str, bytes]:
    """The files that a VM, or a set, has by these wishes."""
    files = {CUSTOM_DATA: wishes.custom_data, USER_DATA: wishes.user_data, CERTIFICATE: wishes.certificate}
    return {name: data for name, data in files.items() if data}


def launch(fleet: Fleet, record: Record) -> str | None:
    """Begin a boot that provisions the VM. Returns the random password, if the system needs one."""
    system = system_of(record)
    password = system.draw_password() if system.signs_in_by_password else None
    link = fleet.attach(record)
    locale = str(fleet.gallery.get(record.reference).manifest.get("locale", "en-US"))
    answers = system.first_boot_answers(link.instance, password, locale)
    write_medium(fleet.make_medium_folder(record), link.instance, password=password, answers=answers)
    service.ensure(fleet.store).begin(record.id)
    switch_on(fleet, record, link, system.machine_features()).leave()
    return password


# ---- until it is ready -------------------------------------------------------------------------------------------


def wait_ready(
    store: Store, name: str, operation: str | None, on_progress: OnProgress, cancelled: threading.Event
) -> Record:
    """Wait until the VM has reported Ready, and eject its medium. Raises GuestError as a proof does; the VM stays.

    `operation` is the id of the creation; None if its command has ended. This function opens its own connection, so
    that several VMs can be waited for at once. Raises BuildError (vm-deleted) where the VM was deleted meanwhile.
    """
    fleet = Fleet(store)
    try:
        record = fleet.instances.get(name)
        machine = adopt(fleet, record, cancelled)
        on_progress("Starting (provisioning)")
        try:
            system_of(record).wait_provisioned(_first_boot(fleet, record, machine, on_progress))
            if fleet.instances.read_file(name, CERTIFICATE):
                on_progress("waiting until its agent has the certificate")
                wait_certificate(store, record, machine)
        except GoldsmithError as error:
            return _fail(fleet, record, operation, error)
        finally:
            machine.leave()
        with fleet.instances.hold(name):
            current = _same(fleet, record)
            if operation is None or (current.operation is not None and current.operation.id == operation):
                current = replace(current, operation=None)
            current = fleet.instances.save(replace(current, provisioned=current.provisioned or now(), failure=None))
            fleet.destroy_medium(current)
        return current
    finally:
        fleet.connection.close()


def adopt(fleet: Fleet, record: Record, cancelled: threading.Event) -> Machine:
    """The machine of a VM that another command started; the caller calls its `leave`. Raises BuildError
    (vm-not-running).
    """
    link = service.read_link(fleet.store, record.id)
    if link is None or find_domain(fleet.connection, record.id) is None:
        raise BuildError(
            f"{record.name} is not running", name="vm-not-running", hint=f"goldsmith vm start {record.name} starts it"
        )
    spec = spec_of(fleet, record, link, system_of(record).machine_features())
    machine = Machine(fleet.connection, spec, fleet.logs(record), cancelled)
    machine.adopt()
    return machine


def _first_boot(fleet: Fleet, record: Record, machine: Machine, on_progress: OnProgress) -> AwaitedBoot:
    running = service.find(fleet.store)
    assert running is not None, "it is registered"
    return AwaitedBoot(
        machine=machine,
        timeouts=Timeouts.for_kind(machine.spec.kvm, machine.spec.slowness),
        guest=ServiceRecord(fleet.store, record.id),
        logs=fleet.logs(record),
        store=fleet.store.root,
        user=record.user,
        greets=lambda: greets(running, record.id),
        dhcp_log=service.log_files(fleet.store, record.id).get("dhcp.log"),
        on_wait=on_progress,
    )


def _same(fleet: Fleet, record: Record) -> Record:
    """The current record. Raises BuildError (vm-deleted) if that VM was deleted."""
    current = fleet.instances.find(record.name)
    if current is None or current.id != record.id:
        raise BuildError(
            f"{record.name} was deleted while it was provisioned",
            name="vm-deleted",
            hint="goldsmith vm list shows all VMs",
        )
    return current


def _fail(fleet: Fleet, record: Record, operation: str | None, error: GoldsmithError) -> Record:
    """Record the error, and raise it. The VM stays unchanged, so that the user can examine it."""
    with fleet.instances.hold(record.name):
        current = _same(fleet, record)
        if isinstance(error, (HostError, UsageError)) or error.name == "cancelled":
            raise error  # nothing is known of the guest
        if operation is None or (current.operation is not None and current.operation.id == operation):
            fleet.fail(current, error)
    error.message = f"{record.name}: {error.message}"
    error.args = (error.message,)
    error.evidence = error.evidence or fleet.logs(record)
    error.hint = error.hint or f"the VM stays for a look: goldsmith vm console {record.name}, vm logs, vm screenshot"
    raise error


def forget(fleet: Fleet, name: str, operation: str) -> None:
    """Remove the creation's operation from the record: its command ends, and the guest continues alone."""
    with fleet.instances.hold(name):
        record = fleet.instances.find(name)
        if record is not None and record.operation is not None and record.operation.id == operation:
            fleet.instances.save(replace(record, operation=None))


def leave_to_waiter(fleet: Fleet, name: str) -> None:
    """Start a process that waits for the VM, and ejects its medium once it is ready."""
    log = fleet.instances.folder(name) / "logs" / "wait.log"
    words = [sys.executable, "-P", "-m", "pipeline", "vm", "wait", name]
    process.start(words, log, env={**process.own_variables(), "GOLDSMITH_HOME": str(fleet.store.root)})
