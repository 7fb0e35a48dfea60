"""The guest agent (qemu-ga), spoken to over libvirt's one held connection."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from pipeline.errors import GuestError

#: Seconds the agent gets to answer one command; it answers in 0.1 s when it lives.
ANSWER = 15
#: Bytes asked for in one guest-file-read.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Executed:
    """What a program in the guest did."""

    code: int
    stdout: str
    stderr: str


class Agent:
    """One guest's agent. Every method raises GuestError(`guest-agent-silent`) when it does not answer."""

    def __init__(self, domain: libvirt.virDomain, log: Path) -> None:
        self._domain = domain
        self._log = log

    def call(
        self, command: str, arguments: dict[str, Any] | None = None, *, answer: int = ANSWER, quiet: bool = False
    ) -> Any:
        """Send one command; its `return` value. `quiet`: an answer leaves no line in the log."""
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        try:
            reply = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(message), answer, 0)
        except libvirt.libvirtError as error:
            self._note(f"{command}: {error.get_error_message()}")
            raise GuestError(
                f"the guest agent did not answer {command}: {error.get_error_message()}", name="guest-agent-silent"
            ) from None
        if not quiet:
            self._note(f"{command}: ok")
        return json.loads(reply).get("return")

    def _note(self, text: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def execute(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        stdin: str | bytes | None = None,
        check: Callable[[], None] | None = None,
    ) -> Executed:
        """Run a program in the guest and wait for its end; `check` is called while waiting and may raise."""
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if stdin is not None:
            arguments["input-data"] = base64.b64encode(stdin.encode() if isinstance(stdin, str) else stdin).decode()
        pid = self.call("guest-exec", arguments)["pid"]
        until = time.monotonic() + deadline
        pause = 0.05
        while True:
            status = self.call("guest-exec-status", {"pid": pid})
            if status["exited"]:
                out, err = (
                    base64.b64decode(status.get(k, "")).decode(errors="replace") for k in ("out-data", "err-data")
                )
                self._note(f"exec {' '.join(argv)[:200]!r}: {status.get('exitcode')} {err.strip()[-500:]}")
                return Executed(int(status.get("exitcode", -1)), out, err)
            if time.monotonic() > until:
                raise GuestError(
                    f"{argv[0]} in the guest was not done after {deadline:.0f} s", name="guest-command-timeout"
                )
            if check:
                check()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """A guest file's content, at most `limit` bytes."""
        handle = self.call("guest-file-open", {"path": path, "mode": "r"})
        try:
            data = b""
            while len(data) < limit:
                reply = self.call("guest-file-read", {"handle": handle, "count": CHUNK})
                data += base64.b64decode(reply["buf-b64"])
                if reply["eof"] or not reply["count"]:
                    break
            return data[:limit]
        finally:
            self.call("guest-file-close", {"handle": handle})

    def write(self, path: str, data: bytes) -> None:
        """Write a guest's file anew."""
        handle = self.call("guest-file-open", {"path": path, "mode": "wb"})
        try:
            for at in range(0, len(data), CHUNK):
                piece = base64.b64encode(data[at : at + CHUNK]).decode()
                self.call("guest-file-write", {"handle": handle, "buf-b64": piece}, quiet=True)
        finally:
            self.call("guest-file-close", {"handle": handle})

    def addresses(self) -> list[str]:
        """The guest's IPv4 addresses but the loopback's."""
        found = []
        for card in self.call("guest-network-get-interfaces"):
            for address in card.get("ip-addresses", ()):
                if address["ip-address-type"] == "ipv4" and not address["ip-address"].startswith("127."):
                    found.append(address["ip-address"])
        return found
