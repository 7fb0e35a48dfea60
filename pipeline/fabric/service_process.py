"""The fabric's server for a store's VMs: `python -m pipeline.fabric.service_process`, started by root.

It enters the namespace, binds its control socket, becomes its own user without capabilities, in a root that shows it
the records alone, and can then open no socket and start no program. A command gives it sockets over the control
socket. It ends when a command asks for it, or when it has served no guest for a while.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from pipeline.base.files import parse_json, read_usable, write_json
from pipeline.disk import confinement
from pipeline.disk.confinement import TOOL_REFUSALS, Applied
from pipeline.fabric import control, wireserver
from pipeline.fabric.certificates import load_key_pair, make_key_pair, read_certificate, sealed
from pipeline.fabric.guest_record import GuestRecord
from pipeline.fabric.instance import Report, Request
from pipeline.fabric.registration import CertificateState
from pipeline.fabric.registrations import STATUS, Registration, RegistrationShape, StatusShape, from_json
from pipeline.fabric.serving import FabricServer
from pipeline.network.namespaces import enter

#: Exchanges of one guest that are kept in memory; its log on disk has more.
KEPT = 64
#: Seconds between two records of the time of a guest's last request.
HEARD_EVERY = 30.0
#: Seconds after which a server without guests ends by itself: the command that started it has died.
LONELY = 60.0
#: Seconds to wait for another server to end.
LOCK = 5.0
#: Bytes of writable memory beside what the process has at its start, open descriptors, bytes of a thread's stack.
MEMORY, DESCRIPTORS, STACK = 512 << 20, 20_000, 512 << 10
#: System calls that the server may not use: those that tools may not use, except those that it needs; and starting
#: programs.
REFUSED = (*(name for name in TOOL_REFUSALS if name not in ("accept", "accept4", "sendto")), "execve", "execveat")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class ServedGuest(GuestRecord):
    """A VM's record, and its status as the commands read it: `status.json`, written at each change."""

    def __init__(self, registration: Registration, folder: Path) -> None:
        super().__init__(registration.instance, folder, kept=KEPT, rotates=True)
        self._status_file = folder / STATUS
        found = read_usable(self._status_file, StatusShape, limit=1 << 16)
        self._status: dict[str, Any] = found or dict.fromkeys(("time", "heard"))
        self._status.setdefault("state", "none")
        self._status.setdefault("substatus", "")
        self._status.setdefault("description", "")
        self._status.setdefault("certificate", CertificateState.NONE)
        self.certificate = CertificateState(self._status["certificate"])
        self._noted = 0.0
        self._status_lock = threading.Lock()

    def begin(self) -> None:
        super().begin()
        empty = {"state": "none", "substatus": "", "description": "", "certificate": CertificateState.NONE}
        self._change(**empty, time=None, heard=None)

    def note(self, report: Report | None) -> None:
        """Record the time of the guest's request, and its report if it made one."""
        with self._status_lock:
            state = self._status["state"]
            if report is not None:
                state = "ready" if report.ready else "failed" if report.failed else "provisioning"
            elif state == "none":
                state = "provisioning"
            changed = state != self._status["state"]
            due = time.monotonic() - self._noted >= HEARD_EVERY
            certificate = self.certificate
            if not (changed or due or certificate != self._status["certificate"]):
                return
            moment = now()
            fields: dict[str, Any] = {"heard": moment, "certificate": certificate}
            if changed:
                fields |= {"state": state, "time": moment, "substatus": "", "description": ""}
                if report is not None:
                    fields |= {"substatus": report.substatus, "description": report.description}
        self._change(**fields)

    def _change(self, **fields: Any) -> None:
        with self._status_lock:
            self._status |= fields
            self._noted = time.monotonic()
            # a full disk must not end the answer that a guest waits for
            with contextlib.suppress(OSError):
                write_json(self._status_file, self._status)


