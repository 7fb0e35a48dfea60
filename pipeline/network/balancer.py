"""The door to HAProxy: one process for each endpoint, without rights, inside a namespace, on a socket of the host.

Its configuration has no VM in it: it has free slots, which commands fill over its control socket while it runs. So no
request is lost to a reload, and a process that was started again gets its VMs as any other does.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import os
import pwd
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import HostError

#: The user of Debian's package.
USER = "haproxy"
#: VMs that an endpoint can have: as many as a set.
SLOTS = 100
#: Seconds to connect to a VM. One that has lost its power sends no reset, so this must be short.
CONNECT = 2
#: Seconds between two probes of a VM that answers; two that fail in a row end its requests.
PROBE_EVERY, PROBES_FAILED = 2, 2
#: Seconds to start, on a busy host; seconds for an answer on the control socket; seconds to end.
START, ANSWER, END = 30.0, 10.0, 5.0
#: Bytes of its log.
LOG_LIMIT = 4 << 20
#: Bits of the administrative state in `show servers state`.
#: https://docs.haproxy.org/2.6/management.html#9.3-show%20servers%20state
_MAINTENANCE, _DRAIN = 0x01 | 0x02 | 0x20, 0x08 | 0x10
_BACKEND = "vms"


class Admission(StrEnum):
    """Which requests a VM gets."""

    READY = "ready"  # new ones, if its probe passes
    DRAIN = "drain"  # no new ones; those that it has are answered
    OUT = "maint"  # none


@dataclass(frozen=True)
class Rules:
    """What an endpoint does. `probe`: the path that must answer 200; None: a connection to the port is enough."""

    protocol: str  # tcp | http
    port: int
    probe: str | None = None


@dataclass(frozen=True)
class Backend:
    """A VM behind an endpoint, by its address."""

    address: str
    admission: Admission


@dataclass(frozen=True)
class ServerState:
    """HAProxy's state of a slot. `sessions`: open now. `status` is HAProxy's word: UP, DOWN, MAINT, DRAIN."""

    slot: str
    address: str
    admission: Admission
    status: str
    sessions: int
    requests: int
    check: str

    @property
    def is_up(self) -> bool:
        return self.admission is Admission.READY and self.status.startswith("UP")


def render(rules: Rules) -> str:
    """The configuration. Its description is its digest, by which a running process is known. Pure."""
    http = rules.protocol == "http"
    lines = [
        "defaults",
        "    log global",
        f"    mode {rules.protocol}",
        f"    timeout connect {CONNECT}s",
        "    timeout client 60s",
        "    timeout server 60s",
        "    timeout queue 10s",
        "    timeout check 5s",
        "    retries 3",
        "    option redispatch 1",
        *(["    timeout http-request 10s", "    option http-server-close"] if http else []),
        # a request is sent once more only where that changes nothing: see disable-l7-retry below
        *(["    retry-on conn-failure empty-response"] if http else []),
        "frontend public",
        '    bind "fd@${GOLDSMITH_PUBLIC}"',
        f"    default_backend {_BACKEND}",
        f"backend {_BACKEND}",
        "    balance roundrobin",
        *(["    http-request disable-l7-retry unless METH_GET"] if http else []),
        *(
            [f'    option httpchk GET "{rules.probe}"', "    http-check expect status 200"]
            if rules.probe is not None
            else []
        ),
        # not `on-marked-down shutdown-sessions`: it ends requests that are just being sent to another VM
        f"    default-server check inter {PROBE_EVERY}s fastinter 1s downinter 1s fall {PROBES_FAILED} rise 1",
        f"    server-template vm {SLOTS} 0.0.0.0:{rules.port} disabled",
        "",
    ]
    text = "\n".join(lines)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    head = [
        "# goldsmith writes this file; what is changed by hand is lost",
        "global",
        "    log stdout format raw local0 notice",
        f"    description {digest}",
        '    stats socket "fd@${GOLDSMITH_CONTROL}" level admin',
        "    nbthread 1",
        "    maxconn 1000",
        "    no strict-limits",
        "",
    ]
    return "\n".join(head) + text


def plan_changes(states: Iterable[ServerState], wanted: Iterable[Backend], port: int) -> list[str]:
    """The lines for the control socket that bring the slots to what is wanted. Pure.

    A VM that comes in is held to be down until its probe has passed. Slots keep their VMs; a VM that is not wanted
    any more is out.
    """
    slots, lines = list(states), []
    by_address = {each.address: each for each in wanted}
    held: dict[str, ServerState] = {}
    for state in slots:
        if state.address in by_address and state.address not in held:
            held[state.address] = state
        elif state.admission is not Admission.OUT:
            lines.append(_set(state.slot, "state maint"))
    free = [state for state in slots if held.get(state.address) is not state]
    for address, backend in by_address.items():
        found = held.get(address)
        if found is None:
            if not free:
                raise HostError(
                    f"an endpoint has at most {SLOTS} VMs", name="endpoint-full", hint="make another set and endpoint"
                )
            slot = free.pop(0).slot
            lines += [_set(slot, f"addr {address} port {port}"), *_admit(slot, Admission.OUT, backend.admission)]
        elif found.admission is not backend.admission:
            lines += _admit(found.slot, found.admission, backend.admission)
    return lines


def _set(slot: str, what: str) -> str:
    return f"set server {_BACKEND}/{slot} {what}"


def _admit(slot: str, now: Admission, wanted: Admission) -> list[str]:
    if now is wanted:
        return []
    if now is Admission.OUT:
        # HAProxy takes a server that leaves maintenance for healthy: in the same line it is not
        held_down = f"{_set(slot, 'state ready')}; {_set(slot, 'health down')}"
        return [held_down, *([_set(slot, "state drain")] if wanted is Admission.DRAIN else [])]
    return [_set(slot, f"state {wanted}")]


def parse_states(servers: str, statistics: str) -> list[ServerState]:
    """The slots, by the answers to `show servers state` and `show stat`. Pure."""
    known = {row["svname"]: row for row in csv.DictReader(statistics.lstrip("# ").splitlines())}
    found = []
    for line in servers.splitlines():
        words = line.split()
        if len(words) < 19 or words[1] != _BACKEND:
            continue
        slot, bits, row = words[3], int(words[6]), known.get(words[3], {})
        admission = Admission.OUT if bits & _MAINTENANCE else Admission.DRAIN if bits & _DRAIN else Admission.READY
        found.append(
            ServerState(
                slot,
                words[4],
                admission,
                row.get("status", ""),
                int(row.get("scur") or 0),
                int(row.get("stot") or 0),
                row.get("last_chk") or row.get("check_status") or "",
            )
        )
    return found


def open_public(address: str, port: int) -> socket.socket:
    """The socket of the host on which an endpoint listens. Raises HostError (port-taken, address-unusable)."""
    try:
        return socket.create_server((address, port), backlog=1024)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise HostError(
                f"port {port} of {address} cannot be used: {error.strerror}",
                name="port-taken",
                hint=f"ss -ltnp 'sport = :{port}' shows its process; end it, or choose another port with --public",
            ) from None
        raise HostError(
            f"{address} cannot be listened on: {error.strerror}",
            name="address-unusable",
            hint="use an address of this host, such as 127.0.0.1, or 0.0.0.0 for all",
        ) from None


@dataclass(frozen=True)
class Balancer:
    """HAProxy of one endpoint. `folder` has its configuration and its log; `control` is its socket for commands."""

    folder: Path
    control: Path
    namespace: Path
    rules: Rules

    @property
    def config(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def log(self) -> Path:
        return self.folder / "haproxy.log"

    # ---- its process ---------------------------------------------------------------------------------------------

    def find_process(self) -> int | None:
        """Its process, by the configuration that it was started with; None where there is none."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = os.fsdecode(path.read_bytes()).split("\0")
                if words[0].rpartition("/")[2] == "haproxy" and str(self.config) in words:
                    return int(path.parent.name)
        return None

    def is_current(self) -> bool:
        """Whether it answers, and was started with this configuration."""
        try:
            described = self.ask("show info")
        except OSError:
            return False
        return f"description: {_digest(render(self.rules))}" in described.lower().splitlines()

    def has_config(self) -> bool:
        """Whether its file is the configuration that goldsmith wrote."""
        try:
            return self.config.read_text() == render(self.rules)
        except (OSError, UnicodeDecodeError):
            return False

    def write_config(self) -> None:
        self.config.unlink(missing_ok=True)
        self.config.write_text(render(self.rules))
        self.config.chmod(0o644)

    def start(self, public: socket.socket) -> None:
        """Start it on a socket, which the caller closes afterwards.

        Raises HostError (haproxy-missing, endpoint-not-started).
        """
        uid, gid = _user()
        self.write_config()
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self.control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.control.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(str(self.control))
            control.listen(16)
            descriptors = {"GOLDSMITH_CONTROL": control.fileno(), "GOLDSMITH_PUBLIC": public.fileno()}
            argv = ["nsenter", f"--net={self.namespace}", "setpriv", f"--reuid={uid}", f"--regid={gid}"]
            argv += ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
            child = process.start(
                [*argv, "haproxy", "-db", "-f", self.config],
                self.log,
                log_limit=LOG_LIMIT,
                env={name: str(number) for name, number in descriptors.items()},
                pass_fds=tuple(descriptors.values()),
            )
        until = time.monotonic() + START
        while not self.is_current():
            if child.poll() is not None or time.monotonic() > until:
                process.end(child)
                raise HostError(
                    f"HAProxy did not start: {self.last_line()}",
                    name="endpoint-not-started",
                    hint=f"read {self.log}; goldsmith doctor looks at this host",
                )
            time.sleep(0.02)

    def last_line(self) -> str:
        """The last line of its log."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it printed nothing"

    def end(self) -> None:
        """End its process, if there is one: SIGTERM, then SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + END
            while (pid := self.find_process()) is not None and time.monotonic() < until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                time.sleep(0.02)
        self.control.unlink(missing_ok=True)

    # ---- its slots -----------------------------------------------------------------------------------------------

    def ask(self, line: str) -> str:
        """Its answer to a line on its control socket. Raises OSError."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(ANSWER)
            link.connect(str(self.control))
            link.sendall(f"{line}\n".encode())
            answer = b""
            while more := link.recv(1 << 16):
                answer += more
        return answer.decode(errors="replace")

    def states(self) -> list[ServerState]:
        """Its slots. Raises OSError."""
        return parse_states(self.ask(f"show servers state {_BACKEND}"), self.ask(f"show stat {_BACKEND} 4 -1"))

    def align(self, wanted: Iterable[Backend]) -> None:
        """Bring its slots to what is wanted. Raises OSError, HostError (endpoint-full)."""
        for line in plan_changes(self.states(), wanted, self.rules.port):
            self.ask(line)


def _digest(config: str) -> str:
    words = next(line.split() for line in config.splitlines() if line.strip().startswith("description "))
    return words[1]


def _user() -> tuple[int, int]:
    """The user and the group of HAProxy. Raises HostError (haproxy-missing)."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        entry = None
    if entry is None or process.find("haproxy") is None:
        raise HostError(
            "HAProxy, which serves endpoints, is not installed",
            name="haproxy-missing",
            hint="make setup installs it; by hand: apt-get install haproxy",
        )
    return entry.pw_uid, entry.pw_gid
