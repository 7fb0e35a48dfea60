"""All instances of a store on this host: their real state, and the only way to change an instance.

A process that changes an instance holds its lock, and first brings its record together with what libvirt and the
fabric say.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.base.errors import BuildError, GoldsmithError, UsageError
from pipeline.base.files import remove_tree
from pipeline.base.runs import now
from pipeline.base.store import Store
from pipeline.fabric import service
from pipeline.fabric.registration import Link, ProvisioningData
from pipeline.gallery import Gallery
from pipeline.gallery.retention import leases_of_instance, release_instance
from pipeline.guest.access import tmpfs_root
from pipeline.hypervisor import hotplug
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.machine import own
from pipeline.hypervisor.paused import read_disk_error
from pipeline.hypervisor.persistent import Power, eject_medium, find_domain, power_off, read_power, undefine
from pipeline.instances.budget import Budget, measure_budget
from pipeline.instances.deployment_records import Deployments
from pipeline.instances.disk_records import Disks
from pipeline.instances.disks import AttachedDisk, attached_disks, machine_disk, remove_disks, remove_old_os_disk
from pipeline.instances.endpoint_records import Endpoints
from pipeline.instances.record import Failure, Instances, Operation, Record, check_name
from pipeline.instances.set_records import Sets
from pipeline.instances.state import Reality, reconcile

log = logging.getLogger("goldsmith.waits")

#: The files of an instance's custom data and user data, and of its certificate with its private key (PEM). They may
#: hold secrets: 0600.
CUSTOM_DATA, USER_DATA, CERTIFICATE = "custom-data", "user-data", "certificate"


class Fleet:
    """The instances of a store. `open_connection` opens libvirt, once it is needed."""

    def __init__(self, store: Store, open_connection: Callable[[], Connection] = connect) -> None:
        self.store = store
        self._open_connection = open_connection
        self.instances = Instances(store.instances)
        self.disks = Disks(store.disks)
        self.sets = Sets(store.sets)
        self.endpoints = Endpoints(store.endpoints)
        self.deployments = Deployments(store.deployments)
        self.gallery = Gallery(store.gallery)

    @cached_property
    def connection(self) -> Connection:
        """The connection to libvirt. Raises HostError (libvirt-unreachable)."""
        return self._open_connection()

    def close(self) -> None:
        """Close the connection to libvirt, if one was opened."""
        opened = self.__dict__.pop("connection", None)
        if opened is not None:
            opened.close()

    # ---- looking -------------------------------------------------------------------------------------------------

    def look(self, record: Record) -> Reality:
        """The real state of an instance; its power is unknown if libvirt does not answer."""
        disk_error = ""
        try:
            power = read_power(self.connection, record.id)
            if power is Power.PAUSED:
                disk_error = read_disk_error(self.connection, record.id)
        except GoldsmithError:
            power = Power.UNKNOWN
        return Reality(power, service.read_status(self.store, record.id), disk_error)

    def is_on(self, record: Record) -> bool:
        """Whether an instance runs, for whoever acts on the answer.

        Raises HostError (libvirt-unreachable), BuildError (libvirt-failed): nothing may be changed on a guess.
        """
        return read_power(self.connection, record.id) in (Power.RUNNING, Power.PAUSED)

    def survey(self) -> list[tuple[Record, Reality]]:
        """Every instance with its real state, by name. Records that no other command is changing are brought up to
        date.
        """
        self.keep_fabric()
        with self.instances.hold_budget():
            self.instances.sweep()
        found = []
        for record in self.instances.all():
            current = self.refresh(record)
            found += [(current, self.look(current))] if current is not None else []
        return found

    def refresh(self, record: Record) -> Record | None:
        """The instance, brought up to date; None if its interrupted deletion has just been finished.

        It does not wait for another command that changes the instance: then the result is right, but the record is
        not updated.
        """
        with self.instances.hold_now(record.name) as ours:
            if not ours:
                current = self.instances.find(record.name)
                return None if current is None else reconcile(current, self.look(current))
            current = self.instances.find(record.name)
            return None if current is None else self._bring_together(current)

    def keep_fabric(self) -> None:
        """Start the fabric's service again if an instance needs it and its process has ended."""
        if any(record.allocated and record.disk is not None for record in self.instances.all()):
            service.ensure(self.store)

    # ---- changing ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Record]:
        """Lock an instance against other commands; its record is first brought up to date.

        Raises NotFound (vm-unknown), BuildError (vm-locked, vm-busy), HostError (libvirt-unreachable).
        """
        check_name(name)
        self.instances.get(name)
        with self.instances.hold(name):
            self.is_on(self.instances.get(name))  # raises where libvirt does not answer
            record = self._bring_together(self.instances.get(name))
            if record is None:
                self.instances.get(name)  # raises: its deletion was carried to its end just now
                raise AssertionError(name)
            self.keep_fabric()
            yield record

    @contextlib.contextmanager
    def operate(self, name: str, kind: str) -> Iterator[Record]:
        """As `hold`, with an operation in the record while the block runs.

        Raises BuildError (vm-busy) if another operation is in progress, such as a creation that waits for its guest.
        """
        with self.hold(name) as record:
            self.refuse_busy(record)
            try:
                yield self.instances.save(replace(record, operation=Operation.begin(kind)))
            finally:
                self.end_operation(name)

    def refuse_busy(self, record: Record) -> None:
        """Raise BuildError (vm-busy) for an instance with an operation in progress."""
        operation = record.operation
        if operation is not None:
            raise BuildError(
                f"{record.name} is busy: {operation.kind} {operation.id} is in progress since {operation.started} "
                f"(process {operation.pid})",
                name="vm-busy",
                hint=f"wait until it ends; goldsmith vm show {record.name} shows its progress",
            )

    def end_operation(self, name: str) -> None:
        """Remove the operation from an instance's record, if there still is one. The caller holds the lock."""
        record = self.instances.find(name)
        if record is not None and record.operation is not None and record.operation.kind != "delete":
            self.instances.save(replace(record, operation=None))

    def _bring_together(self, record: Record) -> Record | None:
        """Bring an instance up to date that the caller has locked, and do what its state requires; None if it was
        deleted.
        """
        reality = self.look(record)
        if reality.power is Power.UNKNOWN:
            return record  # without libvirt nothing can be concluded
        if record.operation is not None and record.operation.kind == "delete":
            self.destroy(record)
            return None
        current = reconcile(record, reality)
        if current != record:
            self.instances.save(current)
        if record.operation is not None and record.operation.kind == "reimage" and current.operation is None:
            self.remove_old_disks(current)
        if current.provisioned is not None and self.medium(current).exists():
            self.destroy_medium(current)
        self._bring_disks_together(current, reality)
        return current

    def _bring_disks_together(self, record: Record, reality: Reality) -> None:
        """Finish what a command began that died between the lease of a disk, the record, and the machine.

        The record decides: a disk in it is plugged, another disk of the store is unplugged, and its lease ends.
        """
        leased = self.disks.owned_by(record.id)
        attached = {each.disk for each in record.data_disks}
        domain = find_domain(self.connection, record.id) if reality.is_on and (leased or attached) else None
        present = hotplug.read_disks(domain) if domain is not None else set()
        for disk in leased:
            path = disk.image_of_disk.path
            try:
                if domain is not None and disk.name in attached and path not in present:
                    self.plug(domain, record, disk.name)
                if disk.name not in attached:
                    if domain is not None and path in present:
                        hotplug.unplug(domain, path, disk.name)
                    self.disks.release(disk.name, record.id)
            except GoldsmithError as error:
                # the VM can still be stopped and deleted; the next command tries again
                log.warning("the disk %s of %s: %s", disk.name, record.name, error.message)

    def remove_old_disks(self, record: Record) -> None:
        """Remove OS disks that a reimage replaced, and end the leases below them. The record decides."""
        if record.disk is not None:
            remove_old_os_disk(self.folder(record), record.image_of_disk)
        used = {record.reference, record.data_master or record.reference}
        for image, version in leases_of_instance(self.gallery, record.id):
            if f"{image}@{version}" not in used:
                release_instance(self.gallery, image, version, record.id)

    def plug(self, domain: Any, record: Record, name: str) -> None:
        """Plug a disk that the record has into the running machine. Raises as `hotplug.plug` does."""
        disk = next(disk for disk in self.attached_disks(record) if disk.name == name)
        own(disk.image.path, self.connection)
        hotplug.plug(self.connection, domain, machine_disk(disk), name)

    def destroy(self, record: Record) -> None:
        """Delete an instance with all its parts. It is not an error if some of them are gone already."""
        domain = find_domain(self.connection, record.id)
        if domain is not None:
            power_off(domain)
            undefine(domain)
        running = service.find(self.store)
        if running is not None:
            running.detach(record.id)
        remove_tree(self.medium(record).parent)
        with contextlib.suppress(OSError):
            self.medium(record).parent.parent.rmdir()
        # the lease and the record last: while there is a disk, its master must be kept
        remove_disks(self.instances.folder(record.name))
        for disk in self.disks.owned_by(record.id):
            self.disks.release(disk.name, record.id)
        for image, version in leases_of_instance(self.gallery, record.id):
            release_instance(self.gallery, image, version, record.id)
        self.instances.remove(record.name)

    # ---- its parts -----------------------------------------------------------------------------------------------

    def folder(self, record: Record) -> Path:
        return self.instances.folder(record.name)

    def logs(self, record: Record) -> Path:
        return self.folder(record) / "logs"

    def medium(self, record: Record) -> Path:
        """Where the provisioning medium lies, on tmpfs, until the guest has reported Ready."""
        return tmpfs_root() / self.store.instances_label / record.name / "azure.iso"

    def make_medium_folder(self, record: Record) -> Path:
        """Make the folder of the medium, which QEMU's user may search. Returns the medium's path."""
        path = self.medium(record)
        for level in (path.parent.parent.parent, path.parent.parent, path.parent):
            level.mkdir(mode=0o711, parents=True, exist_ok=True)
            level.chmod(0o711)
        return path

    def destroy_medium(self, record: Record) -> None:
        """Eject the provisioning medium and remove it."""
        domain = find_domain(self.connection, record.id)
        if domain is not None:
            eject_medium(domain)
        remove_tree(self.medium(record).parent)
        with contextlib.suppress(OSError):
            self.medium(record).parent.parent.rmdir()

    def attached_disks(self, record: Record) -> tuple[AttachedDisk, ...]:
        """The data disks of an instance, by LUN."""
        return attached_disks(self.disks, record, self.gallery.get(record.data_master or record.reference))

    def measure_budget(self, others: Iterable[Record]) -> Budget:
        """The budget of this host with these instances and all disks. The caller holds the budget."""
        return measure_budget(self.instances, others, disks=self.disks.promised())

    def attach(self, record: Record) -> Link:
        """Attach the instance to the fabric, or attach it again."""
        data = ProvisioningData(
            instance_id=record.id,
            name=record.name,
            user=record.user,
            public_key=record.public_key,
            custom_data=self.instances.read_file(record.name, CUSTOM_DATA),
            user_data=self.instances.read_file(record.name, USER_DATA),
            data_disks=tuple(disk.described for disk in self.attached_disks(record)),
            network=record.network,
            outside=record.outside,
            fault_domain=record.fault_domain,
            update_domain=record.update_domain,
            certificate=self.instances.read_file(record.name, CERTIFICATE),
        )
        return service.ensure(self.store).attach(data)

    def fail(self, record: Record, error: GoldsmithError) -> Record:
        """Record why an instance was not provisioned. The caller holds the lock."""
        failure = Failure(error.name, error.message, error.hint, now())
        return self.instances.save(replace(record, failure=failure, operation=None))


def refuse_generalized(record: Record) -> None:
    """Raise UsageError (vm-generalized) for a generalized VM: it would start without an identity."""
    if record.generalized:
        raise UsageError(
            f"{record.name} is generalized: it cannot be started any more",
            name="vm-generalized",
            hint=f"goldsmith vm capture {record.name} --as IMAGE makes an image of it; "
            f"goldsmith vm reimage {record.name} makes it a new machine; "
            f"goldsmith vm start {record.name} --anyway shows that it cannot be used",
        )
