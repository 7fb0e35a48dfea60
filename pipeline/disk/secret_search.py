"""Secrets in everything that a disk holds: files, freed blocks, and what is packed or encoded in them.

The disk is read once. Hyperscan looks for all rules, for the beginnings of keys and of compressed data, for keywords
in UTF-16 and for runs of base64 at the same time; google-re2 judges the few candidates as the rule means it.
What is unpacked or decoded is looked at in the same way. A bound that is reached ends the search and is a gap that
the caller gets: what was not looked at is never silently clean.
"""

from __future__ import annotations

import binascii
import hashlib
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import hyperscan

from pipeline.base.secret_rules import Rule, rule_set
from pipeline.base.secret_rules.key_formats import FORMS, key_length
from pipeline.base.secret_rules.rules import AFTER, BEFORE, key_digest
from pipeline.disk.disk import Disk
from pipeline.disk.encoded_runs import BREAKS, SECTOR, base64_runs, match_ends, zlib_heads
from pipeline.disk.packed_data import MAGIC, MEMORY, Broken, unpack
from pipeline.disk.pattern_cache import compile_patterns
from pipeline.disk.questions import Asked
from pipeline.disk.root import Root
from pipeline.disk.search import OVERLAP, parts_of, windows

#: Layers within layers that are opened: base64 in a compressed file in a zip.
DEPTH = 3
#: Matches of one buffer, and findings of a disk that are kept.
EVENTS, FINDINGS = 100_000, 2_000
#: What following candidates up may cost on a disk, and for each GiB of its data; one unit is about 5 microseconds. A
#: Debian master with 0.9 GiB costs 80,000.
EFFORT, EFFORT_PER_GIB = 2_000_000, 1_000_000
_OPENING, _JUDGING = 10, 10
#: Bytes that are unpacked in all: this, and as many times as much as the disk has data.
UNPACKED, UNPACKED_TIMES = 1 << 30, 2
#: Bytes around a keyword in UTF-16 that are decoded with it.
WIDE_BEFORE, WIDE_AFTER = 2048, 8192
#: Keywords in UTF-16 in one window, from which on the whole window is decoded.
WIDE_MANY = 1_000
#: Searched only where a file may begin: in the midst of one they are a program's or a kernel's own parts. bzip2 is
#: not among them: pbzip2 writes one stream behind the other, and ten bytes do not match by accident.
_FILES = frozenset({"zlib", "xz", "zstd"})
#: They give nothing before a whole block is there: that nothing came does not show that they are none.
_BLOCKS = frozenset({"xz", "bzip2", "zstd"})
ANYWHERE = tuple(each for each in MAGIC if each[2] != "zlib")
_STEP = 256 << 10
#: The layer that a file system is which compresses its files.
COMPRESSED = "compressed file"

#: Rules that Hyperscan searches for at a third of its speed, because they have no literal text of their own. Each has
#: keywords, without which nothing is judged: it is searched for only where one of them stands.
RARE = frozenset({"sourcegraph-access-token", "facebook-access-token"})
#: What may stand before a vendor's name in gitleaks' rules, in any length down to none.
_LEAD = r"[\w.-]{0,50}?"
#: From a place in a buffer to the disk's offset.
Place = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Hit:
    """`offset` is the disk's; `layers` from the outside in. `digest` tells two secrets apart without either."""

    offset: int
    rule: str
    title: str
    kind: str
    layers: tuple[str, ...]
    digest: bytes


@dataclass
class Found:
    """`gaps` says what was not searched, and why; `broken` is where compressed data began and went on elsewhere."""

    hits: list[Hit] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, list[Any]]:
        hits = [[h.offset, h.rule, h.title, h.kind, list(h.layers), h.digest.hex()] for h in self.hits]
        return {"hits": hits, "gaps": self.gaps, "broken": [list(each) for each in self.broken]}

    @classmethod
    def of_parts(cls, parts: Iterable[Mapping[str, Any]]) -> Found:
        """What `to_json` gave of each part of a disk, as one. Raises ValueError, KeyError, TypeError."""
        found = cls()
        seen: set[tuple[int, str, bytes]] = set()
        for part in parts:
            for offset, rule, title, kind, layers, digest in part["hits"]:
                hit = Hit(
                    int(offset), str(rule), str(title), str(kind), tuple(map(str, layers)), bytes.fromhex(digest)
                )
                # what lies where two parts meet is found in both
                if (key := (hit.offset, hit.rule, hit.digest)) not in seen:
                    seen.add(key)
                    found.hits.append(hit)
            found.gaps += map(str, part["gaps"])
            found.broken += [(int(offset), str(kind)) for offset, kind in part["broken"]]
        return found


