"""The console's log has the lines of every boot: what a boot is judged by are its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import GuestError
from pipeline.cache.layers import Image
from pipeline.hypervisor.connection import Connection, _start_event_loop
from pipeline.hypervisor.console import LOGIN
from pipeline.hypervisor.console_log import SERIAL_LIMIT, ConsoleLog, Position
from pipeline.hypervisor.domain import INSTANCE_NS, Disk, Spec, domain_xml
from pipeline.hypervisor.machine import Machine

PANIC = b"Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"
PROMPT = b"Debian GNU/Linux 12 web ttyS0\r\n\r\nweb login: "
NEW = b"Linux version 6.1\r\n"


def test_a_boot_begins_where_it_was_switched_on(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    log = ConsoleLog(path)
    assert log.begin_boot() is None
    path.write_bytes(PANIC)
    assert log.read() == (PANIC, 0)
    log.mark()
    path.write_bytes(PANIC + PROMPT)
    assert log.read() == (PANIC + PROMPT, len(PANIC))
    assert log.begin_boot() == Position(path.stat().st_ino, len(PANIC + PROMPT))
    assert log.read() == (b"", 0)
    path.write_bytes(PANIC + PROMPT + NEW)
    assert log.read() == (NEW, 0)


def test_all_of_a_log_that_was_begun_anew_is_of_this_boot(tmp_path: Path) -> None:
    """virtlogd renames a log that is long and begins another one, which may become longer than the mark."""
    path = tmp_path / "serial.log"
    path.write_bytes(PANIC)
    log = ConsoleLog(path)
    log.begin_boot()
    path.rename(tmp_path / "serial.log.0")
    path.write_bytes(NEW * 10)
    assert log.read() == (NEW * 10, 0)
    path.write_bytes(b"")  # emptied by its owner
    log.mark()
    assert log.read() == (b"", 0)


def test_the_last_bytes_of_a_boot_are_read(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    path.write_bytes(PANIC)
    log = ConsoleLog(path)
    log.begin_boot()
    with path.open("ab") as file:
        file.write(b"a" * 10)
        file.write(b"b" * (SERIAL_LIMIT - 3))
        file.write(NEW[:3])
    text, since = log.read()
    assert (len(text), text[:1], text[-3:], since) == (SERIAL_LIMIT, b"b", NEW[:3], 0)


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:b", "-1:2", "1:2:3", "1:" + "9" * 30])
def test_what_is_no_position_is_none(text: str) -> None:
    assert Position.parse(text) is None
    assert Position.parse("12:34") == Position(12, 34)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Connection]:
    _start_event_loop()
    (tmp_path / "host.xml").write_text("<node/>")
    connection = Connection(libvirt.open(f"test://{tmp_path / 'host.xml'}"))
    yield connection
    connection.raw.close()


def switched_on(host: Connection, folder: Path, old: bytes, *, older: bool = False) -> Machine:
    """A VM that another process has switched on, taken over; its console's log has `old` lines of earlier boots.
    `older`: an older version has switched it on."""
    log = folder / "serial.log"
    log.write_bytes(old)
    disks = (Disk(Image(folder / "d.qcow2", QCOW2)),)
    spec = Spec("web", "vms", "instance", kvm=False, cpus=1, memory=1 << 30, disks=disks, serial_log=log)
    spec = replace(spec, uuid=str(uuid.UUID(int=7)), instance=str(uuid.UUID(int=7)))
    began = None if older else ConsoleLog(log).begin_boot()
    xml = domain_xml(replace(spec, console_start=began)).replace('type="qemu"', 'type="test"', 1)
    host.raw.defineXML(xml).create()
    machine = Machine(host, spec, folder)
    machine.adopt()
    return machine


def test_who_takes_a_vm_over_does_not_find_an_earlier_boots_panic_or_prompt(host: Connection, tmp_path: Path) -> None:
    """`vm wait` after `vm reimage` ended by what the old machine had shown."""
    machine = switched_on(host, tmp_path, PANIC + PROMPT)
    machine.check()
    assert not LOGIN.search(machine.serial())
    with machine.spec.serial_log.open("ab") as log:
        log.write(NEW + PROMPT)
    assert machine.serial() == NEW + PROMPT
    machine.check()
    with machine.spec.serial_log.open("ab") as log:
        log.write(PANIC)
    with pytest.raises(GuestError) as error:
        machine.check()
    assert error.value.name == "guest-kernel-panic"
    machine.leave()


def test_a_vm_that_an_older_version_has_started_is_read_from_its_logs_beginning(
    host: Connection, tmp_path: Path
) -> None:
    machine = switched_on(host, tmp_path, PROMPT, older=True)
    assert machine.serial() == PROMPT
    assert INSTANCE_NS in machine.domain.XMLDesc(0) and "console=" not in machine.domain.XMLDesc(0)
    machine.leave()
