"""Identities of services outside systemd and ssh, by the table that generalize removes by."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from pipeline.checks.model import HOUSE, Subject, check
from pipeline.disk.root import Root
from pipeline.systems.linux.service_identity import TABLE, Identity, has_line

#: Bytes of a file that are searched for a row's mark.
_LIMIT = 4 << 20
#: Names in a folder that a pattern is compared with.
_NAMES = 10_000


def identity_paths(root: Root) -> dict[str, Identity]:
    """Each file of the root that holds an identity of the table, with its row."""
    found: dict[str, Identity] = {}
    for row in TABLE:
        for pattern in row.paths:
            for path in _matching(root, pattern):
                if path not in found and _is_identity(root, path, row):
                    found[path] = row
    return found


def _matching(root: Root, pattern: str) -> list[str]:
    """The regular files that a path with * in it means. A name that begins with a dot needs one in the pattern."""
    paths = [""]
    for part in pattern.split("/")[1:]:
        if "*" not in part:
            paths = [f"{path}/{part}" for path in paths]
            continue
        paths = [
            f"{path}/{name}"
            for path in paths
            for name in root.listdir(path or "/")[:_NAMES]
            if fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
        ]
    return [path for path in paths if root.is_file(path)]


def _is_identity(root: Root, path: str, row: Identity) -> bool:
    if not row.mark:
        found = root.stat(path)
        return found is not None and found.size > 0
    return has_line((root.read(path, _LIMIT) or b"").decode("utf-8", "replace"), row.mark)


@check(
    "service-identity",
    "No service has an identity of the build machine",
    why="Clones with the same initiator name, node id or key receive each other's disks, certificates and messages.",
    remedy="Each finding says what to do. goldsmith's generalize removes what a service creates again.",
    source="the services' documentation, and " + HOUSE,
)
def service_identity(subject: Subject) -> Iterator[str]:
    for path, row in identity_paths(subject.root).items():
        yield f"{path} ({row.service}): {row.what}; {row.remedy}"