@dataclass(frozen=True)
class Matcher:
    database: hyperscan.Database
    #: Those in RARE first: of them the database has a keyword alone.
    rules: tuple[Rule, ...]
    rare: int
    #: Where each kind of expression begins among the numbers.
    forms: int
    magic: int
    wide: int
    #: The length of each keyword in UTF-16.
    widths: tuple[int, ...]


@cache
def matcher() -> Matcher:
    """All expressions, one database. The first call reads or writes a cache file: call it before the confinement."""
    rules = sorted(rule_set().everywhere, key=lambda rule: rule.id not in RARE)
    rare = sum(rule.id in RARE for rule in rules)
    keywords = sorted({word for rule in rules for word in rule.keywords if len(word) > 2} | {b"eyj"})
    wide = [b"\0".join(bytes([byte]) for byte in word) for word in keywords]
    groups: list[list[tuple[bytes, int]]] = [
        [_any_of(rule.keywords) for rule in rules[:rare]]
        + [(_without_lead(rule.trigger).encode("latin-1"), 0) for rule in rules[rare:]],
        [(pattern, hyperscan.HS_FLAG_DOTALL) for pattern, _, _ in FORMS],
        [(pattern, hyperscan.HS_FLAG_DOTALL) for pattern, _, _ in ANYWHERE],
        [(_escaped(word), hyperscan.HS_FLAG_CASELESS) for word in wide],
    ]
    database = compile_patterns([each for group in groups for each in group])
    forms, magic, keywords_at = (sum(map(len, groups[:number])) for number in range(1, len(groups)))
    return Matcher(database, tuple(rules), rare, forms, magic, keywords_at, tuple(map(len, wide)))


def _escaped(word: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in word)


def _any_of(words: Iterable[bytes]) -> tuple[bytes, int]:
    return b"|".join(map(_escaped, words)), hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_SINGLEMATCH


def _without_lead(trigger: str) -> str:
    """The same ends are found without what may stand before, and more quickly."""
    return trigger.replace(f"(?i:{_LEAD}", "(?i:", 1) if trigger.startswith(f"(?i:{_LEAD}") else trigger


def search(disk: Disk, number: int = 0, parts: int = 1) -> Found:
    """Every secret on a disk, or on one of `parts` parts of it, and what could not be searched."""
    part = parts_of(disk, parts)[number]
    return Search(disk, part[0]).run(part)


def search_part(asked: Asked) -> dict[str, list[Any]]:
    """The question of a worker that searches one of several parts of a disk, and nothing else."""
    with asked.disk() as disk:
        return search(disk, int(asked.parameters["number"]), int(asked.parameters["parts"])).to_json()


def search_packed(data: bytes, kind: str, at: int) -> Found:
    """The secrets in one compressed stream that the caller has put together. `at`: what their offset shall be."""
    running = Search(None)
    try:
        running.unpack(kind, iter([data]), at, ())
    except TooManyError as error:
        running.found.gaps.append(f"{error}: the search of the compressed data at byte {at} ended")
    return running.found


class TooManyError(Exception):
    """A bound is reached: the rest of the disk is not searched, and the caller hears of it."""


