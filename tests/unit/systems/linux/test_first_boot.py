"""The first-boot adapter: what it asks, what it applies, what it reports; and how it gets into a master."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.definition import FirstBoot
from pipeline.fabric import Request, wireserver
from pipeline.systems.linux import scripts
from pipeline.systems.linux.first_boot_service import FOLDER, UNIT, install_script
from pipeline.systems.linux.inside import first_boot

MACHINE = "02aab8a4-74ef-476e-8182-f6d2ba4166a6"


class Host:
    """Azure's two addresses, on loopback. `answers`: status and body of each GET in turn, the last one for good."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[str] = []
        self.report: list[bytes] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(f"{self.path} {self.headers.get('Metadata')}")
                status, body = host.answers[0] if len(host.answers) == 1 else host.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                host.report.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.server.shutdown()
    host.server.server_close()


@pytest.fixture
def guest(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest on Azure: its folder, whose program writes what it got to `applied`."""
    (tmp_path / "apply").write_text(f"#!/bin/sh\ncat >{tmp_path}/applied\n")
    (tmp_path / "apply").chmod(0o755)
    (tmp_path / "machine").write_text(f"{MACHINE}\n")
    (tmp_path / "chassis").write_text("7783-7084-3265-9085-8269-3286-77\n")
    for name, value in {
        "SETTINGS": tmp_path / "settings.json",
        "PROGRAM": tmp_path / "apply",
        "DONE": tmp_path / "state" / "machine",
        "MACHINE": tmp_path / "machine",
        "CHASSIS": tmp_path / "chassis",
        "USER_DATA": f"{host.url}/userData",
        "TELEMETRY": f"{host.url}/machine?comp=telemetrydata",
        "FIRST_PAUSE": 0.01,
    }.items():
        monkeypatch.setattr(first_boot, name, value)
    settings(tmp_path)
    return tmp_path


def settings(guest: Path, source: str = "userdata", deadline: float = 120) -> None:
    (guest / "settings.json").write_text(json.dumps({"source": source, "deadline": deadline}))


def reported(host: Host) -> tuple[bool, str]:
    (body,) = host.report
    (event,) = wireserver.events(Request("POST", 80, "/machine?comp=telemetrydata", body=body))
    assert (event.name, event.operation) == ("first-boot", "FirstBoot")
    return event.success, event.message


def test_user_data_is_applied_once_for_each_machine(guest: Path, host: Host) -> None:
    host.answers = [(200, base64.b64encode(b"one & only\n"))]
    assert first_boot.main() == 0
    assert (guest / "applied").read_bytes() == b"one & only\n"
    assert host.asked == ["/userData true"]
    assert reported(host) == (True, "11 bytes applied")
    assert first_boot.main() == 0
    assert len(host.asked) == 1
    (guest / "machine").write_text("another\n")
    assert first_boot.main() == 0
    assert len(host.asked) == 2


def test_bad_answers_are_asked_again(guest: Path, host: Host) -> None:
    host.answers = [(500, b""), (410, b""), (200, b"not base64!"), (200, base64.b64encode(b"at last"))]
    assert first_boot.main() == 0
    assert (guest / "applied").read_bytes() == b"at last"
    assert len(host.asked) == 4


def test_the_deadline_is_a_failure_that_is_reported_and_tried_again(guest: Path, host: Host) -> None:
    host.answers = [(404, b"")]
    settings(guest, deadline=0.5)
    assert first_boot.main() == 1
    good, message = reported(host)
    assert not good
    assert "no configuration from userdata" in message and "404" in message
    host.answers = [(200, base64.b64encode(b"late"))]
    settings(guest)
    assert first_boot.main() == 0
    assert (guest / "applied").read_bytes() == b"late"


def test_the_programs_own_words_are_the_failure(guest: Path, host: Host) -> None:
    host.answers = [(200, base64.b64encode(b"x"))]
    (guest / "apply").write_text("#!/bin/sh\ncat >/dev/null\necho 'no such <shop> ]]>' >&2\nexit 3\n")
    assert first_boot.main() == 1
    assert reported(host) == (False, "its program ended with 3: no such <shop> ]]>")
    assert not (guest / "state").exists()


def test_a_program_that_hangs_is_ended(guest: Path, host: Host) -> None:
    host.answers = [(200, base64.b64encode(b"x"))]
    (guest / "apply").write_text("#!/bin/sh\nexec sleep 600\n")
    settings(guest, deadline=0.5)
    assert first_boot.main() == 1
    assert reported(host) == (False, "its program did not end before the deadline")


def test_an_address_is_asked_as_it_is(guest: Path, host: Host) -> None:
    host.answers = [(200, b"plain")]
    settings(guest, f"{host.url}/shop?of=web")
    assert first_boot.main() == 0
    assert host.asked == ["/shop?of=web None"]
    assert (guest / "applied").read_bytes() == b"plain"


def test_no_user_data_is_no_failure(guest: Path, host: Host) -> None:
    host.answers = [(200, b"")]
    assert first_boot.main() == 0
    assert not (guest / "applied").exists()
    assert reported(host) == (True, "no configuration was given")


def test_off_azure_nobody_is_asked_for_user_data(guest: Path, host: Host) -> None:
    (guest / "chassis").write_text("a chassis\n")
    assert first_boot.main() == 0
    assert not host.asked and not host.report


def test_a_guest_that_is_built_is_never_configured(guest: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_boot, "BUILDER", "root")
    settings(guest, f"{host.url}/shop")
    assert first_boot.main() == 0
    assert not host.asked


def test_too_much_is_refused(guest: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_boot, "LARGEST", 1 << 20)
    host.answers = [(200, b"x" * (1 << 20) + b"y")]
    settings(guest, f"{host.url}/shop", 0.05)
    assert first_boot.main() == 1
    assert "more than 1 MiB" in reported(host)[1]


def test_it_is_installed_before_the_trim(tmp_path: Path) -> None:
    program = tmp_path / "apply.sh"
    program.write_text("#!/bin/sh\ncat\n")
    script = scripts.generalize_script("waagent", install_script(FirstBoot(program, "userdata", 120)))
    assert script.index(UNIT) < script.index("fstrim")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    # carried out below another root, it is what was meant
    (tmp_path / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
    installs = install_script(FirstBoot(program, "userdata", 120))
    moved = re.sub(r"(?<=[ >])/(?=(usr/local|etc|var)/)", f"{tmp_path}/", installs)
    subprocess.run(["sh"], input=f"say() {{ :; }}\nset -eu\n{moved}", text=True, check=True)
    folder = tmp_path / FOLDER.lstrip("/")
    assert (folder / "apply").read_text() == program.read_text()
    assert (folder / "apply").stat().st_mode & 0o777 == 0o755
    assert json.loads((folder / "first-boot.json").read_text()) == {"source": "userdata", "deadline": 120}
    assert (folder / "first_boot.py").read_bytes() == Path(first_boot.__file__).read_bytes()
    assert (
        f"ExecStart=/usr/bin/python3 {FOLDER}/first_boot.py" in (tmp_path / "etc/systemd/system" / UNIT).read_text()
    )


def test_it_needs_the_standard_library_alone() -> None:
    load = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='loaded')"
    subprocess.run(["python3", "-I", "-S", "-c", load, first_boot.__file__], check=True)
