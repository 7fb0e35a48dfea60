"""A person at the serial console of a domain."""

from __future__ import annotations

import contextlib
import os
import threading

import libvirt

from pipeline.hypervisor.connection import Connection, translated

#: Ctrl-], which ends it, as in telnet and virsh.
ESCAPE = b"\x1d"
_CHUNK = 4096


def join_console(connection: Connection, domain: libvirt.virDomain, keyboard: int, screen: int) -> None:
    """Copy between two files of this process and the console until ESCAPE is typed, or the machine ends.

    A terminal that was connected before is disconnected. Raises BuildError (libvirt-failed).
    """
    with translated("opening the console"):
        stream = connection.raw.newStream(0)
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)

    def type_in() -> None:
        with contextlib.suppress(libvirt.libvirtError, OSError):
            while data := os.read(keyboard, _CHUNK):
                before, escape, _ = data.partition(ESCAPE)
                while before:
                    before = before[stream.send(before) :]
                if escape:
                    stream.abort()
                    return

    threading.Thread(target=type_in, name="keyboard", daemon=True).start()
    with contextlib.suppress(libvirt.libvirtError):
        while data := stream.recv(_CHUNK):
            while data:
                data = data[os.write(screen, data) :]