class Search:
    """`place` gives the disk's offset of a place in a buffer; in a layer, of where its outermost layer begins."""

    #: Kinds of _FILES that are opened in the midst of a file too.
    inside_files: frozenset[str] = frozenset()

    def __init__(self, disk: Disk | None, first: int = 0, known: Matcher | None = None) -> None:
        """`first` is where the part begins that is searched. `known`: by default the rules for secrets."""
        self.found = Found()
        #: Where the part begins; compressed data that begins before it is another part's.
        self._first = first
        self._disk = disk
        self._matcher = known or matcher()
        self._scratch = hyperscan.Scratch(self._matcher.database)
        self._seen: set[tuple[int, str, bytes]] = set()
        self._opened: set[int] = set()
        size = disk.source.data_bytes if disk else 0
        self._room = UNPACKED + UNPACKED_TIMES * size
        self._effort = EFFORT + EFFORT_PER_GIB * (size >> 30)

    def run(self, part: tuple[int, int] | None = None) -> Found:
        """Search the disk, or a part (begin, end) of it."""
        assert self._disk is not None
        for window in windows(self._disk, part):
            try:
                self.look(window.data, partial(operator.add, window.start), ())
            except TooManyError as error:
                self.found.gaps.append(f"{error}: the search ended at byte {window.start} of {self._disk.size}")
                break
        return self.found

    def look(self, data: bytes, place: Place, layers: tuple[str, ...]) -> None:
        """Search a buffer, and what is in it as another layer."""
        known = self._matcher
        wide: list[tuple[int, int]] = []
        for number, ends in self._events(data, place).items():
            if number < known.forms:
                self._judge(known.rules[number], data, ends, place, layers)
            elif number < known.magic:
                self.judge_form(number - known.forms, data, ends, place, layers)
            elif len(layers) >= DEPTH:
                continue
            elif number < known.wide:
                _, length, kind = ANYWHERE[number - known.magic]
                self._open(kind, data, [end - length for end in ends], place, layers)
            else:
                width = known.widths[number - known.wide]
                wide += [(end - width, end) for end in ends]
        if not layers:
            self._open("zlib", data, zlib_heads(data, place(0)), place, layers)
        if len(layers) < DEPTH:
            self._decode_runs(data, place, layers)
        if wide:
            self._decode_wide(data, sorted(wide), place, layers)

    def _events(self, data: bytes, place: Place) -> dict[int, list[int]]:
        """The ends of what matched, by the expression's number."""
        events: dict[int, list[int]] = {}
        left = EVENTS

        def on_match(number: int, _begin: int, end: int, _flags: int, _context: object) -> bool:
            nonlocal left
            left -= 1
            events.setdefault(number, []).append(end)
            return left <= 0

        try:
            self._matcher.database.scan(data, match_event_handler=on_match, scratch=self._scratch)
        except hyperscan.ScanTerminated:
            raise TooManyError(f"more than {EVENTS} candidates near byte {place(0)}") from None
        self._spend((EVENTS - left) // 10)
        for number in [each for each in events if each < self._matcher.rare]:
            events[number] = match_ends(self._matcher.rules[number].trigger.encode("latin-1"), data)
            self._spend(len(events[number]) // 10)
        return events

    def _spend(self, effort: int) -> None:
        self._effort -= effort
        if self._effort < 0:
            raise TooManyError("more candidates than are followed up")

    def _add(self, offset: int, rule: str, title: str, kind: str, layers: tuple[str, ...], digest: bytes) -> None:
        # a window repeats the end of the one before it, and a layer is cut into pieces
        if (offset, rule, digest) in self._seen:
            return
        if len(self._seen) >= FINDINGS:
            raise TooManyError(f"more than {FINDINGS} secrets and test keys")
        self._seen.add((offset, rule, digest))
        self.found.hits.append(Hit(offset, rule, title, kind, layers, digest))

    def _judge(self, rule: Rule, data: bytes, ends: list[int], place: Place, layers: tuple[str, ...]) -> None:
        judged = -1
        for end in ends:
            if end <= judged:
                continue
            self._spend(_JUDGING)
            begin, judged = max(0, end - BEFORE), min(len(data), end + AFTER)
            for finding in rule_set().judge(rule, data[begin:judged]):
                # what was judged may end before the key does
                start = begin + finding.start
                digest = key_digest(data, start) if rule.kind == "key" else finding.digest
                self._add(place(start), rule.id, rule.description, rule.kind, layers, digest)

    def judge_form(self, number: int, data: bytes, ends: list[int], place: Place, layers: tuple[str, ...]) -> None:
        _, length, judge = FORMS[number]
        self._spend(len(ends))
        for end in ends:
            begin = end - length
            name = judge(data, begin)
            if name:
                digest = hashlib.sha256(data[begin : begin + key_length(data, begin)]).digest()
                title = "a KeePass database" if name == "KeePass" else f"a private key ({name})"
                self._add(place(begin), "private-key-bytes", title, "key", layers, digest)

    def _open(self, kind: str, data: bytes, begins: list[int], place: Place, layers: tuple[str, ...]) -> None:
        for begin in begins:
            if layers:
                self.unpack(kind, iter([data[begin:]]), place(begin), layers)
                continue
            at = place(begin)
            if at < self._first or at in self._opened:
                continue
            whole = kind not in _FILES or at % SECTOR == 0
            if whole or kind in self.inside_files:
                self._opened.add(at)
                self.unpack(kind, self._chunks(data, begin, at), at, (), accident=not whole)

    def _chunks(self, data: bytes, begin: int, at: int) -> Iterator[bytes]:
        """What stands from a place of a window on, and behind the window."""
        # most of what looks like compressed data is none: a first small piece shows it
        here, step = 0, 4096
        while begin + here < len(data):
            yield data[begin + here : begin + here + step]
            here, step = min(here + step, len(data) - begin), _STEP
        assert self._disk is not None
        while at + here < self._disk.size and (chunk := self._disk.read(at + here, _STEP)):
            yield chunk
            here += len(chunk)

    def unpack(
        self, kind: str, chunks: Iterator[bytes], at: int, layers: tuple[str, ...], *, accident: bool = False
    ) -> None:
        """Search what one compressed stream holds. `accident`: what is no stream there is no gap in the search."""
        self._spend(_OPENING)
        try:
            self._look_at_pieces(unpack(kind, chunks), at, (*layers, kind))
        except Broken as error:
            if accident:
                return
            # zstandard's four bytes are found by accident in the midst of what was unpacked
            if error.too_large and (kind == "xz" or not layers):
                self.found.gaps.append(
                    f"{kind} at byte {at} needs more than {MEMORY >> 20} MiB of memory: not unpacked"
                )
            elif not layers and (error.begun or kind in _BLOCKS):
                self.found.broken.append((at, kind))

    def search_compressed(self, root: Root) -> dict[int, str]:
        """Search the files that a file system keeps compressed, as it gives them; their paths by where they begin.

        On the disk they are compressed piece by piece, and the smallest stand within other records.
        """
        where: dict[int, str] = {}
        try:
            for path, at in root.compressed():
                where[at] = path
                self._look_at_pieces(root.pieces(path), at, (COMPRESSED,))
        except TooManyError as error:
            self.found.gaps.append(f"{error}: the search of compressed files ended at {path}")
        return where

    def _look_at_pieces(self, pieces: Iterable[bytes], at: int, layers: tuple[str, ...]) -> None:
        tail = b""
        for piece in pieces:
            self._room -= len(piece)
            if self._room < 0:
                raise TooManyError("more compressed data than is unpacked")
            # a value may end with the file
            self.look(b"".join((tail, piece, b"\n")), lambda _: at, layers)
            tail = piece[-OVERLAP:]

    def _decode_runs(self, data: bytes, place: Place, layers: tuple[str, ...]) -> None:
        """Base64, at each of the four places where it may begin: a path or a name may stand right before it."""
        parts: list[bytes] = []
        starts: list[int] = []
        places: list[int] = []
        size = 0
        for begin, end in base64_runs(data):
            raw = data[begin:end].translate(None, BREAKS)
            # zeros keep two runs apart, and each begins where four characters do
            parts.append(raw + b"A" * (8 - len(raw) % 4))
            starts.append(size)
            places.append(begin)
            size += len(parts[-1])
        if not parts:
            return
        self._spend(len(parts))
        joined = b"".join(parts)
        for shift in range(4):
            text = binascii.a2b_base64(joined[shift : shift + (size - shift) // 4 * 4])

            def origin(at: int, shift: int = shift) -> int:
                return place(places[bisect_right(starts, at // 3 * 4 + shift) - 1])

            self.look(text, origin, (*layers, "base64"))

    def _decode_wide(
        self, data: bytes, keywords: list[tuple[int, int]], place: Place, layers: tuple[str, ...]
    ) -> None:
        """UTF-16 of either order around keywords: every second byte."""
        inner = (*layers, "UTF-16")
        if len(keywords) > WIDE_MANY:
            for parity in (0, 1):
                self.look(data[parity::2] + b"\n", _every_second(place, parity), inner)
            return
        done = [0, 0]
        for begin, end in keywords:
            parity = begin % 2
            if end <= done[parity]:
                continue
            self._spend(_OPENING)
            first = max(parity, begin - WIDE_BEFORE)
            done[parity] = end + WIDE_AFTER - WIDE_BEFORE
            text = data[first : end + WIDE_AFTER : 2] + b"\n"
            self.look(text, _every_second(place, first), inner)


def _every_second(place: Place, first: int) -> Place:
    return lambda at: place(first + 2 * at)
