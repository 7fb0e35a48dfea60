"""Downloads from a real server on the loopback that does everything wrong that a server can."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, HostError
from pipeline.cache import download as fetch
from pipeline.cache.download import download

DATA = random.Random(1).randbytes(3 << 20)
SHA = hashlib.sha256(DATA).hexdigest()


class Server:
    """Serves by `answer`, which gets the handler; remembers the Range of each request."""

    def __init__(self) -> None:
        self.requests: list[str | None] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = broken
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append(self.headers.get("Range"))
                self.close_connection = True
                with contextlib.suppress(OSError):
                    outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/disk"
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.httpd.shutdown()
    made.httpd.server_close()


def get(server: Server, folder: Path, sha256: str = SHA, **bounds: object) -> Path:
    return download(server.url, folder, sha256, progress=lambda _t: None, **bounds)  # type: ignore[arg-type]


def start_of(handler: BaseHTTPRequestHandler) -> int:
    wanted = handler.headers.get("Range")
    return int(wanted.split("=")[1].rstrip("-")) if wanted else 0


def broken(handler: BaseHTTPRequestHandler) -> None:
    """Breaks each connection after 1 MiB, and serves ranges."""
    start = start_of(handler)
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(DATA) - start))
    handler.end_headers()
    handler.wfile.write(DATA[start : start + (1 << 20)])


def whole(handler: BaseHTTPRequestHandler) -> None:
    """Knows no ranges."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.end_headers()
    handler.wfile.write(DATA)


def test_a_broken_download_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.requests == [None, "bytes=1048576-", "bytes=2097152-"]
    get(server, tmp_path)
    assert len(server.requests) == 3


def test_wrong_bytes_are_thrown_away(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="has the sha256"):
        get(server, tmp_path, "0" * 64)
    assert not list(tmp_path.glob("*.part"))


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="could not be downloaded"):
        download("http://127.0.0.1:1/disk", tmp_path, "0" * 64, progress=lambda _t: None)


def test_a_damaged_file_of_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path)
    for damage in (DATA[:-1] + b"x", b"", DATA[: 1 << 20]):
        path.chmod(0o644)
        path.write_bytes(damage)
        assert get(server, tmp_path).read_bytes() == DATA
    path.unlink()
    path.mkdir()  # even a folder of its name
    assert get(server, tmp_path).read_bytes() == DATA
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert get(server, tmp_path).read_bytes() == DATA
    (tmp_path / f"{SHA}.part").mkdir()
    path.unlink()
    assert get(server, tmp_path).read_bytes() == DATA


