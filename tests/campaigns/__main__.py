"""`make campaign-NAME`: run a whole corpus; its table goes to docs/reports/campaign-NAME.md, with the commit's id."""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
import time
from pathlib import Path

from tests.harness import PART, ROOT, Lab, commit_id, new_home, remove

Row = dict[str, object]

#: Corpora that build guests; each module has campaign(lab, master, say) -> rows.
GUESTS = (
    *(
        "az_walk",
        "boots",
        "concurrency",
        "debian_releases",
        "fabric_faults",
        "fake_windows",
        "guest_faults",
        "kill_builder",
    ),
    *("kill_in_stage", "likenesses", "lisa", "patch_nights", "projects", "refresh_nights", "ten_clones", "upgrade"),
)
#: Corpora that build none; each module has its own main().
NO_GUESTS = (
    *("attacks", "az", "build_host", "corpus", "deletions", "emergency_patch", "faults", "fleet", "gallery"),
    *("host_power", "hostile_clients", "kills"),
    *("mutations", "other_roots", "publish_faults", "records", "rolling_upgrade", "roots", "secrets", "soak"),
    *("vm_sequences", "windows"),
)
#: Images that campaigns begin with, in place of debian-12, the base of the tests with guests.
BASES = {"boots": "debian-13", "lisa": "debian-13", "upgrade": "debian-13"}
#: Names that campaigns had before, which still work.
ALIASES = {
    "crowd": "concurrency",
    "fourteen": "patch_nights",
    "kill": "kill_builder",
    "moments": "kill_in_stage",
    "nights": "refresh_nights",
    "standin": "fake_windows",
    "suites": "debian_releases",
    "ten": "ten_clones",
    "weather": "fabric_faults",
}


def main() -> int:
    name = module_name(sys.argv[1]) if len(sys.argv) == 2 else ""
    if name not in GUESTS + NO_GUESTS:
        names = ", ".join(map(shown, sorted(GUESTS + NO_GUESTS)))
        print(f"usage: make campaign-NAME, NAME one of {names}", file=sys.stderr)
        return 2
    if name in NO_GUESTS:
        module = importlib.import_module(f"tests.campaigns.{name}")
        return int(module.main())
    began = time.monotonic()
    kept = os.environ.get("GOLDSMITH_TEST_HOME")
    home = Path(kept) if kept else new_home(name)
    project = new_home(f"{name}-project")
    lab = Lab(project, home)
    try:
        master = Path()
        if name not in ("debian_releases", "fake_windows", "likenesses"):
            # the base of the faulty and the killed: the repository's own golden master, in a store of its own
            base = Lab(ROOT, home)
            image = BASES.get(name, "debian-12")
            assert base.run("build", image).returncode == 0
            master = Path(base.master(image)["path"])
        module = importlib.import_module(f"tests.campaigns.{name}")
        page = Page(name)
        rows = module.campaign(lab, master, page.say)
    finally:
        remove(project)
        if not kept:
            remove(home)
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


def module_name(word: str) -> str:
    """The module of a campaign, of its name with dashes, or of a name that it had before."""
    name = word.replace("-", "_")
    return ALIASES.get(name, name)


def shown(module: str) -> str:
    """The name of a campaign as `make campaign-NAME` takes it."""
    return module.replace("_", "-")


class Page:
    """The page of a campaign, written again with each row: one that is stopped keeps what it found.

    Of a part of the corpus (GOLDSMITH_PART) only the rows that were run again are other ones.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROOT / "docs/reports" / f"campaign-{shown(name)}.md"
        self.part = bool(os.environ.get(PART))
        self.kept = read_rows(self.path.read_text()) if self.part and self.path.exists() else []
        self.come: list[Row] = []
        self.lock = threading.Lock()

    def say(self, row: Row | str) -> None:
        """A row that has come, or words; from any thread."""
        with self.lock:
            print(row, flush=True)
            if isinstance(row, dict):
                self.come.append(row)
                self.write(self.come, "not ended")

    def write(self, new: list[Row], took: str) -> None:
        names = {str(next(iter(row.values()))) for row in new}
        rows = [*(row for row in self.kept if next(iter(row.values())) not in names), *new]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        took = f"{len(new)} of them run again: {took}" if self.part else took
        load = f"load {os.getloadavg()[2]:.1f} in its last quarter of an hour, {os.cpu_count()} processors"
        lines = [
            f"# Campaign: {shown(self.name)}",
            "",
            f"Commit {commit_id()}, {len(rows)} cases, {took}; {load}.",
            "",
        ]
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in rows:
            cells = [str(row.get(column, "")).replace("|", "\\|").replace("\n", " ") for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
        self.path.write_text("\n".join(lines) + "\n")


def read_rows(page: str) -> list[Row]:
    """The rows of a page that `Page` wrote."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| ")]
    head, *rest = [[cell.strip().replace("\\|", "|") for cell in line] for line in lines]
    return [dict(zip(head, cells, strict=True)) for cells in rest]


if __name__ == "__main__":
    sys.exit(main())
