"""`--events`: each line has the schema, stdout has nothing else, and the last line is a result or an error."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed
from pipeline.base.runs import Run
from pipeline.cli import events
from pipeline.cli.app import app
from pipeline.cli.vm.options import say

REPOSITORY = Path(__file__).parents[3]


def lines_of(output: str) -> list[dict[str, Any]]:
    """The events of a command; each must have the schema."""
    validator = jsonschema.Draft202012Validator(events.event_schema())
    found = [json.loads(line) for line in output.splitlines()]
    for each in found:
        validator.validate(each)
    return found


def test_what_a_run_does_becomes_events(tmp_path: Path) -> None:
    out = io.StringIO()
    run = Run.start(tmp_path, "shop", "goldsmith build shop")
    run.listen(events.EventListener(events.EventStream(out), "shop"))
    run.emit("accelerator", "", "kvm: measured")
    run.emit("start", "provision", "script a\nb")
    run.emit("progress", "provision", "waits for the agent")
    run.emit("line", "provision", "x" * 1000)
    run.emit("end", "provision", "new\t12 MiB\tand more", 1.234)
    run.emit("saved", "", str(run.folder))
    run.finish("done")
    found = lines_of(out.getvalue())
    assert [each["event"] for each in found] == ["accelerator", "start", "progress", "line", "end", "saved"]
    assert found[3]["text"] == "x" * 1000
    assert (found[4]["state"], found[4]["detail"], found[4]["seconds"]) == ("new", "12 MiB\tand more", 1.23)
    assert {each["image"] for each in found} == {"shop"}


def test_the_schema_refuses_a_line_without_its_keys() -> None:
    validator = jsonschema.Draft202012Validator(events.event_schema())
    good = {"event": "note", "time": "2026-11-26T09:05:07.120Z", "image": "a", "text": "b", "new": 1}
    assert validator.is_valid(good)
    for key in ("event", "time", "image", "text"):
        assert not validator.is_valid({name: value for name, value in good.items() if name != key})
    assert not validator.is_valid({**good, "event": "unheard"})


def test_a_transfer_has_its_first_and_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 0.2, 1.5, 1.6])
    monkeypatch.setattr("pipeline.cli.events.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    stream = events.EventStream(out)
    for done in (0, 1, 2, 3, 4):
        stream.transfer("disk", done, 4, 2.0)
    assert [each["done"] for each in lines_of(out.getvalue())] == [0, 3, 4]


def test_a_childs_events_pass_and_its_other_lines_are_lines() -> None:
    out = io.StringIO()
    stream = events.EventStream(out)
    stream.emit("begin", image="a")
    event = out.getvalue().strip()
    stream.pass_on("a", event)
    stream.pass_on("a", "a note on stderr")
    found = lines_of(out.getvalue())
    assert found[1] == found[0]
    assert (found[2]["event"], found[2]["text"]) == ("line", "a note on stderr")


def test_a_vm_that_does_something_is_an_event_or_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(events, "_active", [events.EventStream(out)])
    say("web", "Starting (provisioning)")
    (found,) = lines_of(out.getvalue())
    assert (found["event"], found["vm"], found["text"]) == ("vm", "web", "Starting (provisioning)")
    monkeypatch.setattr(events, "_active", [])
    say("web", "Running")
    assert capsys.readouterr().out == "web: Running\n"


def test_an_error_is_an_event() -> None:
    out = io.StringIO()
    events.EventStream(out).error(CheckFailed("no", name="images-failed", hint="look", evidence=Path("/x")))
    (found,) = lines_of(out.getvalue())
    assert (found["name"], found["exit_code"], found["evidence"]) == ("images-failed", 1, "/x")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["build", "nothing", "--events"], "no-such-image"),
        (["refresh", "--events", "--no-such-option"], ""),
        (["prove", "nothing", "--events"], ""),
    ],
)
def test_the_last_line_of_a_failed_command_is_its_error(tmp_path: Path, words: list[str], name: str) -> None:
    (tmp_path / "images").mkdir()
    line = [sys.executable, "-m", "pipeline", "--project", str(tmp_path), *words]
    environment = {"GOLDSMITH_HOME": str(tmp_path / "store"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ended = subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=300)
    found = lines_of(ended.stdout)
    if found:
        assert (found[-1]["event"], found[-1]["exit_code"]) == ("error", ended.returncode)
        assert found[-1]["message"] in ended.stderr
        assert name in ("", found[-1]["name"])
    else:
        # the parser refused the command line before it knew the option
        assert ended.returncode == 2


def test_the_page_and_the_verb_have_the_schemas_events() -> None:
    kinds = events.event_schema()["properties"]["event"]["enum"]
    page = (REPOSITORY / "docs/events.md").read_text()
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []
    ended = CliRunner().invoke(app, ["schema", "events"])
    assert json.loads(ended.stdout) == events.event_schema()
