"""`make lock`: tools/requirements.lock, the Python packages that goldsmith needs, each with its version and digests.

pip resolves them for this Python and this kind of processor, as a user's `pip install` would, and installs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "tools" / "requirements.lock"


def lines_of(report: dict[str, Any]) -> list[str]:
    """The lines of a requirements file, by pip's report of an installation; goldsmith itself has none."""
    lines = []
    for item in report["install"]:
        metadata, download = item["metadata"], item["download_info"]
        if metadata["name"] == "goldsmith":
            continue
        digest = download["archive_info"]["hashes"]["sha256"]
        lines.append(f"{metadata['name'].lower()}=={metadata['version']} --hash=sha256:{digest}")
    return sorted(lines)


def main() -> None:
    words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check", "--report", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, str(ROOT)], check=True, capture_output=True, text=True
    )
    report = json.loads(done.stdout)
    python, machine = report["environment"]["python_version"], report["environment"]["platform_machine"]
    head = f"# For Python {python} on {machine}; written by `make lock`."
    LOCK.write_text("\n".join([head, *lines_of(report)]) + "\n")
    print(f"{LOCK.relative_to(ROOT)}: {len(lines_of(report))} packages")


if __name__ == "__main__":
    main()
