"""What a clone answers at a port of the relay: one request, one answer, as it is.

No redirect is followed and no proxy is asked: what is fetched comes from this clone and from nothing else. What a
clone answers is not trusted: its body, its headers and the time that it takes are bounded.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from dataclasses import dataclass
from urllib.parse import quote

#: Bytes of a body that are read and looked through.
LARGEST_BODY = 1 << 20
#: Characters of a clone's own words in a message.
WORDS = 120


@dataclass(frozen=True)
class Answer:
    """A clone's answer: its status, where a redirect leads, the first LARGEST_BODY bytes of its page."""

    status: int
    location: str
    body: str
    size: int

    def describe(self) -> str:
        """For a clone's result: `302 to 'http://...', 0 bytes`."""
        to = f" to {self.location[:WORDS]!r}" if self.location else ""
        return f"{self.status}{to}, {self.size} bytes"


def fetch(port: int, path: str, deadline: float) -> Answer:
    """What the server at a port of the loopback answers to a GET, within `deadline` seconds in all.

    Raises OSError where there is no answer of HTTP's in that time.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=deadline)
    try:
        connection.connect()
        link = connection.sock
        # a timeout of a socket begins again with each byte: this one is for the whole
        late = threading.Event()
        ends = threading.Timer(deadline, _hang_up, (link, late))
        ends.daemon = True
        ends.start()
        try:
            connection.request("GET", quote(path, safe="/?#[]@!$&'()*+,;=:%-._~"), headers={"Connection": "close"})
            answer = _read(connection.getresponse())
            if late.is_set():
                raise OSError(f"no whole page within {deadline:.0f} s")
            return answer
        finally:
            ends.cancel()
    except http.client.HTTPException as error:
        # its text may quote what the clone sent
        raise OSError(f"the answer is not HTTP: {type(error).__name__}: {str(error)[:WORDS]!r}") from None
    except ValueError as error:
        raise OSError(f"the answer is not HTTP: {str(error)[:WORDS]!r}") from None
    finally:
        connection.close()


def _hang_up(link: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse) -> Answer:
    body = bytearray()
    while len(body) < LARGEST_BODY and (piece := response.read1(min(65536, LARGEST_BODY - len(body)))):
        body += piece
    redirects = 300 <= response.status < 400
    return Answer(
        response.status,
        (response.getheader("Location") or "") if redirects else "",
        body.decode(errors="replace"),
        len(body),
    )
