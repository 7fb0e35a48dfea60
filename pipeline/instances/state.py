"""The state of an instance, computed from its record and the answers of libvirt and the fabric. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipeline.base.runs import now
from pipeline.fabric.registration import AgentState, AgentStatus
from pipeline.hypervisor.persistent import Power
from pipeline.instances.record import Failure, Record

#: The PowerState during an operation.
_ON_THE_WAY = {"stop": "stopping", "deallocate": "deallocating", "delete": "stopping"}


@dataclass(frozen=True)
class Reality:
    """The real state, whatever the record says."""

    power: Power
    agent: AgentStatus
    disk_error: str = ""  # why QEMU has paused it, in a sentence

    @property
    def is_on(self) -> bool:
        return self.power in (Power.RUNNING, Power.PAUSED)


def reconcile(record: Record, reality: Reality) -> Record:
    """The corrected record: an operation whose process died is over, a Ready is recorded.

    A deletion that was interrupted stays: the next holder of the lock finishes it.
    """
    operation = record.operation
    if operation is not None and operation.kind != "delete" and not operation.is_alive:
        record, operation = replace(record, operation=None), None
    if record.provisioned is None and reality.agent.state is AgentState.READY:
        record = replace(record, provisioned=reality.agent.time or now(), failure=None)
    if reality.is_on and not record.allocated:
        record = replace(record, allocated=True)  # its domain was started without goldsmith
    if record.provisioned is None and record.failure is None and operation is None:
        return replace(record, failure=_find_failure(record, reality))
    return record


def _find_failure(record: Record, reality: Reality) -> Failure | None:
    """Why an instance will not be provisioned; None while it still may be."""
    if reality.agent.state is AgentState.FAILED:
        words = " ".join(part for part in (reality.agent.substatus, reality.agent.description) if part)
        hint = f"goldsmith vm logs {record.name} shows its console and what it asked the fabric"
        message = f"the agent reported that provisioning failed: {words}"
        return Failure("provisioning-failed", message, hint, reality.agent.time or now())
    if record.disk is None:
        hint = f"goldsmith vm delete {record.name} --yes, then create it again"
        return Failure("vm-incomplete", "its creation was interrupted", hint, now())
    if reality.power in (Power.OFF, Power.ABSENT):
        hint = f"goldsmith vm start {record.name} goes on with it"
        return Failure("vm-not-provisioned", "it was switched off before its agent reported Ready", hint, now())
    return None


# ---- in Azure's words ---------------------------------------------------------------------------------------------


def provisioning_state(record: Record) -> str:
    """creating, updating, succeeded or failed."""
    kind = record.operation.kind if record.operation else None
    if record.provisioned is None and record.failure is not None and kind is None:
        return "failed"
    if record.provisioned is None:
        return "creating"
    return "updating" if kind is not None else "succeeded"


def power_state(record: Record, reality: Reality) -> str:
    """starting, running, stopping, stopped, deallocating, deallocated or unknown."""
    kind = record.operation.kind if record.operation else ""
    if reality.power is Power.UNKNOWN:
        return "unknown"
    if kind in _ON_THE_WAY:
        return _ON_THE_WAY[kind]
    if reality.is_on:
        return "starting" if provisioning_state(record) == "creating" else "running"
    if kind in ("create", "start", "restart", "reimage"):
        return "starting"
    return "stopped" if record.allocated else "deallocated"


def describe(record: Record, reality: Reality) -> str:
    """The state in the words of the portal: Starting (provisioning), Running, Stopped (deallocated)."""
    power = power_state(record, reality)
    if reality.power is Power.PAUSED and record.operation is None:
        return "Paused (its disk cannot be written)" if reality.disk_error else "Paused"
    if power == "starting" and provisioning_state(record) == "creating":
        return "Starting (provisioning)"
    if provisioning_state(record) == "failed":
        return f"{_titled(power)} (provisioning failed)"
    if power == "deallocated":
        return "Stopped (deallocated)"
    return _titled(power) + (" (generalized)" if record.generalized else "")


def _titled(state: str) -> str:
    return state[:1].upper() + state[1:]


_PROVISIONING = {
    "creating": "Creating",
    "updating": "Updating",
    "succeeded": "Provisioning succeeded",
    "failed": "Provisioning failed",
}


def _status(
    code: str, display: str, *, level: str = "Info", time: str | None = None, message: str = ""
) -> dict[str, Any]:
    status: dict[str, Any] = {"code": code, "level": level, "displayStatus": display}
    return status | ({"message": message} if message else {}) | ({"time": time} if time else {})


def instance_view(record: Record, reality: Reality) -> dict[str, Any]:
    """The instance view: `statuses` as Azure's, each with code, level and displayStatus, and the agent's beside them.

    https://learn.microsoft.com/rest/api/compute/virtual-machines/instance-view
    """
    state, power = provisioning_state(record), power_state(record, reality)
    failed = state == "failed"
    statuses = [
        _status(
            f"ProvisioningState/{state}",
            _PROVISIONING[state],
            level="Error" if failed else "Info",
            time=_provisioning_time(record),
            message=record.failure.message if failed and record.failure else "",
        )
    ]
    if record.generalized:
        statuses.append(_status("OSState/generalized", "VM generalized"))
    level = "Error" if reality.disk_error else "Info"
    statuses.append(_status(f"PowerState/{power}", f"VM {power}", level=level, message=reality.disk_error))
    view: dict[str, Any] = {
        "computerName": record.name,
        "hyperVGeneration": f"V{record.generation}",
        "vmAgent": {"statuses": [_agent_status(reality)]},
        "statuses": statuses,
    }
    if failed and record.failure is not None:
        view["error"] = {"code": record.failure.name, "message": record.failure.message}
    if record.operation is not None:
        view["operation"] = {key: getattr(record.operation, key) for key in ("id", "kind", "started")}
    return view


def _provisioning_time(record: Record) -> str:
    if record.operation is not None:
        return record.operation.started
    if record.provisioned is None and record.failure is not None:
        return record.failure.time
    return record.provisioned or record.created


def _agent_status(reality: Reality) -> dict[str, Any]:
    agent = reality.agent
    if not reality.is_on:
        state = "libvirt does not answer" if reality.power is Power.UNKNOWN else "the VM does not run"
        words = state + (f"; last heard {agent.heard}" if agent.heard else "")
        return _status("ProvisioningState/Unavailable", "Not Ready", level="Warning", message=words)
    words = " ".join(part for part in (agent.substatus, agent.description) if part)
    if agent.state is AgentState.READY:
        return _status("ProvisioningState/succeeded", "Ready", time=agent.heard or agent.time, message=words)
    if agent.state is AgentState.FAILED:
        return _status("ProvisioningState/failed", "Not Ready", level="Error", time=agent.time, message=words)
    known = f"last heard {agent.heard}" if agent.heard else "it has not reported"
    return _status("ProvisioningState/Unavailable", "Not Ready", level="Warning", message=known)
