"""Every seeded defect of a generalized Windows disk, on fixed and dynamic VHD: make campaign-windows

tests/unit/checks/test_checks_windows.py has the cases and runs a tenth of them. NOT WINDOWS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lxml import etree

from tests.harness import ROOT, commit_id

CASES = "tests/unit/checks/test_checks_windows.py"
PAGE = ROOT / "docs/reports/campaign-windows.md"


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="goldsmith-windows-") as folder:
        report = Path(folder) / "told.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", CASES],
            cwd=ROOT,
            env={**os.environ, "GOLDSMITH_WHOLE": "1"},
            check=False,
        )
        cases = etree.parse(report).getroot().findall(".//testcase")
    lines = [
        "# Campaign: windows",
        "",
        f"Commit {commit_id()}, {len(cases)} cases, {time.monotonic() - began:.0f} s in all. Disks that only look "
        "like Windows', each with one change, as a fixed and as a dynamic VHD: found by the check that is its own.",
        "",
        "| case | seconds | |",
        "|---|---|---|",
    ]
    for case in cases:
        bad = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), None)
        lines.append(f"| {case.get('name')} | {float(case.get('time') or 0):.1f} | {bad or 'held'} |")
    PAGE.write_text("\n".join(lines) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
