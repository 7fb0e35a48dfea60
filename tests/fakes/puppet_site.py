"""A web server for puppets, in the current namespace: `python -m tests.fakes.puppet_site PORT NAME SWITCH`.

/health answers 200 while the file SWITCH exists, else 503; every other page is NAME. It prints a line once it
listens, and ends when its standard input ends.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, NAME, SWITCH = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        good = self.path != "/health" or SWITCH.exists()
        body = f"{NAME}\n".encode()
        self.send_response(200 if good else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("0.0.0.0", PORT), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.read()
