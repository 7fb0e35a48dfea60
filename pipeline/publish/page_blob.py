"""One disk becomes one page blob: sent whole, or as the difference from an existing blob; then it is read back.

The server's own differences are of no use here (an emulator names everything, Azure needs snapshots of the same
blob): the digests of both disks show the difference, and written pages are read back.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.publish.container import BlobFacts, BlobLease, Container
from pipeline.publish.errors import Conflict, PublishError
from pipeline.publish.journal import Journal
from pipeline.publish.ranges import PAGE_LIMIT, BlockDigests, Changes, Range, cut, difference, merge, sample, whole
from pipeline.publish.source import Md5, SourceDisk, unequal
from pipeline.publish.transfer import Meter, at_once
from pipeline.publish.uploader import Sent

#: Blob metadata by which a journal knows the blob that it is of.
TOKEN = "goldsmith_upload"  # noqa: S105  no password
#: Seconds for a copy on the server: 30 GiB in one account take seconds, but Azure promises nothing.
COPY_DEADLINE = 6 * 3600.0
#: How often pages that read back differently are written again.
REPAIRS = 2


@dataclass(frozen=True)
class Base:
    """A published disk to start from: its blob, the ETag that it had, and its blocks' digests."""

    version: str
    blob: str
    etag: str
    digests: Path


@dataclass(frozen=True)
class Options:
    """How a disk is sent: requests at once, whether it is read back, and whether all of it is."""

    parallel: int = 4
    read_back: bool = True
    verify: bool = False


class _BaseChanged(Exception):
    """The copy differs from the index's description of its source."""


@dataclass
class DiskUpload:
    """The upload of one disk. After `run` the blob is leased until `close`, so that no other process removes it."""

    container: Container
    disk: SourceDisk
    blob: str
    journal: Journal
    options: Options
    metadata: Mapping[str, str]
    meter: Meter
    _lease: BlobLease | None = None
    _read: int = field(default=0)

    def run(self, base: Base | None, why: str) -> Sent:
        """Send the disk. Raises PublishError, and the errors of reading the disk."""
        md5 = Md5(self.disk.path, self.disk.size)
        try:
            try:
                sent = self._send(base, why)
            except _BaseChanged as error:
                self.close()
                sent = self._send(None, str(error))
            self.meter.begin("checksum", 0)
            assert self.journal.header is not None
            # the token stays: until the index is switched, a killed publisher goes on with this blob
            marked = {**self.metadata, TOKEN: str(self.journal.header["token"])}
            self.container.label(self.blob, md5.result(), marked, self._held.id)
        finally:
            md5.stop()
        facts = self.container.facts(self.blob)
        if facts is None or facts.size != self.disk.size:
            raise _differs(self.container, self.blob, "it is missing, or has another size")
        return Sent(self.disk.file, facts.etag, *sent)

    def close(self) -> None:
        """Release the blob's lease."""
        if self._lease is not None:
            self._lease.__exit__()
            self._lease = None

    @property
    def _held(self) -> BlobLease:
        assert self._lease is not None
        return self._lease

    def _send(self, base: Base | None, why: str) -> tuple[str | None, str, int, int, int, int]:
        base, why, resumes = self._prepare(base, why)
        changes = difference(base.digests, self.disk.digests) if base else whole(self.disk.path, self.disk.digests)
        done = dict(self.journal.done) if resumes else {}
        self._write([page for page in changes.writes if page not in done])
        self._clear([page for page in changes.clears if page not in done])
        self._read = 0
        if self.options.read_back or self.options.verify:
            self._prove(changes, base)
        resumed = sum(page.length for page in done)
        return base.version if base else None, why, changes.write_bytes, bytes_of(changes.clears), resumed, self._read

    # ---- the blob, before its pages ------------------------------------------------------------------------------

    def _prepare(self, base: Base | None, why: str) -> tuple[Base | None, str, bool]:
        """Make the blob and lease it, or continue with the blob of the journal."""
        header = self.journal.header
        there = self.container.facts(self.blob)
        if header and there and there.metadata.get(TOKEN) == header["token"] and self._goes_on(header, there, base):
            self._take_lease(header["lease"])
            return (base if header["base"] else None), ("" if header["base"] else why), True
        if there is not None and there.leased:
            raise Conflict(
                f"{self.container.url}/{self.blob} is leased",
                name="publish-busy",
                hint="another publisher writes it; wait until it ends. One that died holds it for a minute",
            )
        if base is not None:
            source = self.container.facts(base.blob)
            if source is None or source.etag != base.etag:
                what = "is missing" if source is None else "has been changed since it was published"
                why = f"the disk of {base.version} on the target {what}"
                base = None
        token, lease = secrets.token_hex(8), str(uuid.uuid4())
        marked = {**self.metadata, TOKEN: token}
        if base is not None:
            try:
                self._copy(base, marked)
            except PublishError as error:
                why = f"the disk of {base.version} could not be copied on the server ({error.name})"
                base = None
        if base is None:
            self.container.create(self.blob, self.disk.size, marked)
        # first the journal: a publisher killed after its lease is granted takes the same lease again
        self.journal.begin(
            {
                "blob": self.blob,
                "tree": self.disk.tree,
                "token": token,
                "lease": lease,
                "base": base.version if base else None,
            }
        )
        self._take_lease(lease)
        return base, why, False

    def _goes_on(self, header: Mapping[str, Any], there: BlobFacts, base: Base | None) -> bool:
        """Whether the journal belongs to this upload."""
        if header["tree"] != self.disk.tree or there.size != self.disk.size:
            return False
        return header["base"] is None or (base is not None and header["base"] == base.version)

    def _take_lease(self, lease: str) -> None:
        self._lease = BlobLease(self.container, self.blob, lease).__enter__()

    def _copy(self, base: Base, metadata: Mapping[str, str]) -> None:
        """Copy the base on the server: from a snapshot, so that neither a writer nor the copy changes the other."""
        snapshot = self.container.snapshot(base.blob, base.etag)
        try:
            self.container.copy(base.blob, snapshot, self.blob, metadata)
            self._await_copy()
        finally:
            self.container.delete_snapshot(base.blob, snapshot)

    def _await_copy(self) -> None:
        until, pause = time.monotonic() + COPY_DEADLINE, 0.05
        while True:
            facts = self.container.facts(self.blob)
            status = facts.copy.get("status") if facts else None
            if facts and facts.copy.get("progress"):
                done, _, total = str(facts.copy["progress"]).partition("/")
                self.meter.begin("copy on the server", int(total or 0))
                self.meter.add(int(done or 0))
            if status == "success":
                return
            if status != "pending" or time.monotonic() > until:
                raise PublishError(
                    f"the copy to {self.container.url}/{self.blob} ended as {status}",
                    name="publish-copy-failed",
                    hint="push again; the disk is then sent whole",
                )
            self.container.retries.stop.wait(pause)
            pause = min(pause * 2, 5.0)

    # ---- pages ---------------------------------------------------------------------------------------------------

    def _write(self, pages: Sequence[Range]) -> None:
        def write(page: Range) -> None:
            self.container.write_page(self.blob, page, self.disk.read(page), self._held.id)
            self.journal.add("w", page)
            self.meter.add(page.length)

        self.meter.begin(f"upload {self.disk.file}", bytes_of(pages))
        at_once(pages, self.options.parallel, write, self.container.retries)

    def _clear(self, pages: Sequence[Range]) -> None:
        def clear(page: Range) -> None:
            self.container.clear_page(self.blob, page, self._held.id)
            self.journal.add("c", page)

        at_once(pages, self.options.parallel, clear, self.container.retries)

    # ---- proof ---------------------------------------------------------------------------------------------------

    def _prove(self, changes: Changes, base: Base | None) -> None:
        """Read back all written blocks and a hundredth of the copied ones, or everything. Writes lost pages again.

        Raises _BaseChanged if copied blocks differ, PublishError (publish-read-back).
        """
        for _ in range(REPAIRS):
            wrong = self.unequal(changes.blocks, "read back")
            if not wrong:
                break
            self._rewrite(changes, wrong)
        else:
            if wrong := self.unequal(changes.blocks, "read back"):
                raise _differs(self.container, self.blob, f"{len(wrong)} blocks are not what was written")
        if base is None and not self.options.verify:
            return
        if self.options.verify:
            rest = set(self.disk.digests.with_data()) - changes.blocks
            wrong = self.unequal(rest, "verify") + self._unexpected_blocks()
        else:
            wrong = self.unequal(sample(self.disk.digests, changes.blocks), "sample")
        if wrong and base is not None:
            raise _BaseChanged(
                f"the disk of {base.version} on the target is damaged: {len(wrong)} blocks differ, the first is "
                f"number {min(wrong)}"
            )
        if wrong:
            raise _differs(self.container, self.blob, f"{len(wrong)} blocks differ from the master")

    def _unexpected_blocks(self) -> list[int]:
        return unexpected_blocks(self.container, self.blob, self.disk.digests)

    def unequal(self, blocks: Iterable[int], what: str) -> list[int]:
        """The blocks that differ on the server."""
        found, count = read_unequal(
            self.container, self.blob, self.disk.digests, blocks, self.options.parallel, self.meter, what
        )
        self._read += count
        return found

    def _rewrite(self, changes: Changes, wrong: Sequence[int]) -> None:
        """Write again the pages that hold the blocks `wrong`."""
        bad = [self.disk.digests.range_of(number) for number in wrong]

        def hit(page: Range) -> bool:
            return any(each.start < page.end and page.start < each.end for each in bad)

        writes, clears = [p for p in changes.writes if hit(p)], [p for p in changes.clears if hit(p)]
        for page in (*writes, *clears):
            self.journal.add("-", page)
        self._write(writes)
        self._clear(clears)


