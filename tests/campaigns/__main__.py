"""`make campaign-NAME`: run a corpus whole; its table, with the commit's id, goes to docs/campaign-NAME.md."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from pathlib import Path

from tests.campaigns.lab import PART, ROOT, Lab, commit_id, new_home, remove

# as pytest does by its `pythonpath`: a corpus may use what the unit tests make
sys.path.insert(0, str(ROOT / "tests" / "unit"))

#: Corpora that build guests; each module has campaign(lab, master, say) -> rows.
GUESTS = ("boots", "crowd", "faults", "fourteen", "kill", "moments", "nights", "suites", "standin", "ten", "weather")


def main() -> int:
    if len(sys.argv) != 2:
        print(f"usage: make campaign-NAME, NAME one of {', '.join(GUESTS)}", file=sys.stderr)
        return 2
    name = sys.argv[1]
    if name not in GUESTS:
        # a corpus without guests brings its own main
        module = importlib.import_module(f"tests.campaigns.{name}")
        return int(module.main())
    began = time.monotonic()
    kept = os.environ.get("GOLDSMITH_TEST_HOME")
    home = Path(kept) if kept else new_home(name)
    project = new_home(f"{name}-project")
    lab = Lab(project, home)
    try:
        master = Path()
        if name not in ("suites", "standin"):
            # the base of the faulty and the killed: the repository's own golden master, in a store of its own
            base = Lab(ROOT, home)
            assert base.run("build", "debian-12").returncode == 0
            master = Path(base.master("debian-12")["path"])
        module = importlib.import_module(f"tests.campaigns.{name}")
        rows = module.campaign(lab, master, lambda text: print(text, flush=True))
    finally:
        remove(project)
        if not kept:
            remove(home)
    write_table(name, rows, time.monotonic() - began, part=bool(os.environ.get(PART)))
    return 0 if all(row["ok"] for row in rows) else 1


def write_table(name: str, rows: list[dict[str, object]], seconds: float, *, part: bool = False) -> None:
    """The page of a campaign. Of a `part`, only the rows that were run anew are other ones."""
    page = ROOT / "docs" / f"campaign-{name}.md"
    if part and page.exists():
        new = {str(next(iter(row.values()))): row for row in rows}
        old = [row for row in _rows(page.read_text()) if next(iter(row.values())) not in new]
        rows = [*old, *rows]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    took = f"the last run took {seconds:.0f} s for a part of them" if part else f"{seconds:.0f} s in all"
    lines = [f"# Campaign: {name}", "", f"Commit {commit_id()}, {len(rows)} cases, {took}.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [str(row.get(column, "")).replace("|", "\\|").replace("\n", " ") for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    page.write_text(text)
    print(text)


def _rows(page: str) -> list[dict[str, object]]:
    """The rows of a page that `write_table` wrote."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| ")]
    head, *rest = [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]
    return [dict(zip(head, cells, strict=True)) for cells in rest]


if __name__ == "__main__":
    sys.exit(main())
