"""Guests of one sector, by the real libvirt and QEMU: one that boots nothing, and one that hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.disk_format import RAW
from pipeline.base.errors import GuestError
from pipeline.cache.layers import Image
from pipeline.hypervisor import observation, progress
from pipeline.hypervisor.connection import connect
from pipeline.hypervisor.domain import Disk, Spec
from pipeline.hypervisor.machine import Machine, own
from tests.harness import new_home, remove

#: Reads 32 sectors by the BIOS, and then turns in a circle: xor ax,ax; mov ds,ax; mov es,ax; mov bx,0x7e00;
#: mov ax,0x0220; mov cx,2; mov dx,0x80; int 0x13; jmp $
SPINS = bytes.fromhex("31c08ed88ec0bb007eb82002b90200ba8000cd13ebfe")


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        # what a UEFI-only disk has there: zeros are run as if they were a program
        (bytes(440), "guest-no-boot", "only 512 bytes of the disk were read"),
        (SPINS, "guest-kernel-hung", "its processor has been busy for"),
    ],
    ids=["no boot code", "a circle"],
)
def test_a_boot_that_does_not_get_on_is_named(
    code: bytes, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "NO_BOOT_BUSY", 2.0)
    monkeypatch.setattr(observation, "BUSY", 2.0)
    monkeypatch.setattr(observation, "EVERY", 0.5)
    folder = new_home("progress")
    try:
        disk = Path(folder) / "disk.raw"
        disk.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(4 << 20, b"\0"))
        connection = connect()
        own(disk, connection)
        spec = Spec(
            name=f"goldsmith-progress-{name}",
            run="progress",
            role="test",
            kvm=False,
            cpus=1,
            memory=64 << 20,
            disks=(Disk(Image(disk, RAW)),),
            serial_log=Path(folder) / "serial.log",
        )
        with Machine(connection, spec, Path(folder)) as machine, pytest.raises(GuestError, match=words) as caught:
            machine.wait_agent(60, 60)
        assert caught.value.name == name
        assert caught.value.hint
    finally:
        remove(folder)
