"""Every disk made to exhaust its reader, with every question: `make campaign-attacks`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.fakes import ask_all, hostile_disks  # noqa: E402
from tests.harness import commit_id  # noqa: E402
from tests.unit.disk import test_attacks  # noqa: E402

PAGE = ROOT / "docs/reports/campaign-attacks.md"


def main() -> int:
    began, rows, failures = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="goldsmith-attacks-") as scratch:
        template = hostile_disks.template(Path(scratch))
        for name in [*hostile_disks.CONTAINERS, *hostile_disks.FILE_SYSTEMS, *hostile_disks.INITRAMFS]:
            for question in ask_all.QUESTIONS:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    try:
                        message = test_attacks.attack(name, (question,), template, Path(folder))[question]
                    except AssertionError as error:
                        failures += 1
                        message = f"**failed**: {' '.join(str(error).split())[:200]}"
                rows.append((name, question, message.split(":")[0] if message.startswith("answered") else message))
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
        *(f"| {name} | {question} | {message} |" for name, question, message in rows),
    ]
    PAGE.write_text("\n".join(lines) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
