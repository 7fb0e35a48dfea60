"""Every disk made to exhaust its reader, with every question: `make campaign-attacks`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
for folder in (ROOT, ROOT / "tests/unit"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import ask_all  # noqa: E402
import hostile  # noqa: E402
import test_attacks  # noqa: E402

from tests.campaigns.lab import commit_id  # noqa: E402

PAGE = ROOT / "docs/campaign-attacks.md"


def main() -> int:
    began, rows, failures = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="goldsmith-attacks-") as scratch:
        template = hostile.template(Path(scratch))
        for name in [*hostile.CONTAINERS, *hostile.FILE_SYSTEMS, *hostile.INITRAMFS]:
            for question in ask_all.QUESTIONS:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    try:
                        said = test_attacks.attack(name, (question,), template, Path(folder))[question]
                    except AssertionError as error:
                        failures += 1
                        said = f"**failed**: {' '.join(str(error).split())[:200]}"
                rows.append((name, question, said.split(":")[0] if said.startswith("answered") else said))
                print(*rows[-1], flush=True)
    lines = [
        "# Attacks on readers",
        "",
        f"{len(rows)} questions about {len({row[0] for row in rows})} disks at commit {commit_id()}, "
        f"{failures} failures, {time.monotonic() - began:.0f} s. Each costs less than "
        f"{test_attacks.MEMORY >> 20} MiB of memory and {test_attacks.SECONDS:.0f} s, and leaves nothing behind.",
        "",
        "| disk | question | answer |",
        "|---|---|---|",
        *(f"| {name} | {question} | {said} |" for name, question, said in rows),
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