def test_what_was_fetched_of_another_file_does_no_harm(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(random.randbytes(1000))
    with pytest.raises(CheckFailed, match="has the sha256"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == DATA


# ---- answers that are wrong --------------------------------------------------------------------------------------


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return give


def raw(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: (handler.wfile.write(data), None)[1]


def status_line(*lines: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", b""))


WRONG = {
    "500": (answer(500, b"sorry"), "download-failed", 5),
    "503": (answer(503), "download-failed", 5),
    "404": (answer(404, b"no"), "download-refused", 1),
    "403": (answer(403), "download-refused", 1),
    "401": (answer(401), "download-refused", 1),
    "410": (answer(410), "download-refused", 1),
    "204": (answer(204), "download-failed", 5),
    "206 unasked": (answer(206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"), "download-failed", 5),
    "redirect to a file": (answer(302, Location="file:///etc/passwd"), "download-redirect", 1),
    "redirect to ftp": (answer(302, Location="ftp://127.0.0.1/x"), "download-redirect", 1),
    "redirect to data": (answer(302, Location="data:,x"), "download-redirect", 1),
    "redirect in a circle": (answer(302, Location="/disk"), "download-redirect", 5),
    "redirect to nowhere": (answer(302), "download-redirect", 1),
    "redirect to nonsense": (answer(302, Location="http://[/"), "download-failed", 5),
    "no HTTP": (raw(b"220 mail.example ESMTP\r\n"), "download-failed", 5),
    "nothing": (raw(b""), "download-failed", 5),
    "half a head": (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), "checksum-mismatch", 1),
    "huge status": (raw(b"HTTP/1.1 " + b"9" * 70_000 + b"\r\n\r\n"), "download-failed", 5),
    "many heads": (raw(status_line(*[b"X: y"] * 500)), "download-failed", 5),
    "length a word": (raw(status_line(b"Content-Length: much")), "download-failed", 5),
    "length negative": (raw(status_line(b"Content-Length: -1")), "download-failed", 5),
    "length of 5000 digits": (raw(status_line(b"Content-Length: " + b"9" * 5000)), "download-failed", 5),
    "length full-width": (raw(status_line("Content-Length: ３".encode())), "download-failed", 5),
    "length too large": (raw(status_line(b"Content-Length: 9000000000000000000")), "download-too-large", 1),
    "truncated": (raw(status_line(b"Content-Length: 3145728") + DATA[:1000]), "download-failed", 5),
    "no length, truncated": (raw(status_line(b"Connection: close") + DATA[:1000]), "checksum-mismatch", 1),
    "chunks of garbage": (raw(status_line(b"Transfer-Encoding: chunked") + b"zz\r\nwhat\r\n"), "download-failed", 5),
    "chunks negative": (raw(status_line(b"Transfer-Encoding: chunked") + b"-5\r\nwhat\r\n"), "download-failed", 5),
    "chunks cut short": (raw(status_line(b"Transfer-Encoding: chunked") + b"ff\r\nwhat"), "download-failed", 5),
    "escape codes": (answer(404, b"", X="y"), "download-refused", 1),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_ends_in_an_error_of_its_own(server: Server, tmp_path: Path, case: str) -> None:
    server.answer, name, tries = WRONG[case]
    with pytest.raises(GoldsmithError) as caught:
        get(server, tmp_path)
    assert (caught.value.name, len(server.requests)) == (name, tries)
    assert caught.value.hint
    assert caught.value.message.isprintable()
    assert not (tmp_path / SHA).exists()


RANGES = {
    "another start": {"Content_Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"},
    "backwards": {"Content_Range": "bytes 1048576-1/3145728"},
    "words": {"Content_Range": "bytes from here"},
    "another unit": {"Content_Range": "lines 1048576-3145727/3145728"},
    "no digits": {"Content_Range": "bytes \u0661-\u0662/*".encode().decode("latin-1")},
    "huge": {"Content_Range": f"bytes 1048576-{'9' * 19}/{'9' * 19}"},
}


@pytest.mark.parametrize("case", RANGES)
def test_a_wrong_range_is_not_written_where_it_does_not_belong(server: Server, tmp_path: Path, case: str) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(DATA[: 1 << 20])
    server.answer = answer(206, b"wrong", **RANGES[case])
    with pytest.raises(BuildError) as caught:
        get(server, tmp_path)
    assert caught.value.name == ("download-too-large" if case == "huge" else "download-failed")
    server.answer = whole
    assert get(server, tmp_path).read_bytes() == DATA


def test_416_of_a_file_that_became_shorter_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(b"x" * (len(DATA) + 5))

    def shorter(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range"):
            answer(416, Content_Range=f"bytes */{len(DATA)}")(handler)
        else:
            whole(handler)

    server.answer = shorter
    assert get(server, tmp_path).read_bytes() == DATA


def test_416_of_a_file_that_is_here_whole_is_no_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(DATA)
    server.answer = answer(416, Content_Range=f"bytes */{len(DATA)}")
    assert get(server, tmp_path).read_bytes() == DATA


def test_a_server_that_knows_no_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(random.randbytes(4 << 20))
    server.answer = whole
    assert get(server, tmp_path).read_bytes() == DATA


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 20))


def test_an_endless_answer_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.answer = endless
    for bounds in ({"largest": 4 << 20}, {"size": 4 << 20}):
        with pytest.raises(BuildError) as caught:
            get(server, tmp_path, **bounds)
        assert caught.value.name == "download-too-large"
        assert not list(tmp_path.glob("*.part"))


def test_more_than_was_announced_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.answer = answer(200, DATA, Content_Length=str(len(DATA)))
    with pytest.raises(BuildError) as caught:
        get(server, tmp_path, size=len(DATA) - 1)
    assert caught.value.name == "download-too-large"


def test_what_does_not_fit_is_refused_before_it_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = fetch.shutil.disk_usage(tmp_path).free
    server.answer = answer(200, b"", Content_Length=str(free + (1 << 40)))
    with pytest.raises(HostError) as caught:
        get(server, tmp_path)
    assert caught.value.name == "disk-full" and len(server.requests) == 1
    # the server does not say how much comes, and the disk fills meanwhile
    monkeypatch.setattr(fetch, "RESERVE", free + (1 << 40))
    server.answer = endless
    with pytest.raises(HostError) as caught:
        get(server, tmp_path)
    assert caught.value.name == "disk-full"


def drip(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def give(handler: BaseHTTPRequestHandler) -> None:
        for byte in data:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)

    return give


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_server_that_drips_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(fetch, "SLOW_AFTER", 0.2)
    monkeypatch.setattr(fetch, "HEAD", 0.3)
    monkeypatch.setattr(fetch, "TRIES", 2)
    head = status_line(b"Content-Length: 3145728")
    server.answer = drip(head) if where == "head" else lambda h: (h.wfile.write(head), drip(DATA)(h), None)[2]
    began = time.monotonic()
    with pytest.raises(BuildError) as caught:
        get(server, tmp_path)
    assert caught.value.name == "download-failed"
    assert time.monotonic() - began < 60


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/disk"
        with pytest.raises(BuildError, match="timed out"):
            download(url, tmp_path, SHA, progress=lambda _t: None, stall=0.2)


def test_a_certificate_that_nobody_vouches_for_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    greeted = []

    def greet() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            greeted.append(link)
            with contextlib.suppress(OSError):
                context.wrap_socket(link, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/disk"
        with pytest.raises(BuildError) as caught:
            download(url, tmp_path / "downloads", SHA, progress=lambda _t: None)
    assert caught.value.name == "download-certificate" and len(greeted) == 1
    assert "update-ca-certificates" in (caught.value.hint or "")
