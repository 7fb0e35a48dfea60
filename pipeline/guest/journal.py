"""A guest's journal read off its disk at rest: no mount, no guest, and its files only by a confined journalctl."""

from __future__ import annotations

from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import DiskError
from pipeline.base.runs import remove_tree
from pipeline.cache.layers import Image
from pipeline.disk import tools
from pipeline.disk.facts import journal_files

JOURNAL = "/var/log/journal"
#: Bytes of text that are taken: 4000 lines have about 1 MiB.
TEXT_LIMIT = 16 << 20


def read_journal(image: Image, work: Path, store: Path) -> str:
    """The journal's text (the last 4000 lines). Raises DiskError when the disk or the journal cannot be read."""
    found = journal_files(image.path, image.format.key, JOURNAL, within=store)
    if not found:
        raise DiskError(
            "the disk has no journal",
            name="journal-missing",
            hint="the guest did not boot far enough to write a journal; read serial.log",
        )
    folder = work / "journal-files"
    folder.mkdir(exist_ok=True)
    for number, (name, data) in enumerate(found, 1):
        (folder / f"{number}-{name}").write_bytes(data)
    if process.find("journalctl") is None:
        return f"{len(found)} journal files are in {folder}; journalctl is not installed here to read them\n"
    running = tools.Local().start("journal", {"files": [str(folder)]})
    text = running.stream.read(TEXT_LIMIT).decode("utf-8", "replace")
    running.finish()
    remove_tree(folder)
    return text
