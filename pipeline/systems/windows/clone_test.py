"""The test of one Windows clone: its first boot on the fabric, and what its agent then reports."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path

from pipeline.base.disk_format import RAW
from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.base.runs import remove_tree
from pipeline.cache.layers import Image
from pipeline.fabric import Fabric, Guest
from pipeline.fabric.launch import attach_to_fabric, machine_spec, write_medium
from pipeline.guest.access import run_folder
from pipeline.guest.build import Build
from pipeline.guest.disks import create_overlay
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.enrolled_keys import YEARS, EnrolledKeys
from pipeline.prove.first_boot_report import configured
from pipeline.prove.matrix import TestTarget, sampled
from pipeline.prove.result import CloneResult
from pipeline.systems.windows import oobe
from pipeline.systems.windows.answers import UNATTEND, azure, draw_password
from pipeline.systems.windows.machine import FEATURES
from pipeline.systems.windows.session import Deadlines, WindowsSession
from pipeline.systems.windows.shell import Shell

#: The user that a clone is asked to make.
CLONE_USER = "clone"
_NAME = r"HKLM\SYSTEM\CurrentControlSet\Control\ComputerName\ComputerName"


class WindowsCloneTest:
    """Runs one clone: on the fabric, with Azure's medium for Windows in its drive."""

    def __init__(self, context: Build, master: Image, target: TestTarget) -> None:
        self.context = context
        self.master = master
        self.target = target
        self.result = CloneResult(target.name)
        self.logs = context.run.folder / "prove" / target.name
        self.scratch = context.store.tmp / f"prove-{context.run.id}-{target.name}"
        # fifteen characters are what NetBIOS leaves a computer's name
        self.name = f"{target.name[:8]}-{secrets.token_hex(3)}"

    def run(self, fabric: Fabric | None, pictures: Path) -> CloneResult:
        """What the clone showed. Raises what a boot raises, with the target's name in front."""
        assert fabric is not None, "its targets are all on the fabric"
        began = time.monotonic()
        for folder in (self.logs, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        self.scratch.chmod(0o755)
        connection = connect()
        first_boot = self.context.definition.first_boot
        user_data = sampled(first_boot.sample, self.name).encode() if first_boot else b""
        guest = fabric.attach(self.name, CLONE_USER, "", self.logs, user_data=user_data)
        try:
            session = self._clone(connection, guest)
            medium = session.folder / "azure.iso"
            password, definition = draw_password(), self.context.definition
            answers = {UNATTEND: azure(self.name, CLONE_USER, password, definition.locale, definition.timezone)}
            write_medium(medium, guest.instance, password=password, answers=answers)
            session.insert(Image(medium, RAW))
            self.result.seconds["made"] = round(time.monotonic() - began, 2)
            try:
                self._first_boot(session, guest, pictures)
            except GoldsmithError:
                session.black_box(quick=self.context.cancelled.is_set())
                raise
            finally:
                session.close()
            reports = guest.reports
            self.result.see("Ready", "posted" if any(report.ready for report in reports) else "not posted", True)
        except GoldsmithError as error:
            error.message = f"{self.target.description}: {error.message}"
            error.args = (error.message,)
            error.hint = error.hint or f"look at {self.logs}"
            raise
        finally:
            self._progress("")
            fabric.detach(guest)
            connection.close()
            remove_tree(self.scratch)
        return self.result

    def _progress(self, text: str) -> None:
        self.context.progress_of(self.target.name, text)

    def _clone(self, connection: Connection, guest: Guest) -> WindowsSession:
        hardware, context = self.target.hardware, self.context
        kvm = context.accelerator.kind == "kvm"
        folder = run_folder(context.label, self.target.name)
        disk = create_overlay(self.scratch / "disk.qcow2", self.master)
        spec = machine_spec(
            hardware,
            name=f"goldsmith-{context.label}-{self.target.name}",
            run=context.label,
            role=f"prove {self.target.name}",
            kvm=kvm,
            cpus=context.definition.machine.cpus,
            memory=context.definition.machine.memory,
            disk=disk,
            serial_log=self.logs / "boot.serial.log",
            features=FEATURES,
        )
        secure = hardware.firmware == "efi" and (context.definition.secure_boot or hardware.secure)
        spec = replace(
            attach_to_fabric(spec, guest.bridge, guest.instance),
            nvram=folder / "vars.fd" if hardware.firmware == "efi" else None,
            secure_boot=secure,
            keys=(hardware.keys or EnrolledKeys(YEARS)) if secure else None,
            tpm=context.definition.tpm or hardware.secure,
        )
        return WindowsSession(
            connection,
            spec,
            folder,
            logs=self.logs,
            deadlines=Deadlines.for_kind(kvm, context.definition.machine.timeout_factor),
            cancelled=context.cancelled,
            progress=self._progress,
        )

    def _first_boot(self, session: WindowsSession, guest: Guest, pictures: Path) -> None:
        began = time.monotonic()
        try:
            session.open()
        except GuestError:
            # what a first boot asks for shows on its screen and nowhere else
            session.picture(now=True)
            raise
        self.result.seconds["agent"] = round(time.monotonic() - began, 1)
        result = self.result
        state = oobe.set_up(session)
        result.see("first boot", state, state == oobe.COMPLETE)
        name = Shell(session).value(_NAME, "ComputerName")
        # a cached answer file is found before the medium's; then only an agent could give the name
        named = name.lower() == self.name.lower() or self.context.definition.generalize.skip_oobe
        result.see("computer name", name, named)
        if self.context.definition.first_boot is not None:
            self._progress("the first-boot service")
            deadline = self.context.definition.first_boot.deadline
            configured(session.machine, result, guest, deadline, what="configuration")
        printed = len(session.machine.serial().strip())
        result.see("serial console", f"{printed} bytes", printed > 0)
        picture = pictures / f"{self.target.name}.png"
        if session.machine.screenshot(picture):
            result.screenshot = picture.name
            shutil.copyfile(picture, self.logs / "screen.png")
        self._progress("shutting down")
        session.machine.shutdown(session.deadlines.shutdown)
