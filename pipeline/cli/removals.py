"""How every verb that deletes says what it removes: a line each, and the total; with `--json` one document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline.cli.show import print_json, size, table


@dataclass(frozen=True)
class Row:
    """One thing that goes, or that is kept because of `kept`. `bytes`: what it takes on the disk."""

    kind: str
    name: str
    bytes: int = 0
    why: str = ""
    kept: str = ""


def print_removals(rows: Sequence[Row], *, dry: bool, as_json: bool) -> None:
    """Print the removed items, or with `dry` the items that would be removed, and the total."""
    gone = [row for row in rows if not row.kept]
    total = sum(row.bytes for row in gone)
    if as_json:
        removed = [{key: value for key, value in asdict(row).items() if key != "kept"} for row in gone]
        kept = [asdict(row) for row in rows if row.kept]
        print_json({"dry_run": dry, "removed": removed, "kept": kept, "count": len(gone), "bytes": total})
        return
    shown = [
        (row.kind, row.name, size(row.bytes) if row.bytes else "", f"kept: {row.kept}" if row.kept else row.why)
        for row in rows
    ]
    table(shown, ("what", "name", "size", "why"))
    if not gone:
        print("nothing to remove", file=sys.stderr)
        return
    taking = f", {size(total)}" if total else ""
    print(f"{'would remove' if dry else 'removed'} {count_of(len(gone), 'item')}{taking}")


def count_of(number: int, word: str) -> str:
    """'1 item', '2 items'."""
    return f"{number} {word}{'' if number == 1 else 's'}"
