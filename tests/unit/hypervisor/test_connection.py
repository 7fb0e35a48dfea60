"""A connection whose daemon has gone: each question ends with a named error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.base.errors import BuildError
from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domains import domains
from pipeline.hypervisor.persistent import find_domain, list_instances, read_power
from tests.fakes.libvirt_host import open_host

UUID = "73e09a67-4496-4956-813c-2e6d8991a469"
QUESTIONS: dict[str, Callable[[Connection], object]] = {
    "the version of libvirt": lambda connection: connection.version,
    "the version of QEMU": lambda connection: connection.qemu_version,
    "QEMU's user": lambda connection: connection.qemu_owner,
    "domains": domains,
    "instances": lambda connection: list_instances(connection, "store"),
    "a domain": lambda connection: find_domain(connection, UUID),
    "a domain's power": lambda connection: read_power(connection, UUID),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_daemon_that_has_gone_is_a_named_error(question: str) -> None:
    connection = open_host()
    connection.close()
    with pytest.raises(BuildError) as caught:
        QUESTIONS[question](connection)
    assert caught.value.name == "libvirt-failed"
