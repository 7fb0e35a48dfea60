"""`make campaign-NAME`: run a corpus whole; its table, with the commit's id, goes to docs/campaign-NAME.md."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

from tests.campaigns.lab import ROOT, Lab, commit_id, new_home, remove

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
    write_table(name, rows, time.monotonic() - began)
    return 0 if all(row["ok"] for row in rows) else 1


def write_table(name: str, rows: list[dict[str, object]], seconds: float) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"# Campaign: {name}", "", f"Commit {commit_id()}, {len(rows)} cases, {seconds:.0f} s in all.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [str(row.get(column, "")).replace("|", "\\|").replace("\n", " ") for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (ROOT / "docs" / f"campaign-{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
