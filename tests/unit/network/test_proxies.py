"""The host's proxies: where they are found, what a guest is given, and what their relay lets through."""

from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.definition.ansible_config import AnsibleConfig
from pipeline.guest.ansible_run import AnsibleProject
from pipeline.network import proxy_relay
from pipeline.network.egress import GATEWAY, PROXY_PORT, Egress
from pipeline.network.namespaces import inside
from pipeline.network.proxies import HostProxies, Proxy, bootstrap_variables, read_proxies, read_proxy
from pipeline.network.proxy_relay import ProxyRelay, Request, Upstream, closed_name, forwarded_head, read_head
from pipeline.systems.linux.steps import Steps
from tests.unit.stages.test_step_empty import Here

LOGIN = "Basic " + base64.b64encode(b"anna:p@ss word").decode()
APT = """\
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://127.0.0.1:3142/";
Acquire::http::Proxy::mirror.corp.example "DIRECT";
Acquire::https::Proxy "http://anna:p%40ss%20word@proxy.example:8080";
"""


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://127.0.0.1:3128/", Proxy("127.0.0.1", 3128)),
        ("proxy:8080", Proxy("proxy", 8080)),
        ("proxy.example", Proxy("proxy.example", 80)),
        ("https://proxy.example", Proxy("proxy.example", 443, tls=True)),
        ("http://anna:p%40ss%20word@proxy:1", Proxy("proxy", 1, authorization=LOGIN)),
        *((text, None) for text in ("", "DIRECT", "false", "socks5h://127.0.0.1:1080", "http://proxy:x", "http://")),
    ],
)
def test_how_a_proxy_is_written(text: str, proxy: Proxy | None) -> None:
    assert read_proxy(text) == proxy


