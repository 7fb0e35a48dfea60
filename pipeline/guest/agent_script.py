"""A script that a guest runs by itself, started and followed over its agent.

It needs neither a network nor an sshd, which an emulated guest takes seconds for; a step may stop either. It is a
unit of its own, so that a step which upgrades the agent is not ended with it. What it says is read while it runs.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.hypervisor.agent import CHUNK, Agent
from pipeline.hypervisor.answers import MALFORMED, refuse

#: Where a script's output and its exit code lie in the guest: memory, so that a full disk can still be reported.
FOLDER = "/run/goldsmith-script"
#: Bytes of a script that goes along with the command that starts it. libvirt takes messages of 4 MiB.
LARGEST = 1 << 20
#: What goes before a script that names no interpreter.
DEFAULT_HEAD = b"#!/bin/sh\nset -e\n"
#: Seconds that the agent may be silent while its guest lives: it is restarted, or the guest is busy.
SILENCE = 120.0
#: Bytes of output after which what was read is freed in the guest's memory.
FREE_EVERY = 8 << 20
#: Bytes of each stream that an error keeps.
KEPT = 64 << 10
#: Seconds between two looks, at first and at most.
QUICK, SLOW = 0.05, 0.4
_CODE = re.compile(r"[0-9]{1,3}", re.ASCII)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

#: Seconds that a guest which shuts down waits for a script that called for that and has not ended yet.
STOP = 20

# A script that has ended well is removed, and only then: the guest's memory, where its exit code lies, does not
# outlive a restart that it has called for as its last command. systemd ends the unit meanwhile, hence the trap.
_START = rf"""
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
rm -rf {FOLDER}
mkdir -m 700 {FOLDER}
for name in out err code; do : >{FOLDER}/$name; done
script=$1
if [ "$2" = stdin ]; then
    (umask 077; cat >"$script")
    chmod 700 "$script"
fi
shift 2
left=$#
while [ "$left" -gt 0 ]; do set -- "$@" -E "$1"; shift; left=$((left - 1)); done
exec systemd-run --quiet --collect --working-directory=/root -p KillMode=process -p TimeoutStopSec={STOP} \
    -E HOME=/root -E USER=root -E LOGNAME=root -E SHELL=/bin/sh -E "PATH=$PATH" "$@" \
    /bin/sh -c 'trap : TERM; "$1" </dev/null >{FOLDER}/out 2>{FOLDER}/err; code=$?
        if [ "$code" = 0 ]; then rm -f "$1"; fi; echo "$code" >{FOLDER}/code' \
    sh "$script"
