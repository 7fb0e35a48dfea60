"""A signing key that an ssh agent holds: it signs, and its private half never comes to this host's disk.

The agent may be ssh-agent with a key that a person has added, or a program in front of a hardware token: each speaks
the protocol of draft-miller-ssh-agent, whose answers are bounded and awaited here.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pipeline.base.errors import UsageError

#: Seconds for an answer: a token may wait until somebody touches it.
DEADLINE = 60.0
#: Bytes of an answer at most; an agent with hundreds of keys has less.
_LARGEST = 1 << 18
#: draft-miller-ssh-agent, section 7.1: numbers of messages.
_LIST, _LISTED, _SIGN, _SIGNED = 11, 12, 13, 14
_KIND = b"ssh-ed25519"
#: The first word of a key's file that names an agent in place of having the private half.
WORD = "ssh-agent"


@dataclass(frozen=True)
class AgentKey:
    """The ed25519 key `public` of the agent that listens at `place`, a Unix socket."""

    place: Path
    public: Ed25519PublicKey

    def public_key(self) -> Ed25519PublicKey:
        return self.public

    @property
    def fingerprint(self) -> str:
        """As ssh-add -l shows it."""
        digest = hashlib.sha256(_blob(self.public)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    def sign(self, data: bytes) -> bytes:
        """The signature of 64 bytes. Raises UsageError (agent-silent, agent-refused)."""
        request = _string(_blob(self.public)) + _string(data) + struct.pack(">I", 0)
        fields = _Fields(_ask(self.place, _SIGN, request, _SIGNED, self.fingerprint))
        answer = _Fields(fields.string())
        kind, signature = answer.string(), answer.string()
        try:
            if kind != _KIND:
                raise InvalidSignature
            self.public.verify(signature, data)
        except InvalidSignature:
            raise _refused(self.place, f"the signature by {self.fingerprint} is not a valid one") from None
        return signature

    def text(self) -> str:
        """What the key's file has in place of a private half."""
        line = self.public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        return f"{WORD} {self.place}\n{line}\n"


def parse(text: str) -> AgentKey:
    """The key that a file of `AgentKey.text` names. Raises ValueError."""
    first, _, second = text.strip().partition("\n")
    word, _, place = first.partition(" ")
    kind, _, body = second.strip().partition(" ")
    if word != WORD or not Path(place).is_absolute() or kind.encode() != _KIND:
        raise ValueError(f"it is not `{WORD} SOCKET` with a line `ssh-ed25519 KEY`")
    return AgentKey(Path(place), _public(base64.b64decode(body.split()[0], validate=True)))


def find(place: Path, fingerprint: str = "") -> AgentKey:
    """The ed25519 key of an agent, chosen by its fingerprint where it has several.

    Raises UsageError (agent-silent, agent-refused, agent-key-unknown).
    """
    fields = _Fields(_ask(place, _LIST, b"", _LISTED, "a list of keys"))
    keys = [AgentKey(place, _public(blob)) for blob in _listed(fields) if blob.startswith(_string(_KIND))]
    wanted = [key for key in keys if key.fingerprint == fingerprint or not fingerprint]
    if len(wanted) == 1:
        return wanted[0]
    known = ", ".join(key.fingerprint for key in keys) or "none"
    what = f"no ed25519 key {fingerprint}" if fingerprint else f"{len(keys)} ed25519 keys"
    raise UsageError(
        f"the agent at {place} has {what}",
        name="agent-key-unknown",
        hint=f"name one of its ed25519 keys by --agent-key: {known}; ssh-add adds one",
    )


def _listed(fields: _Fields) -> Iterator[bytes]:
    for _ in range(fields.number()):
        yield fields.string()
        fields.string()  # the comment


def _ask(place: Path, request: int, body: bytes, answer: int, what: str) -> bytes:
    """One question, and the body of its answer."""
    message = bytes([request]) + body
    try:
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(str(place))
            connection.sendall(_string(message))
            (length,) = struct.unpack(">I", _receive(connection, 4))
            if not 1 <= length <= _LARGEST:
                raise _refused(place, f"an answer of {length} bytes")
            found = _receive(connection, length)
    except TimeoutError:
        why = f"no answer within {DEADLINE:.0f} s"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        if found[0] != answer:
            raise _refused(place, f"it gives no {what}" if request == _LIST else f"it does not sign with {what}")
        return found[1:]
    raise UsageError(
        f"the ssh agent at {place} does not answer: {why}",
        name="agent-silent",
        hint="start it and add the key (ssh-add), or make it listen at that path: ssh-agent -a PATH",
    )


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("the connection was closed")
        data += piece
    return data


def _refused(place: Path, why: str) -> UsageError:
    return UsageError(
        f"the ssh agent at {place} refused: {why}",
        name="agent-refused",
        hint="see ssh-add -l, and whether the agent waits for a confirmation or a touch",
    )


class _Fields:
    """The fields of an answer, one after the other. Raises UsageError (agent-refused) where they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        return self._take(self.number())

    def _take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise UsageError("an answer of the ssh agent is cut short", name="agent-refused", hint="see ssh-add -l")
        self._at += length
        return piece


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _blob(public: Ed25519PublicKey) -> bytes:
    return _string(_KIND) + _string(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _public(blob: bytes) -> Ed25519PublicKey:
    fields = _Fields(blob)
    if fields.string() != _KIND:
        raise ValueError("it is not an ed25519 key")
    return Ed25519PublicKey.from_public_bytes(fields.string())
