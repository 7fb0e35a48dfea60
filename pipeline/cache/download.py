"""Downloads that resume, checked by sha256 before anyone sees them under their final name.

The server is not trusted: it may send too much, too little, too slowly, something else, or lead elsewhere. Every such
answer ends in an error of its own. What will be the same at the next try is not tried again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from pipeline.base.byte_progress import ByteProgress
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, HostError
from pipeline.base.files import remove_tree
from pipeline.cache.digests import file_digest

#: Seconds without a byte before a download is given up for this try.
STALL = 60.0
TRIES = 5
#: Seconds within which the head of an answer has to be there.
HEAD = 120.0
#: Bytes a second, over SLOW_AFTER seconds, below which a try is given up: 1 GiB would take three days.
SLOWEST, SLOW_AFTER = 4096, 120.0
#: Bytes of the largest file that is fetched where nobody says how large it is: what a fixed VHD can hold.
LARGEST = 2040 << 30
#: Bytes that stay free where a download lies.
RESERVE = 256 << 20
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_LENGTH = re.compile(r"[0-9]{1,19}")
_PROXY_HINT = "check the address, and whether the network needs a proxy (https_proxy)"


class _Broken(Exception):
    """This try failed, and the next one may not."""


def download(
    url: str,
    folder: Path,
    sha256: str,
    *,
    progress: Callable[[str], None],
    size: int | None = None,
    largest: int = LARGEST,
    stall: float = STALL,
) -> Path:
    """Bring `url` to `folder`, named by its checksum; what exists already, and is right, is not loaded again.

    `size` is the file's, where it is known, and `largest` bounds it where not, in bytes. `stall` is in seconds.
    A broken download is taken up where it broke. Raises BuildError (download-failed, download-refused,
    download-certificate, download-redirect, download-too-large), HostError (disk-full), CheckFailed
    (checksum-mismatch: the bytes are thrown away).
    """
    target = folder / sha256
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{sha256}.lock"):
        if _is_right(target, sha256, progress):
            return target
        part = folder / f"{sha256}.part"
        if not part.is_file() or part.is_symlink():
            remove_tree(part)
        _fetch(_Request(url, part, size, largest, stall), progress)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        found = file_digest(part)
        if found != sha256:
            part.unlink()
            raise CheckFailed(
                f"{url} has the sha256 {found}, but the definition requires {sha256}",
                name="checksum-mismatch",
                hint="the file at the URL has changed, or the definition is wrong; the download was deleted",
            )
        part.chmod(0o444)
        part.rename(target)
    return target


def _is_right(target: Path, sha256: str, progress: Callable[[str], None]) -> bool:
    """Whether the file is here and is what its name says; one that is not is removed."""
    if target.is_file() and not target.is_symlink():
        if file_digest(target) == sha256:
            return True
        progress(f"{target.name[:12]} is damaged and is downloaded again")
    remove_tree(target)
    return False


class _Request:
    """What is fetched, and within which bounds."""

    def __init__(self, url: str, part: Path, size: int | None, largest: int, stall: float) -> None:
        self.url = url
        self.part = part
        self.size = size
        self.largest = min(largest, size) if size is not None else largest
        self.stall = stall

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


def _fetch(request: _Request, progress: Callable[[str], None]) -> None:
    """Fill the part. Raises as `download`."""
    last = "it was not tried"
    for _ in range(TRIES):
        try:
            _append(request, progress)
            return
        except GoldsmithError:
            raise
        except _Broken as error:
            last = str(error)
        except urllib.error.HTTPError as error:
            last = _judge_status(request.url, error)
            error.close()
        except urllib.error.URLError as error:
            last = _judge_failure(request.url, error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = _printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    raise BuildError(
        f"{request.url} could not be downloaded in {TRIES} tries: {last}",
        name="download-failed",
        hint="the partial download is kept, and the next build continues it",
    )


def _judge_status(url: str, error: urllib.error.HTTPError) -> str:
    """What to say of an answer that is an error. Raises BuildError for one that the next try will get too."""
    text = f"the server answers {error.code} {_printable(error.reason)}".rstrip()
    if error.code in (408, 416, 425, 429) or error.code >= 500:
        return text
    hints = {
        401: "the address needs a login, which goldsmith cannot give",
        403: "the server denies access to the file: check the address",
        404: "check the address",
    }
    hints |= {
        410: "the file was removed from the server: use another address",
        407: "add the login to the proxy's address",
    }
    if 300 <= error.code < 400:
        raise BuildError(
            f"{url} could not be downloaded: {text}",
            name="download-redirect",
            hint="the server redirects in a circle or to another protocol; use the file's final address",
        )
    raise BuildError(
        f"{url} could not be downloaded: {text}",
        name="download-refused",
        hint=hints.get(error.code, "correct the address; another try would give the same error"),
    )


def _judge_failure(url: str, error: urllib.error.URLError) -> str:
    """What to say of a connection that failed. Raises BuildError for a certificate, which no try makes better."""
    reason = error.reason
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise BuildError(
            f"{url} could not be downloaded: {_printable(reason.verify_message)}",
            name="download-certificate",
            hint="for a company's own authority, put its certificate into /usr/local/share/ca-certificates and run "
            "update-ca-certificates",
        )
    if isinstance(reason, FileNotFoundError | IsADirectoryError | PermissionError):
        raise BuildError(f"{url} could not be read: {reason.strerror}", name="download-refused", hint=_PROXY_HINT)
    return _printable(reason)


def _printable(value: object) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value)[:300])


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to http and https only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = (urllib.parse.urlsplit(each).scheme for each in (req.full_url, newurl))
        if after not in ("http", "https") or (before == "https" and after != "https"):
            raise BuildError(
                f"{req.full_url} leads to {_printable(newurl)}",
                name="download-redirect",
                hint="goldsmith follows redirects to http and https only, and never from https to http; use the "
                "file's final address",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Hurried(http.client.HTTPConnection):
    """A connection whose head of an answer has to come within HEAD seconds, however often a byte of it comes."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Timer(HEAD, self._give_up)
        late.daemon = True
        late.start()
        try:
            return super().getresponse()
        finally:
            late.cancel()

    def _give_up(self) -> None:
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class _HurriedTls(_Hurried, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Hurried, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HurriedTls, req)


