"""Known values on a disk: whether a secret of the build stands anywhere on what ships, in any form.

The search is that of `secret_search` with other expressions: it reads all data, freed blocks included, and what is
packed or encoded in it. The values come in with the question; they are in no cache file and in no answer. It runs in
the sandbox's worker; `value_question` asks it.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence

import hyperscan

from pipeline.base.errors import DiskError
from pipeline.disk.disk import Disk
from pipeline.disk.questions import Asked
from pipeline.disk.root import Root
from pipeline.disk.search import owners
from pipeline.disk.secret_search import ANYWHERE, Matcher, Place, Search

#: Places that an answer names, and that are kept.
MOST, MANY = 20, 2_000


def find_values(asked: Asked) -> dict[str, object]:
    """The question's answer: `hits` are [number of the needle, offset, layers, path], and `gaps`."""
    values = [base64.b64decode(data) for _, _, data in asked.parameters["needles"]]
    with asked.disk() as disk:
        running = _ValueSearch(disk, values)
        found = running.run()
        where: dict[int, str] = {}
        root = _root_of(disk)
        if root is not None:
            where = running.search_compressed(root)
        hits = sorted(running.places)[:MOST]
        # a disk without a root file system has places without names
        with contextlib.suppress(DiskError):
            where |= owners(disk.root.places(), [offset for offset, _, _ in hits]) if hits else {}
    listed = [[number, offset, list(layers), where.get(offset, "")] for offset, number, layers in hits]
    return {"hits": listed, "gaps": found.gaps}


def _root_of(disk: Disk) -> Root | None:
    try:
        return disk.root
    except DiskError:
        return None


class _ValueSearch(Search):
    """Notes where each value stands: (offset, number of the value, layers)."""

    # systemd's journal compresses each long message by itself
    inside_files = frozenset({"zstd"})

    def __init__(self, disk: Disk, values: Sequence[bytes]) -> None:
        super().__init__(disk, known=_matcher(values))
        self._lengths = [len(value) for value in values]
        self.places: set[tuple[int, int, tuple[str, ...]]] = set()

    def judge_form(self, number: int, data: bytes, ends: list[int], place: Place, layers: tuple[str, ...]) -> None:
        del data
        for end in ends[:MOST]:
            if len(self.places) < MANY:
                self.places.add((place(end - self._lengths[number]), number, layers))


def _matcher(values: Sequence[bytes]) -> Matcher:
    """Expressions for these values and for what packed data begins with, compiled here: no file keeps them."""
    expressions = [b"".join(b"\\x%02x" % byte for byte in value) for value in values]
    expressions += [pattern for pattern, _, _ in ANYWHERE]
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    flags = [hyperscan.HS_FLAG_DOTALL] * len(expressions)
    database.compile(expressions=expressions, ids=list(range(len(expressions))), flags=flags)
    return Matcher(database, rules=(), rare=0, forms=0, magic=len(values), wide=len(expressions), widths=())
