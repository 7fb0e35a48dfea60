"""Long operations: asynchronous, on disk, polled, and carried on by the next process."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import BuildError
from pipeline.base.files import write_json
from pipeline.facade.errors import ArmError
from pipeline.facade.tasks import MOST, Task, Tasks
from pipeline.operations.arm_deployment import SUBSCRIPTION
from tests.fakes.facade import DONE, MACHINES, VERSION, Client, serving

PLACE = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/local"


def left(root: Path, number: str, verb: str, **arguments: Any) -> None:
    """What a process leaves that was killed in the middle of a task."""
    task = Task(number, verb, f"{MACHINES}/off", arguments, DONE)
    write_json(root / "facade" / "tasks" / f"{number}.json", asdict(task))


def test_a_task_is_in_progress_until_it_ends(tmp_path: Path) -> None:
    release, begun = threading.Event(), threading.Event()

    def run(_task: Task) -> str:
        begun.set()
        assert release.wait(60)
        return "done"

    tasks = Tasks(tmp_path, run)
    task = tasks.begin("stop", "/x", {"name": "web"})
    assert begun.wait(60)
    found = tasks.find(task.id)
    assert found is not None and found.status == "InProgress" and not tasks.wait_idle(0)
    release.set()
    assert tasks.wait_idle(60)
    found = tasks.find(task.id)
    assert found is not None and (found.status, found.output) == ("Succeeded", "done") and found.ended


def test_too_many_tasks_are_refused(tmp_path: Path) -> None:
    release = threading.Event()
    tasks = Tasks(tmp_path, lambda _task: release.wait(60))
    for _ in range(MOST):
        tasks.begin("stop", "/x")
    with pytest.raises(ArmError) as error:
        tasks.begin("stop", "/x")
    assert error.value.status == 429
    release.set()
    assert tasks.wait_idle(60)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BuildError("busy", name="vm-busy"), "Conflict"),
        (ArmError(409, "OperationNotAllowed", "no"), "OperationNotAllowed"),
        (OSError(28, "No space left on device"), "ServiceUnavailable"),
        (RuntimeError("a fault"), "InternalServerError"),
    ],
)
def test_a_task_that_fails_says_why(tmp_path: Path, error: Exception, code: str) -> None:
    def run(_task: Task) -> None:
        raise error

    tasks = Tasks(tmp_path, run)
    task = tasks.begin("stop", "/x")
    assert tasks.wait_idle(60)
    found = tasks.find(task.id)
    assert found is not None and found.status == "Failed" and (found.error or {})["code"] == code
    assert "Traceback" not in str(found.error) and "a fault" not in str(found.error)


def test_an_operation_goes_on_after_a_restart_and_can_still_be_polled(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        machine = client.facade.manager.store.instances / "off"
        number = client.ask("GET", f"{MACHINES}/off?{VERSION}").body["properties"]["vmId"]
        assert machine.exists()
    left(tmp_path, "a" * 32, "deallocate", name="off", vm=number, force=False)
    left(tmp_path, "b" * 32, "capture", name="off", vm=number, image="web")
    left(tmp_path, "c" * 32, "delete", name="off", vm="of an earlier VM of that name")
    left(tmp_path, "d" * 32, "brew", name="off", vm=number)
    with serving(tmp_path) as client:
        assert client.facade.manager.tasks.wait_idle(60)
        states = {}
        for each in "abcd":
            answer = client.ask("GET", f"{PLACE}/operations/{each * 32}?{VERSION}")
            states[each] = (answer.body["status"], answer.body.get("error", {}).get("code"))
        assert states == {
            "a": ("Succeeded", None),
            "b": ("Failed", "OperationInterrupted"),
            "c": ("Succeeded", None),
            "d": ("Failed", "OperationUnknown"),
        }
        view = client.ask("GET", f"{MACHINES}/off/instanceView?{VERSION}").body
        assert view["statuses"][-1]["code"] == "PowerState/deallocated"
        assert client.ask("GET", f"{PLACE}/operationResults/{'a' * 32}?{VERSION}").status == 204
        assert client.ask("GET", f"{PLACE}/operationResults/{'b' * 32}?{VERSION}").status == 409


def test_the_answer_to_a_request_says_where_to_poll(client: Client) -> None:
    answer = client.ask("POST", f"{MACHINES}/off/deallocate?{VERSION}")
    assert (answer.status, answer.data) == (202, b"")
    headers = {key.lower(): value for key, value in answer.headers.items()}
    base = f"https://localhost:{client.facade.port}"
    assert headers["azure-asyncoperation"].startswith(f"{base}{PLACE}/operations/")
    assert headers["location"].startswith(f"{base}{PLACE}/operationResults/") and headers["retry-after"] == "1"
    assert client.facade.manager.tasks.wait_idle(60)
    body = client.ask("GET", headers["azure-asyncoperation"].removeprefix(base)).body
    assert body["status"] == "Succeeded" and body["startTime"] and body["endTime"]
    client.token = None
    assert client.ask("GET", headers["azure-asyncoperation"].removeprefix(base)).status == 401
