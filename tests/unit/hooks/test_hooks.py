"""Messages of failures: to a real server on loopback and to a real command; one that fails is a warning."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import BuildError, UsageError
from pipeline.cli import hooks as cli
from pipeline.definition import DefinitionError
from pipeline.hooks.declared import EVENTS, Hooks, Receiver, checked_address, read_hooks
from pipeline.hooks.notify import Failure, message, send

FAILURE = Failure("web", "step-failed", "web.yml failed", "correct line 3", Path("/store/runs/R7/steps"))


class Server:
    """A webhook on loopback: what it got, and the status that it answers with."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, json.loads(body)))
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret-token"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def deliver(event: Any, hooks: Hooks, *failures: Failure, variables: dict[str, str] | None = None) -> list[str]:
    return list(send(event, failures or [FAILURE], hooks, Path("/store/runs"), variables or {}))


def test_a_webhook_and_a_command_get_the_message_with_the_link(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "page.sh"
    script.write_text(f"#!/bin/sh\ncat > {tmp_path}/got.json\n")
    script.chmod(0o755)
    receivers = (Receiver(webhook=server.url), Receiver(command=(str(script),)))
    assert deliver("night", Hooks(receivers, runs_url="https://build.example/runs")) == []
    (path, got), by_command = server.got[0], json.loads((tmp_path / "got.json").read_text())
    assert path == "/hook/secret-token" and got == by_command
    assert (got["event"], got["failures"][0]["url"]) == ("night", "https://build.example/runs/R7/report.html")
    assert (
        got["failures"][0]["black_box"] == "/store/runs/R7/steps" and got["failures"][0]["hint"] == "correct line 3"
    )
    assert "web: web.yml failed (step-failed) https://build.example/runs/R7/report.html" in got["text"]


def test_only_the_chosen_events_are_sent(server: Server) -> None:
    hooks = Hooks((Receiver(events=("vm",), webhook=server.url),))
    assert deliver("night", hooks) == [] and server.got == []
    assert deliver("vm", hooks) == [] and len(server.got) == 1


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_no_success_is_a_warning_without_the_secret(server: Server, status: int) -> None:
    server.status = status
    (trouble,) = deliver("night", Hooks((Receiver(webhook=server.url),)))
    assert f"it answered {status}" in trouble and "secret-token" not in trouble and len(server.got) == 1


def test_the_next_receiver_gets_it_all_the_same(server: Server) -> None:
    broken = [Receiver(command=("/bin/false",)), Receiver(command=("no-such-program-here",))]
    closed = Receiver(webhook="http://127.0.0.1:1/x")
    troubles = deliver("night", Hooks((*broken, closed, Receiver(webhook=server.url))))
    assert len(troubles) == 3 and len(server.got) == 1


def test_an_address_from_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(server.url + "\n")
    path = tmp_path / "hooks.yaml"
    path.write_text(f"notify:\n  - {{webhook-from: 'file:{tmp_path}/url', events: [vm]}}\n")
    assert deliver("vm", read_hooks(path)) == [] and len(server.got) == 1
    (tmp_path / "url").write_text("http://example.org/secret-token")
    (trouble,) = deliver("vm", read_hooks(path))
    assert "https://" in trouble and "secret-token" not in trouble


def test_a_black_box_elsewhere_has_no_link() -> None:
    hooks = Hooks(runs_url="https://build.example/runs")
    for box in (None, Path("/elsewhere/R7"), Path("/store/runs")):
        row = message("vm", [Failure("a", "b", "c", "", box)], hooks, Path("/store/runs"))["failures"][0]
        assert row["url"] is None


def test_what_a_file_declares(tmp_path: Path) -> None:
    path = tmp_path / "hooks.yaml"
    path.write_text(
        "site: {folder: site, metrics: /var/lib/x.prom, link: false}\nruns-url: https://build.example/runs/\n"
        "notify:\n  - webhook: https://chat.example/x\n  - {command: 'page --queue images', events: [night]}\n"
    )
    found = read_hooks(path)
    assert (found.site, found.metrics) == (tmp_path / "site", Path("/var/lib/x.prom"))
    assert not found.link_pages and Hooks().link_pages
    assert found.runs_url == "https://build.example/runs"
    assert [each.events for each in found.receivers] == [EVENTS, ("night",)]
    assert found.receivers[1].command == ("page", "--queue", "images")
    assert read_hooks(tmp_path / "none.yaml") == Hooks()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("notify:\n  - {webhook: 'http://chat.example/token'}\n", "https://"),
        ("notify:\n  - {webhook: 'https://a/b', command: x}\n", "exactly one"),
        ("notify:\n  - {events: [night]}\n", "exactly one"),
        ("notify:\n  - {command: x, events: [day]}\n", "'night', 'publish' or 'vm'"),
        ("notify:\n  - {command: ''}\n", "is not a command"),
        ("site: {}\n", "folder"),
        ("mail: x\n", "mail"),
    ],
)
def test_a_fault_is_named_with_its_line_and_repeats_no_address(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "hooks.yaml"
    path.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        read_hooks(path)
    assert fault in caught.value.message and "hooks.yaml:" in caught.value.message
    assert "token" not in caught.value.message


@pytest.mark.parametrize("text", ["http://chat.example/x", "ftp://x/y", "https://", "https://a b/c", "x"])
def test_an_address_must_be_encrypted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_address(text)
    assert caught.value.name == "hook-address"


def test_a_verb_notifies_of_its_failure_and_still_raises_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hooks.yaml"
    path.write_text(f"notify:\n  - {{webhook: '{server.url}'}}\n")
    monkeypatch.setenv("GOLDSMITH_HOOKS", str(path))
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    with pytest.raises(BuildError), cli.notifying("vm", "web-1"):
        raise BuildError("its agent never reported Ready", name="clone-timeout")
    assert server.got[0][1]["failures"][0]["subject"] == "web-1"
    with pytest.raises(UsageError), cli.notifying("vm", "web-1"):
        raise UsageError("a typing error", name="usage")
    assert len(server.got) == 1
    with pytest.raises(UsageError), cli.notifying("night", "refresh", also_usage=True):
        raise UsageError("images/web.yaml:3: a fault", name="definition")
    assert server.got[1][1]["failures"][0]["error"] == "definition"
    path.write_text("notify: 5\n")
    with pytest.raises(BuildError), cli.notifying("vm", "web-1"):
        raise BuildError("again", name="clone-timeout")
    assert "nobody is notified" in capsys.readouterr().err


def test_the_declared_site_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hooks.yaml"
    path.write_text("site: {folder: www, metrics: goldsmith.prom}\n")
    monkeypatch.setenv("GOLDSMITH_HOOKS", str(path))
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "store"))
    cli.write_declared_site()
    assert (tmp_path / "www/index.html").exists() and "goldsmith_" in (tmp_path / "goldsmith.prom").read_text()
