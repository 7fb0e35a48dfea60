from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import BuildError, CheckFailed
from pipeline.fetch import download

DATA = os.urandom(3 << 20)


@pytest.fixture
def server():
    """Breaks each connection after 1 MiB, and serves ranges."""
    requests: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            requests.append(wanted)
            start = int(wanted.split("=")[1].rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(DATA) - start))
            self.end_headers()
            self.wfile.write(DATA[start : start + (1 << 20)])

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}/disk", requests
    httpd.shutdown()


def test_a_broken_download_is_taken_up_where_it_broke(server, tmp_path: Path) -> None:
    url, requests = server
    path = download(url, tmp_path, hashlib.sha256(DATA).hexdigest(), progress=lambda _t: None)
    assert path.read_bytes() == DATA
    assert requests == [None, "bytes=1048576-", "bytes=2097152-"]
    download(url, tmp_path, hashlib.sha256(DATA).hexdigest(), progress=lambda _t: None)
    assert len(requests) == 3


def test_wrong_bytes_are_thrown_away(server, tmp_path: Path) -> None:
    url, _ = server
    with pytest.raises(CheckFailed, match="sha256 is"):
        download(url, tmp_path, "0" * 64, progress=lambda _t: None)
    assert not list(tmp_path.glob("*.part"))


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="could not be downloaded"):
        download("http://127.0.0.1:1/disk", tmp_path, "0" * 64, progress=lambda _t: None)
