"""goldsmith's domains on this host, whichever process started them: by the run that their metadata names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import libvirt
from lxml import etree

from pipeline.base.errors import GoldsmithError
from pipeline.hypervisor.connection import Connection, translated
from pipeline.hypervisor.domain import GOLDSMITH_NS
from pipeline.hypervisor.machine import Machine


def sweep(connection: Connection, wanted: Callable[[str], bool]) -> list[str]:
    """Destroy goldsmith's domains whose run nobody wants any more; the names destroyed."""
    gone = []
    for domain, run, _ in domains(connection):
        if wanted(run):
            continue
        with contextlib.suppress(libvirt.libvirtError):
            name = domain.name()
            domain.destroy()
            gone.append(name)
    return gone


def domains(connection: Connection) -> list[tuple[libvirt.virDomain, str, str]]:
    """goldsmith's running domains, with the run and the role that their metadata names."""
    found = []
    with translated("listing domains"):
        everything = connection.raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    for domain in everything:
        try:
            text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, GOLDSMITH_NS, 0)
        except libvirt.libvirtError:
            continue  # not ours, or gone meanwhile
        element = etree.fromstring(text.encode())
        found.append((domain, element.get("id", ""), element.get("role", "")))
    return found


def mark_kept(machine: Machine) -> None:
    """Say in the domain's metadata that a person wants this guest: no sweep takes it."""
    text = f'<run id="{machine.spec.run}" role="kept"/>'
    try:
        machine.domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "goldsmith", GOLDSMITH_NS, 0)
    except libvirt.libvirtError as error:
        raise GoldsmithError(
            f"cannot mark the guest as kept: {error.get_error_message()}",
            name="guest-not-kept",
            hint="the guest has already ended: build again with --keep-failed",
        ) from None
