"""Messages between the sandbox's worker and its parent: a length, a small JSON object, perhaps descriptors."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

#: Bytes of one message over the socket; each is a small JSON object.
MESSAGE_LIMIT = 4 << 20


def send(channel: socket.socket, message: Mapping[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """One message: its length, then JSON. Descriptors go with the first byte."""
    body = json.dumps(message).encode()
    data = struct.pack("=I", len(body)) + body
    sent = socket.send_fds(channel, [data], list(descriptors)) if descriptors else 0
    if sent < len(data):
        channel.sendall(data[sent:])


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors. Raises EOFError at the end, ValueError for an invalid message."""
    head, descriptors, _, _ = socket.recv_fds(channel, 4, 4)
    while 0 < len(head) < 4:
        head += channel.recv(4 - len(head))
    if len(head) < 4:
        raise EOFError
    (length,) = struct.unpack("=I", head)
    if length > MESSAGE_LIMIT:
        raise ValueError("the message is too long")
    body = bytearray()
    while len(body) < length:
        piece = channel.recv(min(length - len(body), 1 << 20))
        if not piece:
            raise EOFError
        body += piece
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("the message is not an object")
    return message, descriptors
