"""A guest's journal read off its disk at rest: no mount, no guest."""

from __future__ import annotations

from pathlib import Path

from pipeline import command
from pipeline.errors import DiskError
from pipeline.layers import Image
from pipeline.offline import open_disk
from pipeline.record import remove_tree

JOURNAL = "/var/log/journal"
#: Bytes taken of one journal file.
LIMIT = 64 << 20


def read_journal(image: Image, work: Path, store: Path) -> str:
    """The journal's text (the last 4000 lines). Raises DiskError when the disk or the journal cannot be read."""
    folder = work / "journal-files"
    folder.mkdir(exist_ok=True)
    with open_disk(image.path, image.format, allow_backing_within=store) as disk:
        root = disk.root
        found = 0
        for machine in root.listdir(JOURNAL):
            for name in root.listdir(f"{JOURNAL}/{machine}"):
                if name.endswith((".journal", ".journal~")):
                    found += 1
                    (folder / f"{found}-{name}").write_bytes(root.read(f"{JOURNAL}/{machine}/{name}", LIMIT) or b"")
    if not found:
        raise DiskError("the disk holds no journal", name="journal-missing")
    if command.find("journalctl") is None:
        return f"{found} journal files are in {folder}; journalctl is not installed here to read them\n"
    text = command.run(["journalctl", "--no-pager", "-D", folder, "-n", "4000"], deadline=60, ok_codes=(0, 1)).stdout
    remove_tree(folder)
    return text
