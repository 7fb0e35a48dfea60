"""Downloads that resume, checked by sha256 before anyone sees them under their final name."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from pipeline.errors import BuildError, CheckFailed

#: Seconds without a byte before a download is given up for this try.
STALL = 60
TRIES = 5
_CHUNK = 1 << 20


def download(url: str, folder: Path, sha256: str, *, progress: Callable[[str], None]) -> Path:
    """Bring `url` to `folder`, named by its checksum; what is there already is not loaded again.

    A broken download is taken up where it broke. Raises BuildError when it does not come, CheckFailed when it is
    not what the checksum says (the bytes are thrown away).
    """
    target = folder / sha256
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{sha256}.part"
    with FileLock(folder / f"{sha256}.lock"):
        if target.exists():
            return target
        last = "no try was made"
        for _ in range(TRIES):
            try:
                _append(url, part, progress)
                break
            except (OSError, urllib.error.URLError) as error:
                last = str(error)
        else:
            raise BuildError(
                f"{url} could not be downloaded in {TRIES} tries: {last}",
                name="download-failed",
                hint="what came so far is kept: the next build goes on from there",
            )
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != sha256:
            part.unlink()
            raise CheckFailed(
                f"{url}: sha256 is {found}, the definition says {sha256}",
                name="checksum-mismatch",
                hint="the file at the URL changed, or the definition is wrong; the download was thrown away",
            )
        part.chmod(0o444)
        part.rename(target)
    return target


def _append(url: str, part: Path, progress: Callable[[str], None]) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        reply = urllib.request.urlopen(request, timeout=STALL)  # noqa: S310  the definition allows http(s) and file
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return  # nothing is left to fetch: the checksum decides
        raise
    with reply:
        resumed = reply.status == 206 if hasattr(reply, "status") and reply.status else False
        length = reply.headers.get("Content-Length")
        total = (have if resumed else 0) + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                done = file.tell()
                progress(f"{done >> 20} of {total >> 20} MiB" if total else f"{done >> 20} MiB")
            if total is not None and file.tell() < total:
                raise OSError("the connection ended early")
