"""A machine that has powered itself off, and the next one of its name."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest

from pipeline.hypervisor.connection import Connection
from pipeline.hypervisor.domain import Spec
from pipeline.hypervisor.machine import Machine


class Ended:
    """A transient domain of which libvirt still knows for `looks` looks."""

    def __init__(self, looks: int) -> None:
        self.looks, self.destroyed = looks, False

    def info(self) -> list[int]:
        if self.looks == 0:
            raise libvirt.libvirtError("no domain with matching uuid")
        self.looks -= 1
        return [libvirt.VIR_DOMAIN_SHUTOFF, 0, 0, 0, 0]

    def destroy(self) -> None:
        self.destroyed = True


@pytest.mark.parametrize(("instance", "left"), [(None, 0), ("an-instance", 3)])
def test_its_name_is_free_when_it_is_over(tmp_path: Path, instance: str | None, left: int) -> None:
    spec = Spec(
        name="goldsmith-R1-gen1", run="R1", role="test", kvm=False, cpus=1, memory=1 << 28, disks=(),
        serial_log=tmp_path / "serial.log", instance=instance,
    )  # fmt: skip
    machine, domain = Machine(Connection(None), spec, tmp_path), Ended(3)  # type: ignore[arg-type]  # a likeness
    machine._domain, machine.stopped = domain, "powered off"
    machine.destroy()
    # an instance's domain stays defined, so there is nothing to wait for
    assert (domain.looks, domain.destroyed, machine.started) == (left, False, False)
