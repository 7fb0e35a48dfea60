"""How a command talks to the fabric's server: one question and one answer over a Unix socket that only root can open.

A question is a JSON object; the sockets that go with it are passed as descriptors (SCM_RIGHTS).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Raised when a question or an answer changes: a command ends a server of another version and starts its own.
PROTOCOL = 4
#: Seconds for one question: the server answers from memory and writes a small file at most.
DEADLINE = 10.0
#: Bytes of a question: custom data and user data have 64 KiB each at most on Azure, and are written in base64.
LARGEST = 1 << 20
_MOST_DESCRIPTORS = 8


def ask(path: Path, question: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> dict[str, Any]:
    """The server's answer. Raises OSError if it does not answer, ValueError if the answer is invalid."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(DEADLINE)
        link.connect(str(path))
        data = json.dumps(question).encode()
        sent = socket.send_fds(link, [data], [each.fileno() for each in sockets])
        link.sendall(data[sent:])
        link.shutdown(socket.SHUT_WR)
        answer = b""
        while (more := link.recv(1 << 16)) and len(answer) <= LARGEST:
            answer += more
    parsed = json.loads(answer)
    if not isinstance(parsed, dict):
        raise ValueError("the fabric's server gave no object")
    return parsed


def read_question(link: socket.socket) -> tuple[dict[str, Any], list[socket.socket]]:
    """The question that comes over an accepted connection, and its sockets. Raises OSError, ValueError."""
    link.settimeout(DEADLINE)
    data, descriptors, _, _ = socket.recv_fds(link, 1 << 16, _MOST_DESCRIPTORS)
    sockets: list[socket.socket] = []
    try:
        for number in descriptors:
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
        while (more := link.recv(1 << 16)) and len(data) <= LARGEST:
            data += more
        question = json.loads(data)
        if not isinstance(question, dict):
            raise ValueError("no object")
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return question, sockets


def send_answer(link: socket.socket, answer: dict[str, Any]) -> None:
    link.sendall(json.dumps(answer).encode())
