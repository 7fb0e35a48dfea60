"""What an instance is said to be, from its record and from what libvirt and the fabric say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.fabric.registration import AgentState, AgentStatus
from pipeline.hypervisor.persistent import Power
from pipeline.instances.record import Failure, Operation, Record
from pipeline.instances.state import (
    Reality,
    describe,
    instance_view,
    power_state,
    provisioning_state,
    reconcile,
)
from tests.unit.instances.test_record import record

READY = AgentStatus(AgentState.READY, time="2026-11-26T08:05:00Z", heard="2026-11-26T08:06:00Z")
FAILED = AgentStatus(AgentState.FAILED, "ProvisioningFailed", "no ovf-env.xml", "2026-11-26T08:05:00Z")
NOTHING = AgentStatus()
DISK = {"path": "/x", "format": "qcow2", "backing": None, "size": None}
CREATED = record(disk=DISK)
DONE = replace(CREATED, provisioned="2026-11-26T08:05:00Z")
DEAD = replace(Operation.begin("stop"), began=1)


IDLE = replace(DONE, allocated=False)
CREATING = replace(CREATED, operation=Operation.begin("create"))


def busy(kind: str) -> Record:
    return replace(DONE, operation=Operation.begin(kind))


@pytest.mark.parametrize(
    ("made", "power", "agent", "words", "provisioning", "state"),
    [
        (CREATING, Power.RUNNING, NOTHING, "Starting (provisioning)", "creating", "starting"),
        (CREATING, Power.ABSENT, NOTHING, "Starting (provisioning)", "creating", "starting"),
        (CREATED, Power.RUNNING, NOTHING, "Starting (provisioning)", "creating", "starting"),
        (DONE, Power.RUNNING, READY, "Running", "succeeded", "running"),
        (DONE, Power.PAUSED, READY, "Paused", "succeeded", "running"),
        (DONE, Power.OFF, READY, "Stopped", "succeeded", "stopped"),
        (DONE, Power.ABSENT, READY, "Stopped", "succeeded", "stopped"),
        (IDLE, Power.OFF, READY, "Stopped (deallocated)", "succeeded", "deallocated"),
        (busy("stop"), Power.RUNNING, READY, "Stopping", "updating", "stopping"),
        (busy("deallocate"), Power.RUNNING, READY, "Deallocating", "updating", "deallocating"),
        (busy("start"), Power.OFF, READY, "Starting", "updating", "starting"),
        (DONE, Power.UNKNOWN, READY, "Unknown", "succeeded", "unknown"),
        (replace(DONE, generalized=True), Power.OFF, READY, "Stopped (generalized)", "succeeded", "stopped"),
        (CREATED, Power.RUNNING, FAILED, "Running (provisioning failed)", "failed", "running"),
    ],
)  # fmt: skip
def test_the_statuses(
    made: Record, power: Power, agent: AgentStatus, words: str, provisioning: str, state: str
) -> None:
    reality = Reality(power, agent)
    current = reconcile(made, reality)
    assert describe(current, reality) == words
    assert (provisioning_state(current), power_state(current, reality)) == (provisioning, state)
    # what is true stays true
    assert reconcile(current, reality) == current


def test_ready_is_taken_down_once_and_outlives_the_agents_silence() -> None:
    current = reconcile(CREATED, Reality(Power.RUNNING, READY))
    assert current.provisioned == READY.time
    assert reconcile(current, Reality(Power.RUNNING, NOTHING)).provisioned == READY.time


def test_ready_after_a_failure_was_taken_down_is_a_success() -> None:
    """The command that waited gave up; the guest did not."""
    failed = replace(CREATED, failure=Failure("agent-not-ready", "nothing", None, "2026-11-26T08:04:00Z"))
    assert provisioning_state(failed) == "failed"
    current = reconcile(failed, Reality(Power.RUNNING, READY))
    assert current.failure is None and provisioning_state(current) == "succeeded"


def test_the_operation_of_a_dead_command_is_over() -> None:
    current = reconcile(replace(DONE, operation=DEAD), Reality(Power.OFF, READY))
    assert current.operation is None and describe(current, Reality(Power.OFF, READY)) == "Stopped"


def test_a_deletion_is_never_forgotten() -> None:
    deleting = replace(DONE, operation=replace(DEAD, kind="delete"))
    assert reconcile(deleting, Reality(Power.RUNNING, READY)).operation == deleting.operation


@pytest.mark.parametrize(
    ("made", "power", "agent", "name"),
    [
        (replace(CREATED, disk=None, operation=replace(DEAD, kind="create")), Power.ABSENT, NOTHING, "vm-incomplete"),
        (replace(CREATED, operation=replace(DEAD, kind="create")), Power.OFF, NOTHING, "vm-not-provisioned"),
        (CREATED, Power.RUNNING, FAILED, "provisioning-failed"),
    ],
)
def test_why_it_is_not_provisioned(made: Record, power: Power, agent: AgentStatus, name: str) -> None:
    current = reconcile(made, Reality(power, agent))
    assert current.failure is not None and current.failure.name == name
    view = instance_view(current, Reality(power, agent))
    assert view["statuses"][0]["code"] == "ProvisioningState/failed"
    assert view["statuses"][0]["level"] == "Error" and view["error"]["code"] == name


def test_a_creation_whose_command_died_goes_on_in_the_guest() -> None:
    current = reconcile(replace(CREATED, operation=replace(DEAD, kind="create")), Reality(Power.RUNNING, NOTHING))
    assert current.failure is None and provisioning_state(current) == "creating"


def test_what_somebody_started_without_us_has_its_slot() -> None:
    assert reconcile(replace(DONE, allocated=False), Reality(Power.RUNNING, READY)).allocated


def test_the_instance_view_has_azures_form() -> None:
    reality = Reality(Power.OFF, READY)
    view = instance_view(replace(DONE, generalized=True, allocated=False), reality)
    assert [status["code"] for status in view["statuses"]] == [
        "ProvisioningState/succeeded",
        "OSState/generalized",
        "PowerState/deallocated",
    ]
    assert [status["displayStatus"] for status in view["statuses"]] == [
        "Provisioning succeeded",
        "VM generalized",
        "VM deallocated",
    ]
    assert all({"code", "level", "displayStatus"} <= set(status) for status in view["statuses"])
    assert view["statuses"][0]["time"] == DONE.provisioned
    assert view["vmAgent"]["statuses"][0]["message"] == f"the VM does not run; last heard {READY.heard}"
    on = instance_view(DONE, Reality(Power.RUNNING, READY))
    assert on["vmAgent"]["statuses"][0]["displayStatus"] == "Ready"
    assert view["hyperVGeneration"] == "V2"
