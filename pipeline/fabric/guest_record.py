"""The record of one guest: its newest requests and the answers in memory, and a log on disk; bounded by `limits`."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.fabric import limits, wireserver
from pipeline.fabric.extension import HandlerStatus
from pipeline.fabric.instance import WIRESERVER, Event, Exchange, Instance, Report, Request, Response
from pipeline.fabric.registration import CertificateState

EXCHANGE_LOG, DHCP_LOG = "fabric.jsonl", "dhcp.log"


class GuestRecord:
    """One guest's record. `kept`: exchanges in memory. Where it `rotates`, a full log makes room for the newest."""

    def __init__(
        self, instance: Instance, logs: Path, *, kept: int = limits.KEPT_EXCHANGES, rotates: bool = False
    ) -> None:
        self.instance = instance
        self.exchanges: deque[Exchange] = deque(maxlen=kept)
        self.reports: deque[Report] = deque(maxlen=limits.KEPT_REPORTS)
        self.events: deque[Event] = deque(maxlen=limits.KEPT_EVENTS)
        self.certificate = CertificateState.NONE
        self._extensions: dict[str, HandlerStatus] = {}
        self._log_left = limits.LOG
        self._log = logs / EXCHANGE_LOG
        self._dhcp_left = limits.DHCP_LOG
        self._dhcp_log = logs / DHCP_LOG
        self._rotates = rotates
        if rotates:
            self._log_left = limits.LOG // 2 - (self._log.stat().st_size if self._log.exists() else 0)
            self._dhcp_left -= self._dhcp_log.stat().st_size if self._dhcp_log.exists() else 0
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @property
    def report(self) -> Report | None:
        """The guest's last report about its provisioning. A working VM repeats a plain `Ready`."""
        with self._lock:
            return self.reports[-1] if self.reports else None

    def extension_status(self, name: str) -> HandlerStatus | None:
        """What the agent reported last of an extension in this boot; None before it did."""
        with self._lock:
            return self._extensions.get(name)

    def begin(self) -> None:
        """Forget all reports, because another boot begins. The record on disk is continued."""
        with self._lock:
            self.reports.clear()
            self.exchanges.clear()
            self.events.clear()
            self._extensions.clear()
            self.certificate = CertificateState.NONE
            self._began = time.monotonic()

    def asked(self) -> list[Exchange]:
        with self._lock:
            return list(self.exchanges)

    def record(self, request: Request, response: Response) -> Report | None:
        """Keep the exchange within `limits`. Returns the report that this request makes, if any."""
        exchange = Exchange(
            round(time.monotonic() - self._began, 2), _kept_request(request), _kept_response(response)
        )
        report = wireserver.health_report(request) if request.host == WIRESERVER else None
        events = wireserver.events(request) if request.host == WIRESERVER else []
        statuses = wireserver.handler_statuses(request) if request.host == WIRESERVER else []
        with self._lock:
            self.exchanges.append(exchange)
            self.events += events
            if request.host == WIRESERVER and response.status == 200:
                self.certificate = _certificate_after(self.certificate, request)
            if statuses:
                self._extensions = {status.name: status for status in statuses}
            if report is not None:
                self.reports.append(report)
            # a guest that waits for its answer gets it on a full disk too
            with contextlib.suppress(OSError):
                self._write(json.dumps(_as_json(exchange, report)) + "\n")
        return report

    def record_dhcp(self, lines: tuple[str, ...]) -> None:
        """Keep the messages between the guest and the DHCP server."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = "".join(f"{moment} {line}\n" for line in lines)
        with self._lock, contextlib.suppress(OSError):
            if len(text) > self._dhcp_left and self._rotates:
                self._dhcp_log.unlink(missing_ok=True)
                self._dhcp_left = limits.DHCP_LOG
            if len(text) <= self._dhcp_left:
                self._dhcp_left -= len(text)
                with self._dhcp_log.open("a") as log:
                    log.write(text)

    def _write(self, line: str) -> None:
        if len(line) > self._log_left and self._rotates:
            self._log.replace(self._log.with_name(f"{EXCHANGE_LOG}.1"))
            self._log_left = limits.LOG // 2
        if self._log_left <= 0:
            return
        if len(line) > self._log_left:
            line = json.dumps({"note": f"the log has reached its limit of {limits.LOG >> 20} MiB"}) + "\n"
            self._log_left = 0
        self._log_left -= len(line)
        with self._log.open("a") as log:
            log.write(line)


def _certificate_after(before: CertificateState, request: Request) -> CertificateState:
    """What the agent has of the VM's certificate after a request that was answered."""
    if before is CertificateState.NONE and wireserver.is_certificates(request):
        return CertificateState.FETCHED
    # waagent writes the files of a goal state, then reports its status
    if before is CertificateState.FETCHED and wireserver.is_status(request):
        return CertificateState.TAKEN
    return before


def _kept_request(request: Request) -> Request:
    """The request as the record keeps it: its bodies and words bounded."""
    headers = {
        name: value[: limits.KEPT_HEADER] for name in limits.KEPT_HEADERS if (value := request.headers.get(name))
    }
    return replace(
        request, target=request.target[: limits.KEPT_TARGET], headers=headers, body=request.body[: limits.KEPT_BODY]
    )


def _kept_response(response: Response) -> Response:
    return replace(response, body=response.body[: limits.KEPT_BODY])


def _as_json(exchange: Exchange, report: Report | None) -> dict[str, object]:
    asked, response = exchange.request, exchange.response
    data: dict[str, object] = {
        "at": exchange.at,
        "to": f"{asked.host}:{asked.port}",
        "method": asked.method,
        "target": asked.target,
        "agent": asked.headers.get("user-agent") or asked.headers.get("x-ms-agent-name", ""),
        "status": "dropped" if response.drop else response.status,
    }
    if report is not None:
        data["report"] = {"state": report.state, "substatus": report.substatus, "description": report.description}
    for name, body in (("body", asked.body), ("answer", response.body)):
        if body:
            try:
                data[name] = body.decode()
            except UnicodeDecodeError:
                data[name] = "base64:" + base64.b64encode(body).decode()
    return data


def parse_exchange(line: Mapping[str, Any]) -> Exchange | None:
    """An exchange from a line of the log; None for another line, such as a note."""
    try:
        host, _, port = str(line["to"]).rpartition(":")
        agent = str(line.get("agent", ""))
        request = Request(
            str(line["method"]),
            int(port),
            str(line["target"]),
            {"user-agent": agent} if agent else {},
            _body(line.get("body")),
            host,
        )
        status = line["status"]
        response = Response(0, drop=True) if status == "dropped" else Response(int(status), _body(line.get("answer")))
        return Exchange(float(line["at"]), request, response)
    except (KeyError, TypeError, ValueError):
        return None


def _body(text: object) -> bytes:
    if not isinstance(text, str):
        return b""
    return base64.b64decode(text.removeprefix("base64:")) if text.startswith("base64:") else text.encode()