class Process:
    """Answers commands, one after the other, until the command `end`."""

    def __init__(self, listener: socket.socket, records: Path) -> None:
        self._listener = listener
        self._records = records
        self._server = FabricServer(on_request=self._note)
        self._marks: dict[str, str] = {}
        self._ended = False
        self._lonely_since = time.monotonic()
        self._answers: dict[str, Callable[[dict[str, Any], list[socket.socket]], dict[str, Any]]] = {
            "hello": self._hello,
            "listen": self._listen,
            "attach": self._attach,
            "change": self._change,
            "detach": self._detach,
            "begin": self._begin,
            "end": self._end,
        }

    @staticmethod
    def _note(record: GuestRecord, report: Report | None) -> None:
        assert isinstance(record, ServedGuest)
        record.note(report)

    def run(self) -> None:
        while not self._ended:
            if self._server.attached():
                self._lonely_since = time.monotonic()
            elif time.monotonic() - self._lonely_since > LONELY:
                break
            # while there are guests, only a command wakes this thread
            timeout = None if self._server.attached() else LONELY / 4
            if select.select([self._listener], [], [], timeout)[0]:
                with contextlib.suppress(OSError):
                    self._serve(self._listener.accept()[0])
        self._server.close()

    def _serve(self, link: socket.socket) -> None:
        with link:
            try:
                question, sockets = control.read_question(link)
            except ValueError:
                return
            try:
                answer = self._answers[str(question.get("do"))](question, sockets)
            except Exception as error:  # a command learns what is wrong with its question, and the server lives on
                for each in sockets:
                    each.close()
                answer = {"error": f"{type(error).__name__}: {error}"}
            control.send_answer(link, answer)

    def _hello(self, _question: dict[str, Any], _sockets: list[socket.socket]) -> dict[str, Any]:
        return {
            "protocol": control.PROTOCOL,
            "pid": os.getpid(),
            "listening": self._server.is_listening(),
            "attached": {each: self._marks.get(each, "") for each in self._server.attached()},
        }

    def _listen(self, _question: dict[str, Any], sockets: list[socket.socket]) -> dict[str, Any]:
        for each in sockets:
            self._server.listen(each)
        return {}

    def _attach(self, question: dict[str, Any], sockets: list[socket.socket]) -> dict[str, Any]:
        leases, names = sockets
        registration = _read(question)
        self._server.attach(self._record(registration), leases, names, outside=registration.data.outside)
        self._note_view(registration, question)
        return {}

    def _change(self, question: dict[str, Any], _sockets: list[socket.socket]) -> dict[str, Any]:
        registration = _read(question)
        self._server.change(self._record(registration), outside=registration.data.outside)
        self._note_view(registration, question)
        return {}

    def _note_view(self, registration: Registration, question: dict[str, Any]) -> None:
        """Write the names last, then the digest, by which commands see that the data is complete."""
        instance_id = registration.data.instance_id
        self._server.set_names(instance_id, {str(name): str(to) for name, to in question["names"].items()})
        self._marks[instance_id] = str(question["mark"])

    def _record(self, registration: Registration) -> ServedGuest:
        return ServedGuest(registration, self._records / registration.data.instance_id)

    def _detach(self, question: dict[str, Any], _sockets: list[socket.socket]) -> dict[str, Any]:
        self._server.detach(str(question["id"]))
        return {}

    def _begin(self, question: dict[str, Any], _sockets: list[socket.socket]) -> dict[str, Any]:
        record = self._server.find(str(question["id"]))
        if record is None:
            return {"error": "not attached"}
        record.begin()
        return {}

    def _end(self, _question: dict[str, Any], _sockets: list[socket.socket]) -> dict[str, Any]:
        self._ended = True
        return {}


def _read(question: dict[str, Any]) -> Registration:
    return from_json(parse_json(question["guest"], RegistrationShape))


def bind_control(path: Path) -> socket.socket:
    """A socket that root alone may connect to."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def be_the_only_server(control: Path) -> int | None:
    """The descriptor of the lock that the server of a store holds while it lives; None if another process holds it.

    A command that is killed right after it has started a server leaves one without sockets: it must not take
    the control socket from the next command's server.
    """
    lock = os.open(control.with_name("server.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + LOCK
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(lock)
                return None
            time.sleep(0.05)


def give_up_rights(records: Path, uid: int, gid: int) -> Path:
    """Become the user, and see no files of the host except the records. Returns their path from then on.

    Raises OSError if any part of this fails: then no guest is served.
    """
    data = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData:")
    )
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, data + MEMORY),
        (resource.RLIMIT_NOFILE, min(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    ):
        resource.setrlimit(what, (limit, limit))
    os.chroot(records)
    os.chdir("/")
    confinement.become_user(uid, gid)
    return Path("/")


def load_everything() -> None:
    """Call the functions that load modules late, while the files of these modules can still be read."""
    confinement.load_seccomp()  # once it is loaded, its name is enough
    for shape in (RegistrationShape, StatusShape):
        with contextlib.suppress(ValueError):
            parse_json("{}", shape)
    for name in ("latin-1", "ascii", "utf-8", "idna"):
        "x".encode(name)
    wireserver.health_report(Request("POST", 80, "/machine?comp=health", body=b"<Health/>"))
    pair = make_key_pair("warm")
    load_key_pair(read_certificate(pair.bundle))
    # with a certificate that can be used: a refused one does not reach the modules that seal
    sealed(pair, base64.b64encode(pair.certificate.public_bytes(Encoding.DER)).decode())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--control", "--namespace", "--records"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--user", "--group"):
        parser.add_argument(name, type=int, required=True)
    asked = parser.parse_args()
    enter(asked.namespace)
    load_everything()
    threading.stack_size(STACK)
    # held until the process ends
    lock = be_the_only_server(asked.control)
    if lock is None:
        print(f"{now()} another server serves already", file=sys.stderr, flush=True)
        return
    listener = bind_control(asked.control)
    records = give_up_rights(asked.records, asked.user, asked.group)
    process = Process(listener, records)
    applied = Applied()
    confinement.filter_calls(applied, refused=REFUSED)
    print(f"{now()} serving as user {os.getuid()}", file=sys.stderr, flush=True)
    process.run()
    print(f"{now()} ended", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
