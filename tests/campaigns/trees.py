"""What two shipped disks have in common: their trees, and byte strings in any sector."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from pathlib import Path

#: Bytes of the shortest needle worth looking for.
SHORTEST = 6


def spellings(secret: bytes) -> list[bytes]:
    """The ways in which a byte string may lie on a disk: raw, hex, base64 at each alignment, UTF-16."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for lead in range(3):
        coded = base64.b64encode(bytes(lead) + secret)
        # without the characters that the neighbours decide
        found.append(coded[4 if lead else 0 : len(coded) - 4])
    if secret.isascii():
        found.append(secret.decode().encode("utf-16-le"))
    # six raw bytes of a MAC address are the shortest that do not turn up by chance
    return [spelling for spelling in dict.fromkeys(found) if len(spelling) >= SHORTEST]


def sectors_with(path: Path, needles: Iterable[bytes]) -> dict[bytes, int]:
    """How often each needle stands in a file, holes passed over."""
    wanted = list(needles)
    longest = max(map(len, wanted))
    count = dict.fromkeys(wanted, 0)
    fd = os.open(path, os.O_RDONLY)
    try:
        end, size = 0, os.fstat(fd).st_size
        while end < size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            rest = b""
            for offset in range(start, end, 1 << 22):
                data = rest + os.pread(fd, min(1 << 22, end - offset), offset)
                for needle in wanted:
                    # what lies wholly in the rest was counted the last time
                    count[needle] += data.count(needle) - rest.count(needle)
                rest = data[-longest + 1 :]
    finally:
        os.close(fd)
    return {needle: number for needle, number in count.items() if number}