def read_unequal(
    container: Container,
    blob: str,
    digests: BlockDigests,
    blocks: Iterable[int],
    parallel: int,
    meter: Meter,
    what: str,
) -> tuple[list[int], int]:
    """The numbers of the blocks that differ from `digests`, and the number of bytes that were read."""
    pages = list(cut(merge(digests.range_of(number) for number in sorted(blocks)), PAGE_LIMIT))
    wrong: list[int] = []

    def compare(page: Range) -> None:
        wrong.extend(unequal(container.read_range(blob, page), page.start, digests))
        meter.add(page.length)

    meter.begin(what, bytes_of(pages))
    at_once(pages, parallel, compare, container.retries)
    return sorted(wrong), bytes_of(pages)


def unexpected_blocks(container: Container, blob: str, digests: BlockDigests) -> list[int]:
    """Blocks of zeros in which the server has data that is not zeros."""
    from pipeline.cache.digests import BLOCK

    suspects = {
        number
        for each in container.ranges(blob)
        for number in range(each.start // BLOCK, -(-each.end // BLOCK))
        if not digests.has_data(number)
    }
    pages = cut(merge(digests.range_of(number) for number in sorted(suspects)))
    return [number for page in pages for number in unequal(container.read_range(blob, page), page.start, digests)]


def bytes_of(pages: Iterable[Range]) -> int:
    return sum(page.length for page in pages)


def _differs(container: Container, blob: str, why: str) -> PublishError:
    return PublishError(
        f"{container.url}/{blob} was written, but reads back with different content: {why}",
        name="publish-read-back",
        hint="the server or a proxy before it lost writes that it acknowledged; push again, by another way if it "
        "happens again",
    )