"""


class _End(Enum):
    """How following a script ended: with its exit code, or with a restart of its guest."""

    ENDED = "ended"
    RESTARTED = "restarted"


@dataclass
class _Stream:
    """One file of the script, read from where the last look ended."""

    name: str
    on_line: Callable[[str], None] | None
    handle: int = -1
    read: int = 0
    freed: int = 0
    tail: bytes = b""
    cut: process.LineCutter = field(init=False)

    def __post_init__(self) -> None:
        self.cut = process.LineCutter(self.on_line)

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.name}"

    @property
    def text(self) -> str:
        return self.tail.decode("utf-8", "replace")


def new_place() -> str:
    """A path in the guest for a script; nobody there can guess it."""
    return f"/var/tmp/goldsmith-step.{secrets.token_hex(8)}"  # noqa: S108  not on this host


class AgentScript:
    """The way to run scripts in one guest. `alive` is called while waiting, and raises when the guest is lost."""

    def __init__(
        self,
        agent: Agent,
        alive: Callable[[], None],
        *,
        restarts: Callable[[], int] = lambda: 0,
        boot_time: float = SILENCE,
    ) -> None:
        """`restarts` counts the guest's restarts, which take `boot_time` seconds at most."""
        self._agent = agent
        self._alive = alive
        self._restarts = restarts
        self._boot_time = boot_time

    def run(
        self,
        script: bytes | str,
        *,
        deadline: float,
        on_line: Callable[[str], None] = lambda _line: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run a script (or the file of this path in the guest) as root, by its own `#!` line.

        It is removed where it ended well. One that has restarted the guest as its last command has ended well too.
        `environment` is added to what a script has.
        `on_line` gets each line of stdout and stderr as it comes. Raises CommandFailed, CommandTimeout after
        `deadline` seconds, GuestError(step-failed) when the guest lost it, GuestError(guest-rebooted) when the guest
        restarted before its end, or what `alive` raises.
        """
        until = time.monotonic() + deadline
        boot = self._agent.read(_BOOT_ID, 64)
        path, data = (script, b"") if isinstance(script, str) else (new_place(), script)
        if data and not data.startswith(b"#!"):
            data = DEFAULT_HEAD + data
        variables = [f"{name}={value}" for name, value in (environment or {}).items()]
        started = self._agent.execute(
            ["/bin/sh", "-c", _START, "sh", path, "stdin" if data else "file", *variables],
            stdin=data,
            deadline=min(deadline, SILENCE),
            check=self._alive,
        )
        if started.code != 0:
            raise process.CommandFailed(["script"], started.code, started.stdout, started.stderr, None)
        streams = [_Stream("out", on_line), _Stream("err", on_line), _Stream("code", None)]
        out, err, code = streams
        if self._follow(streams, boot, until, deadline) is _End.RESTARTED:
            self._judge_restarted(path)
            return
        if not _CODE.fullmatch(code.text.strip()):
            refuse("guest-file-read", "the script's exit code is not a number")
        if (number := int(code.text)) != 0:
            raise process.CommandFailed(["script"], number, out.text, err.text, None)

    def _judge_restarted(self, path: str) -> None:
        """Whether the script had ended well before the guest restarted. Raises GuestError (guest-rebooted)."""
        there = self._agent.execute(["/bin/sh", "-c", '[ -e "$1" ]', "sh", path], deadline=SILENCE, check=self._alive)
        if there.code == 0:
            raise GuestError(
                "the guest restarted before the script had ended",
                name="guest-rebooted",
                hint="make `reboot` the script's last command, and put the rest into the next step",
            )

    def _follow(self, streams: list[_Stream], boot: bytes, until: float, deadline: float) -> _End:
        """Read until the exit code is there and all that was said before it, or the guest has restarted."""
        pause, heard, restarts = QUICK, time.monotonic(), self._restarts()
        *outputs, code = streams
        while True:
            self._alive()
            try:
                # the code is read first: all that the script said lies before it
                self._read(code)
                ended = code.text.endswith("\n")
                came = [self._read(stream) for stream in outputs]
                heard = time.monotonic()
            except GuestError as error:
                if error.name == MALFORMED:
                    raise
                if self._restarts() != restarts:
                    restarts, heard = self._restarts(), time.monotonic() + self._boot_time - SILENCE
                if self._again(streams, boot, error, heard) is _End.RESTARTED:
                    return _End.RESTARTED
                continue
            if ended and not any(came):
                for stream in outputs:
                    stream.cut.end()
                return _End.ENDED
            if time.monotonic() > until:
                raise process.CommandTimeout(["script"], deadline)
            pause = QUICK if any(came) else min(pause * 1.5, SLOW)
            time.sleep(pause)

    def _read(self, stream: _Stream) -> int:
        """Take in what is new; the number of its bytes."""
        if stream.handle < 0:
            stream.handle = self._agent.open(stream.path, "r")
            if stream.read:
                place = {"handle": stream.handle, "offset": stream.read, "whence": "set"}
                self._agent.call("guest-file-seek", place)
        data, _ = self._agent.read_chunk(stream.handle, CHUNK, quiet=True)
        stream.read += len(data)
        stream.tail = (stream.tail + data)[-KEPT:]
        stream.cut.feed(data)
        if stream.read - stream.freed > FREE_EVERY:
            length = str(stream.read - stream.freed)
            where = ["-o", str(stream.freed), "-l", length, stream.path]
            self._agent.execute(["/usr/bin/fallocate", "--punch-hole", *where], deadline=SILENCE)
            stream.freed = stream.read
        return len(data)

    def _again(self, streams: list[_Stream], boot: bytes, error: GuestError, heard: float) -> _End | None:
        """After a call that failed: the agent was restarted, is busy, or is another boot's."""
        self._alive()
        if time.monotonic() - heard > SILENCE:
            raise GuestError(
                f"the guest's agent has not answered for {SILENCE:.0f} s: {error.message}",
                name="step-failed",
                hint="check whether the step stopped qemu-guest-agent or used all memory; the guest's journal is "
                "in the run's folder",
            )
        time.sleep(SLOW)
        try:
            same = self._agent.read(_BOOT_ID, 64) == boot
        except GuestError as failure:
            if failure.name == MALFORMED:
                raise
            return None
        if not same:
            for stream in streams:
                stream.cut.end()
            return _End.RESTARTED
        for stream in streams:
            stream.handle = -1
        return None