def _open(request: _Request, have: int) -> Any:
    opener = urllib.request.build_opener(_SameKind(), _Http(), _Https())
    headers = {"Range": f"bytes={have}-"} if have else {}
    # no packing on the way: the length and the bytes must be those of the file
    wanted = urllib.request.Request(request.url, headers={**headers, "Accept-Encoding": "identity"})  # noqa: S310
    return opener.open(wanted, timeout=request.stall)


def _append(request: _Request, progress: Callable[[str], None]) -> None:
    have = request.have
    try:
        reply = _open(request, have)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            error.close()
            if _whole(error.headers.get("Content-Range"), have):
                return  # nothing is left to fetch: the checksum decides
            request.part.unlink()  # what is here is not the beginning of what is there
            raise _Broken("the server does not resume the download") from None
        raise
    with contextlib.closing(reply):
        status = getattr(reply, "status", None)
        if status not in (None, 200, 206):
            raise _Broken(f"the server answers {status}")
        begin, total = _place(reply.headers, status, have)
        _check_size(request, total)
        with request.part.open("r+b" if begin else "wb") as file:
            file.truncate(begin)
            file.seek(begin)
            _copy(request, reply, file, total, progress)


def _whole(content_range: str | None, have: int) -> bool:
    """Whether a 416 says that the file ends where ours does; a server need not say."""
    found = re.fullmatch(r"bytes \*/([0-9]{1,19})", content_range or "")
    return found is None or int(found[1]) == have


def _place(headers: Message, status: int | None, have: int) -> tuple[int, int | None]:
    """Where an answer's bytes belong, and how large the file will be (None: the server does not say)."""
    length = headers.get("Content-Length")
    if length is not None and not _LENGTH.fullmatch(length.strip()):
        raise _Broken(f"the server sends a length of {_printable(length)!r}")
    size = int(length) if length is not None else None
    if status != 206:
        return 0, size
    found = _RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if found is None and headers.get("Content-Range") is None and have:
        return have, have + size if size is not None else None
    if found is None or not have or int(found[1]) != have or int(found[2]) < int(found[1]):
        raise _Broken(f"the server sends another part than requested: {_printable(headers.get('Content-Range'))}")
    return have, int(found[3]) if found[3] != "*" else int(found[2]) + 1


def _check_size(request: _Request, total: int | None) -> None:
    if total is not None and total > request.largest:
        raise _too_large(request, f"{total} bytes")
    if request.size is not None and total is not None and total != request.size:
        raise BuildError(
            f"{request.url} has {total} bytes, not {request.size}",
            name="download-failed",
            hint="the file at the URL has changed, or the definition is wrong",
        )
    need = (total or 0) - request.have
    free = shutil.disk_usage(request.part.parent).free - RESERVE
    if need > free:
        raise _no_room(request, f"{need >> 20} MiB are needed, but {max(free, 0) >> 20} MiB are free")


def _copy(request: _Request, reply: Any, file: IO[bytes], total: int | None, progress: Callable[[str], None]) -> None:
    began, first = time.monotonic(), file.tell()
    # as much as there is, not as much as would fill the buffer: else a slow sender is never seen to be slow
    read = getattr(reply, "read1", reply.read)
    checked = first
    show = ByteProgress(progress)
    show(first, total)
    while chunk := read(_CHUNK):
        done = file.tell() + len(chunk)
        if done > request.largest or (total is not None and done > total):
            raise _too_large(request, f"more than {min(request.largest, total or request.largest)} bytes")
        if done - checked > 64 << 20 or checked == first:
            checked = done
            if shutil.disk_usage(request.part.parent).free < RESERVE:
                raise _no_room(request, f"less than {RESERVE >> 20} MiB are free")
        file.write(chunk)
        show(done, total)
        seconds = time.monotonic() - began
        if seconds > SLOW_AFTER and done - first < SLOWEST * seconds:
            raise _Broken(f"it came at {(done - first) / seconds:.0f} bytes/s")
    if total is not None and file.tell() < total:
        raise _Broken("the connection ended early")


def _too_large(request: _Request, what: str) -> BuildError:
    request.part.unlink(missing_ok=True)
    return BuildError(
        f"{request.url} sends {what}, but the limit is {request.largest}",
        name="download-too-large",
        hint="check the address; the partial download was deleted",
    )


def _no_room(request: _Request, what: str) -> HostError:
    return HostError(
        f"{request.part.parent} has no space for {request.url}: {what}",
        name="disk-full",
        hint="free space with goldsmith clean --max-size SIZE and goldsmith gallery prune",
    )
