"""The questions of the HTTP side over a socket, when it is a process of its own without rights (`front`).

The front sends one end of a new socket pair over the channel for each question, and writes the question, a JSON
object, into the other end. So questions do not wait for each other, and no path of a file leads to the backend.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipeline.base.files import Shape, parse_json
from pipeline.facade.backend import Backend, translated
from pipeline.facade.errors import ArmError, invalid
from pipeline.facade.fields import Fields
from pipeline.facade.home import Client
from pipeline.facade.routing import Answer, Request

#: Bytes of a question or an answer: a request's body has 4 MB, of which each character may be written as six.
LARGEST = 32 << 20
#: Seconds to read a question, and for an answer to it: a disk is examined before some are given.
READ, ANSWER = 60.0, 900.0
#: Questions at once; the front's pool of threads has 40.
MOST = 64


class QuestionShape(Shape):
    """A question. A field that its verb does not use is left out."""

    do: Literal["client", "sign-in", "verify", "boot-file", "answer"]
    authorization: str | None = None
    form: dict[str, str] = Field(default_factory=dict)
    token: str = ""
    machine: str = ""
    file: str = ""
    method: str = ""
    path: str = ""
    query: dict[str, str] = Field(default_factory=dict)
    body: dict[str, Any] = Field(default_factory=dict)


class ReplyShape(Shape):
    """What a question got: a value, or the fields of an ArmError."""

    value: Any = None
    error: dict[str, Any] | None = None


class RemoteBackend:
    """The front's side."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def client(self) -> Client:
        return Client(**self._ask(do="client"))

    def sign_in(self, form: Mapping[str, str]) -> dict[str, Any]:
        return dict(self._ask(do="sign-in", form=dict(form)))

    def verify(self, authorization: str | None) -> None:
        self._ask(do="verify", authorization=authorization)

    def boot_file(self, token: str, path: str, machine: str, file: str) -> tuple[str, bytes]:
        kind, data = self._ask(do="boot-file", token=token, path=path, machine=machine, file=file)
        return str(kind), base64.b64decode(data)

    def answer(self, authorization: str | None, request: Request) -> Answer:
        fields = {"method": request.method, "path": request.path, "query": dict(request.query)}
        body = dict(request.body.values)
        return Answer(**self._ask(do="answer", authorization=authorization, body=body, **fields))

    def _ask(self, **question: Any) -> Any:
        try:
            found = parse_json(self._exchange(json.dumps(question).encode()).decode(), ReplyShape)
        except TimeoutError:
            raise ArmError(504, "GatewayTimeout", f"goldsmith has not answered within {ANSWER:.0f} s") from None
        except (OSError, ValueError):
            raise ArmError(503, "ServiceUnavailable", "goldsmith serve azure is ending") from None
        if found.get("error") is not None:
            raise ArmError(**found["error"])
        return found.get("value")

    def _exchange(self, question: bytes) -> bytes:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                socket.send_fds(self._channel, [b"?"], [theirs.fileno()])
            ours.settimeout(ANSWER)
            ours.sendall(question)
            ours.shutdown(socket.SHUT_WR)
            return _read_all(ours)


def answer_questions(channel: socket.socket, backend: Backend, base: str) -> None:
    """Answer until the front ends, each question in a thread. `base` is the facade's address as clients have it."""
    room = threading.BoundedSemaphore(MOST)

    def serve(link: socket.socket) -> None:
        # a front that has ended, or sends too much, gets no answer
        with link, contextlib.suppress(OSError, ValueError):
            try:
                link.settimeout(READ)
                link.sendall(_reply(_read_all(link), backend, base))
            finally:
                room.release()

    while True:
        word, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not word:
            return
        for number in descriptors:
            os.set_inheritable(number, False)
            link = socket.socket(fileno=number)
            room.acquire()
            threading.Thread(target=serve, args=(link,), name="request", daemon=True).start()


def _read_all(link: socket.socket) -> bytes:
    """All bytes until the other side has ended its part. Raises ValueError where there are too many."""
    data = bytearray()
    while part := link.recv(1 << 16):
        data += part
        if len(data) > LARGEST:
            raise ValueError("too many bytes")
    return bytes(data)


def _reply(data: bytes, backend: Backend, base: str) -> bytes:
    try:
        found: dict[str, Any] = {"value": translated("a question", lambda: _value(data, backend, base))}
    except ArmError as error:
        names = ("status", "code", "message", "own_name", "hint")
        found = {"error": {name: getattr(error, name) for name in names}}
    return json.dumps(found).encode()


def _value(data: bytes, backend: Backend, base: str) -> Any:
    try:
        asked = QuestionShape(**parse_json(data.decode(), QuestionShape))
    except ValueError as error:
        raise invalid(f"the request cannot be read: {error}") from None
    if asked.do == "client":
        client = backend.client()
        return {"tenant": client.tenant, "client": client.client}
    if asked.do == "sign-in":
        return backend.sign_in(asked.form)
    if asked.do == "verify":
        return backend.verify(asked.authorization)
    if asked.do == "boot-file":
        kind, content = backend.boot_file(asked.token, asked.path, asked.machine, asked.file)
        return [kind, base64.b64encode(content).decode()]
    request = Request(asked.method, asked.path, asked.query, Fields(asked.body), base)
    answer = backend.answer(asked.authorization, request)
    return {"status": answer.status, "body": answer.body, "headers": dict(answer.headers)}
