"""The pages of an upload that the server has acknowledged, so that an upload can continue after a crash.

A file of lines: the first is a JSON object that names the upload, each other line is a page: `w START END`
written, `c START END` cleared, `- START END` different when it was read back. A line that a crash
has cut short is ignored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from pipeline.base.errors import HostError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.files import Shape, parse_json, sync_folder
from pipeline.publish.errors import Conflict
from pipeline.publish.ranges import Range

_LINE = re.compile(r"([wc-]) (\d{1,19}) (\d{1,19})", re.ASCII)
#: Bytes of a journal: a page of 4 MiB has some 30, a disk of 2040 GiB half a million pages.
LIMIT = 64 << 20


class _Header(Shape):
    """Which upload a journal is of. `token` is in the blob's metadata too."""

    blob: str
    tree: str
    token: str
    lease: str
    base: str | None


class Journal:
    """The journal of one blob's upload; this process locks it against other processes of this store."""

    def __init__(self, folder: Path, url: str, blob: str) -> None:
        """Raises Conflict (publish-busy) where another process of this store uploads the same blob."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{hashlib.sha256(f'{url} {blob}'.encode()).hexdigest()[:24]}.journal"
        self._lock = threading.Lock()
        self._fd = self._open()
        self.header: dict[str, Any] | None = None
        self.done: dict[Range, str] = {}
        self._read()

    def _open(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                raise Conflict(
                    "another process of this host is publishing the same disk to the same target",
                    name="publish-busy",
                    hint="wait until it ends",
                ) from None
            if os.fstat(fd).st_nlink:
                return fd
            os.close(fd)  # its owner finished and removed it between the two

    def _read(self) -> None:
        text = os.pread(self._fd, LIMIT, 0).decode("utf-8", errors="replace")
        first, _, rest = text.partition("\n")
        try:
            self.header = parse_json(first, _Header) if rest or text.endswith("\n") else None
        except ValueError:
            self.header = None
            return
        for line in rest.split("\n")[:-1]:
            if found := _LINE.fullmatch(line):
                page = Range(int(found[2]), int(found[3]))
                if found[1] == "-":
                    self.done.pop(page, None)
                else:
                    self.done[page] = found[1]

    def begin(self, header: dict[str, Any]) -> None:
        """Clear the journal and begin again."""
        self.header, self.done = header, {}
        os.ftruncate(self._fd, 0)
        self._write(json.dumps(header) + "\n")
        os.fsync(self._fd)
        sync_folder(self.path.parent)

    def add(self, kind: str, page: Range) -> None:
        """Enter a page: `w` acknowledged, `c` cleared, `-` found different. From any thread."""
        self._write(f"{kind} {page.start} {page.end}\n")
        with self._lock:
            if kind == "-":
                self.done.pop(page, None)
            else:
                self.done[page] = kind

    def _write(self, line: str) -> None:
        try:
            os.write(self._fd, line.encode())
        except OSError as error:
            hint = describe_os_error(error).hint
            raise HostError(
                f"{self.path} cannot be written: {error.strerror}", name="publish-journal", hint=hint
            ) from None

    def finish(self) -> None:
        """End the journal: the upload is complete and the index names it."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)
