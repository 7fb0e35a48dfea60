"""What two shipped disks have in common: their trees, and byte strings in any sector."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.offline import open_disk

#: (kind, owner, group, mode, digest of the content or target of the link).
Entry = tuple[str, int, int, int, str]

#: What two builds of one definition may differ in, whichever way they went. Globs of paths, with the reason.
EXPECTED = {
    "/etc/.pwd.lock": "made by the first change of an account",
    "/etc/shadow": "the day of a password's last change",
    "/var/lib/systemd/timers/*": "when a timer last ran: names come and go with the length of the build",
    "/var/cache/ldconfig/aux-cache": "inode numbers",
    "/var/lib/apt/periodic/*": "when apt's timer last ran",
    "/var/lib/apt/daily_lock": "left by apt's timer",
    "/var/lib/logrotate/status": "when logs were last rotated",
    "/var/lib/chrony/chrony.drift": "the measured clock",
}


#: Bytes of the shortest needle worth looking for.
SHORTEST = 6


def tree(path: Path) -> dict[str, Entry]:
    """Every path of a VHD's Linux root."""
    found: dict[str, Entry] = {}
    with open_disk(path, "vpc") as disk:
        root = disk.root
        for name, kind in root.walk():
            status = root.stat(name, follow=False)
            assert status is not None, name
            content = ""
            if kind == "file":
                content = hashlib.blake2b(root.read(name, 1 << 30) or b"", digest_size=16).hexdigest()
            elif kind == "link":
                content = root.read_link(name) or ""
            found[name] = (kind, status.uid, status.gid, status.mode, content)
    return found


def differences(one: dict[str, Entry], other: dict[str, Entry], expected: Iterable[str] = ()) -> list[str]:
    """Paths that are not the same in both and not expected to differ."""
    globs = [*EXPECTED, *expected]
    return [
        f"{path}: {one.get(path)} {other.get(path)}"
        for path in sorted({*one, *other})
        if one.get(path) != other.get(path) and not any(fnmatch.fnmatch(path, glob) for glob in globs)
    ]


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
