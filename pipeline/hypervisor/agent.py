"""The guest agent (qemu-ga), spoken to over libvirt's one held connection.

The guest may answer anything: an answer is used only once `answers` has found it to be of the agreed shape.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import libvirt
import libvirt_qemu

from pipeline.base.errors import BuildError, GuestError
from pipeline.hypervisor import answers
from pipeline.hypervisor.paused import disk_error, is_paused_by_disk

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
    """One guest's agent.

    Every method raises GuestError: `guest-agent-silent` when it does not answer, `guest-agent-malformed` when its
    answer cannot be used; and HostError (disk-full, input-output) when the host could not write its guest's disk.
    """

    def __init__(
        self, domain: Callable[[], libvirt.virDomain], log: Path, find_code_page: Callable[[], str] = lambda: "utf-8"
    ) -> None:
        """`domain` gives the guest's domain of this moment: a guest that restarts itself may get another one.

        `find_code_page` gives the codec of what is not UTF-8 in the guest's output; asked when it is needed.
        """
        self._find_domain = domain
        self._log = log
        self._find_code_page = find_code_page

    def call(
        self, command: str, arguments: dict[str, Any] | None = None, *, answer: int = ANSWER, quiet: bool = False
    ) -> Any:
        """Send one command; its `return` value. `quiet`: an answer leaves no line in the log."""
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        domain = self._find_domain()
        try:
            reply = libvirt_qemu.qemuAgentCommand(domain, json.dumps(message), answer, 0)
        except libvirt.libvirtError as error:
            # the text may be the guest's own
            why = answers.printable(error.get_error_message() or "")
            self._note(f"{command}: {why}")
            with contextlib.suppress(BuildError):
                if is_paused_by_disk(domain):
                    raise disk_error(domain) from None
            raise GuestError(f"the guest agent did not answer {command}: {why}", name="guest-agent-silent") from None
        try:
            value = answers.returned(command, reply)
        except GuestError as error:
            self._note(error.message)
            raise
        if not quiet:
            self._note(f"{command}: ok")
        return value

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
        pid = answers.pid("guest-exec", self.call("guest-exec", arguments))
        until = time.monotonic() + deadline
        pause = 0.05
        while True:
            status = answers.status("guest-exec-status", self.call("guest-exec-status", {"pid": pid}))
            if status.exited:
                out, err = (self._decode(text) for text in (status.out, status.err))
                self._note(f"exec {' '.join(argv)[:200]!r}: {status.code} {err.strip()[-500:]!r}")
                return Executed(status.code, out, err)
            if time.monotonic() > until:
                raise GuestError(
                    f"{argv[0]} in the guest did not finish within {deadline:.0f} s", name="guest-command-timeout"
                )
            if check:
                check()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    def _decode(self, output: bytes) -> str:
        """Output as text: each line is UTF-8, or of the guest's own code page. No byte is an error.

        Line by line, because one program of a step may write UTF-8 and the next the console's page; in no code page
        of Windows is a line's end a part of another character.
        """
        return "\n".join(map(self._decode_line, output.split(b"\n")))

    def _decode_line(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            return line.decode(self._find_code_page(), errors="replace")

    def open(self, path: str, mode: str) -> int:
        """Open a guest's file; its handle."""
        command = "guest-file-open"
        return answers.number(command, self.call(command, {"path": path, "mode": mode}), "the handle")

    def read_chunk(self, handle: int, count: int, *, quiet: bool = False) -> tuple[bytes, bool]:
        """At most `count` bytes of an open file, and whether it ends there for now."""
        command = "guest-file-read"
        return answers.chunk(command, self.call(command, {"handle": handle, "count": count}, quiet=quiet), count)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """A guest file's content, at most `limit` bytes."""
        handle = self.open(path, "r")
        try:
            data, ended = b"", False
            while len(data) < limit and not ended:
                piece, ended = self.read_chunk(handle, CHUNK)
                data += piece
            return data[:limit]
        finally:
            self.call("guest-file-close", {"handle": handle})

    def write(self, path: str, data: bytes | IO[bytes]) -> None:
        """Write a guest's file again: these bytes, or those of an open file, a piece at a time."""
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        handle = self.open(path, "wb")
        try:
            while piece := source.read(CHUNK):
                text = base64.b64encode(piece).decode()
                self.call("guest-file-write", {"handle": handle, "buf-b64": text}, quiet=True)
        finally:
            self.call("guest-file-close", {"handle": handle})

    def addresses(self) -> list[str]:
        """The guest's IPv4 addresses but the loopback's."""
        command = "guest-network-get-interfaces"
        return answers.addresses(command, self.call(command))
