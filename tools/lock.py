"""`make lock`: the Python packages of a release by version and sha256, as `pip install --require-hashes` takes them.

pip resolves them for this Python and this kind of processor, as a user's `pip install` would, and installs nothing.
tools/requirements.lock has what goldsmith needs to run, its extra `azure` included. tools/build.lock has what
compiles the packages without a wheel: pip verifies no digest of what it fetches for a build by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: The extras of pyproject.toml that a release installs.
EXTRAS = ("azure",)
REQUIREMENTS, BUILD = ROOT / "tools" / "requirements.lock", ROOT / "tools" / "build.lock"
#: Seconds for pip to resolve all packages; the registry may be slow.
DEADLINE = 900


def lines_of(report: dict[str, Any]) -> list[str]:
    """The lines of a requirements file, by pip's report of an installation. Raises ValueError without a digest."""
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"pip reports no sha256 of {name} {version}")
        # what has no wheel runs code of its own while it is built
        source = "" if item["download_info"]["url"].endswith(".whl") else "  # compiled on the host"
        lines.append(f"{name}=={version} --hash=sha256:{digest}{source}")
    return sorted(lines)


def write(path: Path, wanted: list[str]) -> None:
    words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--disable-pip-version-check", "--report", "-"]
    argv = [sys.executable, "-m", "pip", *words, *wanted]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=DEADLINE)
    report = json.loads(done.stdout)
    lines = lines_of(report)
    python, machine = report["environment"]["python_version"], report["environment"]["platform_machine"]
    path.write_text("\n".join([f"# For Python {python} on {machine}; written by `make lock`.", *lines]) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


def main() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = described["project"]
    extras = [requirement for extra in EXTRAS for requirement in project["optional-dependencies"][extra]]
    write(REQUIREMENTS, [*project["dependencies"], *extras])
    write(BUILD, described["build-system"]["requires"])


if __name__ == "__main__":
    main()