def test_the_environments_proxy_is_for_everything_and_apts_for_apt() -> None:
    found = read_proxies({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2", "no_proxy": "corp.example"}, APT)
    assert found.variables == {"https_proxy": Proxy("b", 2)}
    assert [proxy.host for proxy in found.all] == ["b", "127.0.0.1", "proxy.example"]
    numbers = {proxy: f"http://10.0.2.2:{3128 + number}" for number, proxy in enumerate(found.all)}
    variables = found.guest_environment(lambda proxy: numbers[proxy])
    assert variables["https_proxy"] == variables["HTTPS_PROXY"] == "http://10.0.2.2:3128"
    assert variables["no_proxy"] == "localhost,127.0.0.1,::1,corp.example" and "http_proxy" not in variables
    text = found.guest_apt(lambda proxy: numbers[proxy])
    assert 'Acquire::http::Proxy "http://10.0.2.2:3129";' in text
    assert 'Acquire::http::Proxy::mirror.corp.example "DIRECT";' in text
    # neither a proxy's own address nor its password
    result = text + json.dumps(variables) + repr(found)
    assert "proxy.example" not in text and "anna" not in result and LOGIN.split()[1] not in result


def test_a_host_without_a_proxy_gives_nothing() -> None:
    for environment, apt in (({}, ""), ({"http_proxy": ""}, 'Acquire::http::Proxy "DIRECT";\n')):
        found = read_proxies(environment, apt)
        assert found == HostProxies() and found.guest_environment(str) == {} and found.guest_apt(str) == ""


def test_the_bootstrap_gets_apts_proxies_as_variables() -> None:
    assert bootstrap_variables(read_proxies({}, APT)) == {
        "http_proxy": "http://127.0.0.1:3142",
        "https_proxy": "http://anna:p%40ss%20word@proxy.example:8080",
        "no_proxy": "mirror.corp.example",
    }
    detected = read_proxies({}, 'Acquire::http::Proxy-Auto-Detect "/x";\n', "http://cache:3142/")
    assert bootstrap_variables(detected) == {"http_proxy": "http://cache:3142"}


# -- the relay ----------------------------------------------------------------------------------------------


def test_heads() -> None:
    head = b"GET http://h.example/x HTTP/1.1\r\nProxy-Authorization: x\r\nConnection: keep-alive\r\n\r\n"
    request = read_head(head)
    assert request == Request(b"GET", "h.example", 80, head, 0)
    sent = forwarded_head(request, LOGIN)
    assert sent.count(b"Proxy-Authorization") == 1 and LOGIN.encode() in sent and b"Connection: close" in sent
    assert b"keep-alive" not in sent and sent.endswith(b"\r\n\r\n")
    connect = read_head(b"CONNECT h.example:443 HTTP/1.1\r\n\r\n")
    assert connect is not None and (connect.host, connect.port) == ("h.example", 443)
    for odd in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET https://h/ HTTP/1.1\r\n\r\n",
        b"x\r\n\r\n",
        b"GET http://h:x/ HTTP/1.1\r\n\r\n",
    ):
        assert read_head(odd) is None


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "localhost", "x.localhost", "169.254.169.254", "10.0.0.1", "0.0.0.0"),
        *("::1", "::ffff:127.0.0.1", "fd00:ec2::254", "168.63.129.16"),
    ],
)
def test_what_is_closed_to_guests_is_closed_through_a_proxy_too(host: str) -> None:
    egress = Egress("x", Path())
    assert closed_name(host, 80, egress._refused)
    assert not closed_name("93.184.216.34", 80, egress._refused)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class _Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that answers by itself: with what it was asked."""

    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Proxy-Authorization"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"through the proxy: {self.path}".encode())

    def do_CONNECT(self) -> None:
        self.seen.append((self.path, self.headers["Proxy-Authorization"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.rfile.read(4)[::-1])

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, list[tuple[str, str | None]]]]:
    """A proxy on this host's loopback, and what it was asked."""
    _Proxy.seen = []
    server = _Server(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Upstream("127.0.0.1", server.server_port, authorization=LOGIN), _Proxy.seen
    server.shutdown()
    server.server_close()


def ask(address: tuple[str, int], text: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as link:
        link.sendall(text)
        answer = b""
        while data := link.recv(4096):
            answer += data
        return answer


def test_a_relay_serves_one_request_and_adds_the_password(
    upstream: tuple[Upstream, list[tuple[str, str | None]]],
) -> None:
    proxy, seen = upstream
    listener = socket.create_server(("127.0.0.1", 0))
    relay = ProxyRelay(listener, proxy, lambda address, _port: address == "127.0.0.1")
    try:
        here = listener.getsockname()
        get = b"GET http://93.184.216.34/x HTTP/1.1\r\nHost: x\r\n\r\n"
        # a second request on the same connection would pass unlooked at
        assert b"through the proxy: http://93.184.216.34/x" in ask(
            here, get + b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n"
        )
        assert b"dcba" in ask(here, b"CONNECT 93.184.216.34:443 HTTP/1.1\r\n\r\nabcd")
        assert seen == [("http://93.184.216.34/x", LOGIN), ("93.184.216.34:443", LOGIN)]
        assert b" 403 " in ask(here, b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n")
        assert b" 403 " in ask(here, b"CONNECT localhost:22 HTTP/1.1\r\n\r\n")
        assert b" 411 " in ask(here, b"POST http://93.184.216.34/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert len(seen) == 2
    finally:
        relay.close()


def test_a_proxy_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_relay, "REACH", 60.0)
    # bound, so that no other process takes the port, and not listening
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    listener = socket.create_server(("127.0.0.1", 0))
    relay = ProxyRelay(listener, Upstream("127.0.0.1", closed.getsockname()[1]), lambda *_: False)
    try:
        answer = ask(listener.getsockname(), b"GET http://93.184.216.34/ HTTP/1.1\r\n\r\n")
        assert b" 502 " in answer and b"the host's proxy does not answer: Connection refused" in answer
    finally:
        relay.close()
        closed.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_the_way_out_leads_to_a_proxy_on_the_hosts_loopback_alone(
    upstream: tuple[Upstream, list[tuple[str, str | None]]], tmp_path: Path
) -> None:
    proxy, seen = upstream
    egress = Egress(f"p{os.getpid() % 10000}", tmp_path, (), [proxy])
    egress.open()
    try:
        url = egress.proxy_address(0)
        assert url == f"http://{GATEWAY}:{PROXY_PORT}"

        def fetch() -> bytes:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": url}))
            body: bytes = opener.open("http://93.184.216.34/page", timeout=60).read()
            return body

        assert inside(egress.path, fetch) == b"through the proxy: http://93.184.216.34/page"
        assert seen == [("http://93.184.216.34/page", LOGIN)]
        with pytest.raises(OSError):
            inside(egress.path, lambda: socket.create_connection((GATEWAY, proxy.port), timeout=2))
    finally:
        egress.close()


def test_tasks_have_the_proxy_and_their_own_environment_goes_before(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    out = tmp_path / "out"
    (tmp_path / "site.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  environment: {OTHER: play, B: play}\n  tasks:\n"
        f"    - ansible.builtin.shell: echo $A $B $OTHER >>{out}\n"
        f"    - ansible.builtin.shell: echo $A $B >>{out}\n      environment: {{B: task}}\n"
        f"    - {{ansible.builtin.shell: 'echo host$A >>{out}', delegate_to: localhost}}\n"
        f"    - {{ansible.builtin.command: 'true', notify: h}}\n"
        f"  handlers:\n    - {{name: h, ansible.builtin.shell: 'echo $A >>{out}'}}\n"
    )
    Steps(Here(tmp_path, "root", 1), lambda: None).playbook(
        tmp_path / "site.yml",
        None,
        ansible=AnsibleProject(AnsibleConfig()),
        deadline=120,
        on_line=lambda _line: None,
        task_environment={"A": "proxy", "B": "proxy"},
    )
    assert out.read_text().splitlines() == ["proxy play play", "proxy task", "host", "proxy"]
