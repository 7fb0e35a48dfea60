"""The test of one clone: made, provisioned, booted, asserted, booted again, put back to the master."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.base.runs import remove_tree
from pipeline.cache.layers import Image
from pipeline.definition import DataDisk, Expectation, HttpExpectation
from pipeline.fabric import Extension, Fabric, Guest
from pipeline.fabric.launch import attach_to_fabric, machine_spec, usable_processors, write_medium
from pipeline.guest.access import Access, free_ports
from pipeline.guest.build import Build
from pipeline.guest.disks import create_data_disk, create_overlay
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.domain import Disk, Forward
from pipeline.instances.resource_disk import SERIAL
from pipeline.prove.first_boot_report import configured
from pipeline.prove.matrix import TestRun, sampled
from pipeline.prove.page_picture import draw_page
from pipeline.prove.result import CloneResult
from pipeline.prove.suites import SuiteTarget, TestSuite, run_suite
from pipeline.systems.linux import agent_assertions, assertions, full_upgrade, resource_disk, scripts
from pipeline.systems.linux.boot_again import HUNG, record_hung
from pipeline.systems.linux.boot_messages import check_boot_messages
from pipeline.systems.linux.clone import SCREENS, Clone
from pipeline.systems.linux.diagnosis import NOT_PROVISIONED
from pipeline.systems.linux.nvme_disks import blank_disk, check_nvme_disks
from pipeline.systems.linux.second_card import add_second_card

#: Bytes that a clone's disk is larger than the master's, to see the root file system grow.
GROWTH = 1 << 30
#: The user that a clone is asked to make.
CLONE_USER = "clone"


class CloneTest:
    """Runs one clone. `beside`: how many clones run at the same time; `disks`: what the master's data disks hold."""

    def __init__(
        self, context: Build, master: Image, test_run: TestRun, beside: int, disks: Sequence[DataDisk] = ()
    ) -> None:
        self.blank = blank_disk(disks) if test_run.target.blank_disk else None
        self.disks = [*disks, self.blank] if self.blank else disks
        self._own_disks = disks
        self.context = context
        self.master = master
        self.test_run = test_run
        self.result = CloneResult(test_run.name)
        self.logs = context.run.folder / "prove" / test_run.name
        self.scratch = context.store.tmp / f"prove-{context.run.id}-{test_run.name}"
        # a host name that no other clone has, and a mark that no other user data has
        self.hostname = f"{test_run.target.name}-{secrets.token_hex(3)}"
        self.token = secrets.token_hex(8)
        pages = {e.port for e in context.definition.expect if isinstance(e, HttpExpectation)}
        self.ports = dict(zip(sorted(pages), free_ports(len(pages)), strict=True))
        self.size = master.path.stat().st_size - master.format.trailing + GROWTH
        self._beside = beside
        self._again_already = False

    def run(self, fabric: Fabric | None, pictures: Path) -> CloneResult:
        """What the clone showed. Raises what a boot raises, with the target's name in front.

        A clone whose kernel hangs is made once more: what it shows is the host's emulation, seldom the master.
        """
        try:
            with self.made(fabric) as (clone, disk):
                self._start(clone, disk, pictures)
        except GoldsmithError as error:
            if error.name == HUNG and not self._again_already:
                return self._once_more(error, fabric, pictures)
            error.message = f"{self.test_run.target.description}: {error.message}"
            error.args = (error.message,)
            error.hint = error.hint or f"look at {self.logs}"
            raise
        finally:
            self._progress("")
        return self.result

    def _progress(self, text: str) -> None:
        self.context.progress_of(self.test_run.name, text)

    def _once_more(self, error: GoldsmithError, fabric: Fabric | None, pictures: Path) -> CloneResult:
        """Another clone in place of one that hangs, whose logs stay beside the new one's."""
        kept = self.logs.with_name(f"{self.test_run.name}-hung")
        self.logs.replace(kept)
        record_hung(self.context, error, f"{self.test_run.name}: ", str(kept.relative_to(self.context.run.folder)))
        other = CloneTest(self.context, self.master, self.test_run, self._beside, self._own_disks)
        other._again_already = True
        return other.run(fabric, pictures)

    # ---- making it -----------------------------------------------------------------------------------------------

    @contextmanager
    def made(self, fabric: Fabric | None) -> Iterator[tuple[Clone, Image]]:
        """The clone, ready to be switched on, and its disk. Nothing of it stays but its logs."""
        began = time.monotonic()
        self.logs.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.scratch.chmod(0o755)
        access = Access.create(self.context.label, self.test_run.name, CLONE_USER)
        # one connection a thread: libvirt tracks event callbacks by connection, and two threads' calls collide
        connection = connect()
        try:
            with self._provisioned(access, fabric if self.test_run.target.fabric else None) as guest:
                clone, disk = self._clone(connection, access, guest), self._overlay("disk")
                self.result.seconds["made"] = round(time.monotonic() - began, 2)
                yield clone, disk
        finally:
            connection.close()
            access.remove()
            remove_tree(self.scratch)

    @contextmanager
    def _provisioned(self, access: Access, fabric: Fabric | None) -> Iterator[Guest | None]:
        """The clone's place on the fabric with its medium written, or None: then it gets a seed."""
        if fabric is None:
            yield None
            return
        first_boot = self.context.definition.first_boot
        # every kind of host key: waagent waits for the RSA one, half an hour
        data = f"#cloud-config\nfinal_message: goldsmith {self.token}\n"
        if self.test_run.target.resource_disk:
            data += resource_disk.custom_data()
        guest = fabric.attach(
            self.hostname,
            CLONE_USER,
            access.public_key,
            self.logs,
            custom_data=data.encode(),
            user_data=self._sampled(first_boot.sample).encode() if first_boot else b"",
            data_disks=self.disks,
            extension=Extension.make(self.hostname) if self.test_run.settles else None,
            provisioned=self.test_run.target.provisioned,
            outside=self.test_run.outside,
        )
        try:
            write_medium(access.seed, guest.instance)
            for host, port in {access.ssh_port: 22, **{host: port for port, host in self.ports.items()}}.items():
                fabric.forward(guest, host, port)
            yield guest
        finally:
            fabric.detach(guest)

    def _clone(self, connection: Connection, access: Access, guest: Guest | None) -> Clone:
        hardware = self.test_run.target.hardware
        context = self.context
        spec = machine_spec(
            hardware,
            name=f"goldsmith-{context.label}-{self.test_run.name}",
            run=context.label,
            role=f"prove {self.test_run.name}",
            kvm=context.accelerator.kind == "kvm",
            cpus=self._cpus(),
            memory=context.definition.machine.memory,
            slowness=context.accelerator.slowness,
            disk=self.master,
            serial_log=self.logs / "serial.log",
        )
        spec = replace(spec, forwards=(access.forward, *(Forward(host, guest) for guest, host in self.ports.items())))
        if guest is not None:
            spec = attach_to_fabric(spec, guest.bridge, guest.instance)
        clone = Clone(
            connection,
            spec,
            access,
            logs=self.logs,
            store=context.store.root,
            guest=guest,
            medium=self.test_run.target.provisioned,
            beside=self._resource_disk(),
            cancelled=context.cancelled,
            progress=self._progress,
        )
        if guest is None:
            user_data = scripts.prove_user_data(CLONE_USER, access.public_key)
            clone.write_seed({**user_data, "final_message": f"goldsmith {self.token}"}, self.hostname)
        return clone

    def _cpus(self) -> int:
        kvm = self.context.accelerator.kind == "kvm"
        return usable_processors(self.context.definition.machine.cpus, kvm=kvm, beside=self._beside)

    def _overlay(self, name: str) -> Image:
        overlay = create_overlay(self.scratch / f"{name}.qcow2", self.master, self.size)
        if self.blank is None:
            return overlay
        image = create_data_disk(self.scratch / f"{name}-blank.raw", self.blank)
        return replace(overlay, data=(*overlay.data, (self.blank.lun, image)))

    def _resource_disk(self) -> tuple[Disk, ...]:
        """The resource disk, on the OS disk's own controller as on Azure, or nothing."""
        if not self.test_run.target.resource_disk:
            return ()
        image = resource_disk.create_resource_disk(self.scratch / "resource.raw")
        return (Disk(image, "scsi", serial=SERIAL),)

    def _sampled(self, text: str) -> str:
        return sampled(text, self.hostname)

    def _own(self, expectation: Expectation) -> Expectation:
        if isinstance(expectation, HttpExpectation):
            return replace(expectation, contains=self._sampled(expectation.contains))
        return expectation

    # ---- its boots -----------------------------------------------------------------------------------------------

    def _start(self, clone: Clone, disk: Image, pictures: Path) -> None:
        try:
            if not self.test_run.target.provisioned:
                self._merely_started(clone, disk, pictures)
                return
            first = self._first(clone, disk, pictures)
            if self.test_run.again:
                self._again(clone, disk, first)
            if self.test_run.reimage:
                self._reimage(clone, disk, first)
        except GoldsmithError:
            clone.black_box(quick=self.context.cancelled.is_set())
            raise
        finally:
            clone.close()

    def _merely_started(self, clone: Clone, disk: Image, pictures: Path) -> None:
        """Nobody provisions it: a generalized master must not come up as somebody's machine, and it is named."""
        try:
            clone.boot(disk, provisions=True, name="boot")
        except GuestError as error:
            if error.name != NOT_PROVISIONED:
                raise
            self.result.see("started", f"{error.name}: {error.message}", True)
            self._keep(self.logs / "screen.png", pictures)
            return
        self.result.see(
            "started", "the clone posted Ready without being provisioned, so it is not generalized", False
        )
        self._end(clone)

    def _keep(self, picture: Path, pictures: Path) -> None:
        if picture.exists():
            shutil.copyfile(picture, pictures / f"{self.test_run.name}.png")
            self.result.screenshot = f"{self.test_run.name}.png"

    def _first(self, clone: Clone, disk: Image, pictures: Path) -> dict[str, str]:
        clone.boot(disk, provisions=True, name="boot")
        result = self.result
        result.seconds.update(clone.seconds)
        seen = assertions.facts(clone, self.token)
        assertions.provisioned(clone, result, seen, hostname=self.hostname, size=self.size, growth=GROWTH)
        assertions.attached(clone, result, seen, self.disks)
        if self.test_run.messages:
            check_boot_messages(clone, result)
        if self.test_run.settles and clone.guest is not None and self._has_agent(seen):
            agent_assertions.settled(clone, result, clone.guest)
            agent_assertions.extension(clone, result, clone.guest)
        if self.context.definition.first_boot is not None and clone.guest is not None:
            configured(clone.machine, result, clone.guest, self.context.definition.first_boot.deadline)
        pages: dict[str, str] = {}
        for expectation in self.context.definition.expect:
            pages |= assertions.expect(self._own(expectation), clone, result, self.ports)
        picture = pictures / f"{self.test_run.name}.png"
        if clone.machine.screenshot(picture):
            result.screenshot = picture.name
        for frame in sorted((self.logs / SCREENS).glob("*.png")):
            shutil.copyfile(frame, pictures / f"{self.test_run.name}-boot-{frame.name}")
        if self.test_run.target.resource_disk:
            resource_disk.judge_resource_disk(result, seen)
        if self.test_run.target.hardware.bus == "nvme":
            check_nvme_disks(clone, result, self.disks)
        if self.test_run.target.second_card:
            add_second_card(clone, result)
        if self.test_run.target.upgrade:
            self._upgrade(clone)
        for suite in self.test_run.suites:
            self._run_suite(clone, suite)
        self._end(clone)
        self._draw(pages, pictures)
        return {**seen, "host key": result.checks["host key"]}

    def _upgrade(self, clone: Clone) -> None:
        """All packages are upgraded; after a restart it is the same machine, and healthy."""
        full_upgrade.upgrade(clone, self.result)
        seen = assertions.facts(clone, self.token)
        self._healthy(clone, seen, "after the upgrade")
        full_upgrade.check_boot(clone, self.result)
        if clone.guest is not None and self._has_agent(seen):
            agent_assertions.settled(clone, self.result, clone.guest, check="azure agent after the upgrade")

    def _run_suite(self, clone: Clone, suite: TestSuite) -> None:
        """A test suite of others on the running clone. It may update and restart it, and must leave it healthy."""
        self._progress(f"the test suite {suite.name}")
        target = SuiteTarget(
            host="127.0.0.1",
            port=clone.access.ssh_port,
            user=clone.access.user,
            key=clone.access.key,
            logs=self.logs / suite.name,
            watch=clone.machine.check,
        )
        self.result.see_suite(run_suite(self.context.store, suite, target))
        # it may have restarted the clone, which takes the shared connection along
        clone.access.hang_up()
        self._healthy(clone, assertions.facts(clone, self.token), f"after the suite {suite.name}")

    def _has_agent(self, seen: Mapping[str, str]) -> bool:
        """Whether Azure's agent must answer: it runs, or the definition says that it is the image's."""
        return seen.get("waagent") == "active" or self.context.definition.generalize.agent == "waagent"

    def _draw(self, pages: dict[str, str], pictures: Path) -> None:
        """Keep a picture of each page beside the screenshot, and in the run, which stays where the proof fails."""
        for number, (what, page) in enumerate(pages.items(), 1):
            picture = pictures / f"{self.test_run.name}-page{number if number > 1 else ''}.png"
            why = draw_page(page, picture)
            self.result.pages[what] = f"none: {why}" if why else picture.name
            if not why:
                shutil.copyfile(picture, self.logs / f"page{number if number > 1 else ''}.png")

    def _again(self, clone: Clone, disk: Image, first: dict[str, str]) -> None:
        """The same disk once more: the same machine, and nobody provisions it again."""
        clone.boot(disk, provisions=False, name="second-boot")
        self.result.seconds["second boot"] = clone.seconds["ssh"]
        seen = self._seen(clone)
        kept = [what for what in ("hostname", "machine-id", "host key") if seen.get(what) == first.get(what)]
        lost = [what for what in ("hostname", "machine-id", "host key") if what not in kept]
        self._healthy(clone, seen, "second boot")
        self.result.see(
            "second boot",
            "the same machine" if not lost else f"another {', '.join(lost)}: provisioned again",
            not lost,
        )
        self._end(clone)

    def reimaged(self, disk: Image) -> Image:
        """A new OS disk from the master, with the data disks of `disk` as the clone has left them."""
        new = create_overlay(self.scratch / "reimage.qcow2", replace(self.master, data=()), self.size)
        return replace(new, data=disk.data)

    def _reimage(self, clone: Clone, disk: Image, first: dict[str, str]) -> None:
        """Back to the master: the same VM, provisioned again, with an identity of its own; its data disks stay."""
        clone.boot(self.reimaged(disk), provisions=True, name="reimage")
        self.result.seconds["reimage"] = clone.seconds["ssh"]
        seen = self._seen(clone)
        self._healthy(clone, seen, "reimage")
        kept = [what for what in ("machine-id", "host key") if seen.get(what) == first.get(what)]
        good = not kept and seen.get("hostname") == self.hostname
        self.result.see("reimage", "provisioned again" if good else f"still the old {', '.join(kept)}", good)
        self._end(clone)

    def _seen(self, clone: Clone) -> dict[str, str]:
        host_key = clone.access.known_hosts.read_text().split()[-1]
        return {**assertions.facts(clone, self.token), "host key": host_key[-16:]}

    def _healthy(self, clone: Clone, seen: dict[str, str], when: str) -> None:
        later = CloneResult(self.result.target)
        assertions.healthy(clone, later, seen)
        self.result.failures += [f"{when}: {failure}" for failure in later.failures]

    def _end(self, clone: Clone) -> None:
        self._progress("shutting down")
        clone.shutdown()
