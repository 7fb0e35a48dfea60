"""`python -m tests.bench.bench_pages`: the page of a large version, and how long a shell waits for a completion.

The version has 1,000 packages, all of them changed since the version before, and a disk with the data of 100,000
files, each at a place of its own. Chromium opens the page in a new process each time; the page's own clock says when
it was loaded and laid out. The table goes to docs/reports/pages.md.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.base.store import Store
from pipeline.evidence.page_parts import measure_disk
from tests.browser import dump, has_browser
from tests.demo_gallery import add_version, page_of
from tests.harness import GOLDSMITH, ROOT, commit_id, describe_load

PAGE = ROOT / "docs/reports/pages.md"
PACKAGES, FILES, ROUNDS = 1_000, 100_000, 20
#: Bytes of the disk, and of the data of each file on it.
DISK_SIZE, FILE_SIZE = 8 << 30, 4096
#: Puts the milliseconds until the page was laid out into the document: asking for its height makes the browser do it.
_CLOCK = """
<script>
addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const height = document.documentElement.scrollHeight;
  const out = document.createElement("pre");
  out.id = "clock";
  out.textContent = `${performance.now()} ${height}`;
  document.body.append(out);
});
</script>
"""
#: Lines of a shell, each of which ends where the user presses Tab.
LINES = (
    "goldsmith bu",
    "goldsmith build de",
    "goldsmith build debian-13 --from ",
    "goldsmith prove debian-13 --target ",
    "goldsmith gallery show debian-13@",
    "goldsmith gallery ",
    "goldsmith runs show ",
    "goldsmith vm ssh ",
)


def large_page(root: Path) -> tuple[Path, float]:
    """The page of a large version, and the seconds that it took to write."""
    store = Store(root).ensure()
    old, new = (add_version(store, "large", number, 2, page=False) for number in range(2))
    for version, release in ((old, "1.0-1"), (new, "1.0-2")):
        rows = [{"name": f"package-{number}", "version": release} for number in range(PACKAGES)]
        (version.path / "sbom.cdx.json").write_text(json.dumps({"components": rows}))
    apart = DISK_SIZE // FILES
    ranges = [(number * apart, number * apart + FILE_SIZE) for number in range(FILES)]
    began = time.perf_counter()
    page = page_of(new, old, measure_disk(DISK_SIZE, [["1", "ext4", "root", "", "clean"]], ranges)).write()
    return page, time.perf_counter() - began


def opened(page: Path) -> float:
    """Milliseconds until Chromium has loaded the page and laid it out with all its parts open."""
    found = re.search(r'<pre id="clock">([0-9.]+) (\d+)</pre>', dump(page, scripts=_CLOCK, virtual_time=False))
    assert found and int(found[2]) > 1000, "the page was not laid out"
    return float(found[1])


def completed(line: str, environment: dict[str, str]) -> tuple[float, int]:
    """Milliseconds until the words for a line are there, and their number."""
    count = len(line.split()) - (0 if line.endswith(" ") else 1)
    asked = {"_GOLDSMITH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(count)}
    began = time.perf_counter()
    done = subprocess.run([GOLDSMITH], env={**environment, **asked}, cwd=ROOT, capture_output=True, check=True)
    return 1000 * (time.perf_counter() - began), len(done.stdout.split())


def main() -> None:
    if not has_browser():
        sys.exit("chromium is not installed: apt install chromium")
    load = describe_load()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        page, wrote = large_page(Path(name))
        text = re.sub(rb"data:image/png;base64,[A-Za-z0-9+/=]+", b"", page.read_bytes())
        shown = [opened(page) for _ in range(ROUNDS)]
        pages = (
            f"The page was written in {wrote:.2f} s. It has {page.stat().st_size / (1 << 20):.2f} MiB, and "
            f"{len(text) / (1 << 20):.2f} MiB without its pictures (wanted: 2 MiB at most). Chromium shows it after "
            f"{statistics.median(shown):.0f} ms, {max(shown):.0f} ms at most (wanted: 1,000 ms at most), without the "
            "start of Chromium."
        )
        print(pages, flush=True)
    for line in LINES:
        seen = [completed(line, environment) for _ in range(ROUNDS)]
        times = [took for took, _ in seen]
        rows.append(f"| `{line}` | {seen[0][1]} | {statistics.median(times):.0f} | {max(times):.0f} |")
        print(rows[-1], flush=True)
    PAGE.write_text(
        f"""# What a large page and a completion cost

Measured at `{commit_id()}` by `python -m tests.bench.bench_pages`: {os.cpu_count()} processors, {load}; medians of
{ROUNDS}.

## A page of a version with {PACKAGES:,} changed packages and {FILES:,} files

{pages}

## Completion in a shell

Wanted: 200 ms at most from the Tab key to the words, with the start of Python.

| line | words | ms | ms at most |
|---|---|---|---|
"""
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
