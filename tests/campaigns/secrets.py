"""No false alarm on other people's test keys, and none on Debian masters: `make campaign-secrets`, no guests.

Packages of Debian, of npm and of PyPI with keys among their tests are unpacked as their package managers would leave
them, compiled, and packed into one ext4. `inspect` must not find a secret there. Needs node's npm; the downloads are
kept in the folder that GOLDSMITH_CORPUS names (by default a temporary one).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.checks import inspect_disk
from tests.harness import ROOT, commit_id

PAGE = ROOT / "docs/reports/campaign-secrets.md"
#: Debian packages with keys, certificates and tokens among their tests and examples.
DEBS = ("python3-cryptography", "python3-cryptography-vectors", "python3-paramiko", "python3-jwt", "golang-1.19-src",
        "golang-1.19-go", "gnutls-bin", "libgnutls30")  # fmt: skip
#: npm's packages whose dependencies make a folder of more than 200.
NODE = ("express", "webpack", "webpack-cli", "jsonwebtoken", "node-forge", "ssh2", "aws-sdk", "eslint")
#: PyPI's packages.
WHEELS = ("cryptography", "PyJWT", "paramiko", "ansible-core")
CHECKS = ("private-keys", "access-tokens", "credential-files", "config-passwords", "mail-left", "secrets-searched")
#: Seconds for one download or installation, and entries that node_modules has at least.
DEADLINE, ENTRIES = 900.0, 200


def tool(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=DEADLINE, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, argv))}: {done.stderr.strip()[-500:]}")
    return done.stdout


def unpack_debs(debs: Path, tree: Path) -> int:
    """Unpack each package, with dpkg's records of it; their number."""
    info = tree / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    stanzas = []
    packages = sorted(debs.glob("*.deb"))
    for package in packages:
        name = tool("dpkg-deb", "-f", package, "Package").strip()
        tool("dpkg-deb", "-x", package, tree)
        with tempfile.TemporaryDirectory() as control:
            tool("dpkg-deb", "-e", package, control)
            listed = [
                line.split(None, 5)[5].split(" -> ")[0] for line in tool("dpkg-deb", "-c", package).splitlines()
            ]
            names = ["/" + line.removeprefix("./").rstrip("/") for line in listed]
            (info / f"{name}.list").write_text("".join(f"{each}\n" for each in names))
            if (sums := Path(control) / "md5sums").exists():
                shutil.copy(sums, info / f"{name}.md5sums")
        fields = tool("dpkg-deb", "-f", package, "Package", "Version", "Architecture")
        stanzas.append(f"{fields.strip()}\nStatus: install ok installed\n")
    (tree / "var/lib/dpkg/status").write_text("\n".join(stanzas))
    return len(packages)


def make_disk(downloads: Path, folder: Path) -> tuple[Path, dict[str, int]]:
    """The disk, and how many packages of each kind it holds."""
    debs, tree = downloads / "debs", folder / "tree"
    debs.mkdir(parents=True, exist_ok=True)
    tool("apt-get", "-q", "download", *DEBS, cwd=debs)
    counts = {"deb": unpack_debs(debs, tree)}
    for name, text in {
        "os-release": "ID=debian\n",
        "fstab": "",
        "passwd": "root:x:0:0:root:/root:/bin/bash\n",
    }.items():
        (tree / "etc").mkdir(exist_ok=True)
        (tree / "etc" / name).write_text(text)
    (tree / "root").mkdir(exist_ok=True)
    app = tree / "opt/app"
    app.mkdir(parents=True)
    tool(
        "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--cache", downloads / "npm", *NODE, cwd=app
    )
    counts["npm"] = sum(
        1 for path in app.glob("node_modules/**/package.json") if path.parent.parent.name == "node_modules"
    )
    assert counts["npm"] >= ENTRIES, counts
    target = tree / "usr/local/lib/python3.11/dist-packages"
    tool(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, *WHEELS)
    counts["wheel"] = len(WHEELS)
    tool(sys.executable, "-m", "compileall", "-q", target, "-s", tree)
    disk = folder / "disk.raw"
    tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, "3G")
    shutil.rmtree(tree)
    return disk, counts


def masters() -> list[Path]:
    """The golden masters of the store."""
    home = os.environ.get("GOLDSMITH_TEST_HOME") or os.environ.get("GOLDSMITH_HOME") or "/var/lib/goldsmith"
    return sorted(Path(home).glob("gallery/*/golden/disk.vhd"))


def main() -> int:
    if shutil.which("npm") is None:
        print("campaign secrets: npm is not installed, and node_modules are a part of it", file=sys.stderr)
        return 3
    began = time.monotonic()
    rows = []
    kept = os.environ.get("GOLDSMITH_CORPUS")
    with tempfile.TemporaryDirectory(prefix="goldsmith-secrets-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        disk, counts = make_disk(Path(kept) if kept else folder / "downloads", folder)
        title = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        for name, path in [(f"packages: {title}", disk), *((each.parts[-3], each) for each in masters())]:
            started = time.monotonic()
            results = [each for each in inspect_disk(path) if each.id in CHECKS]
            found = [f"{each.id}: {each.evidence}" for each in results if each.status != "pass"]
            rows.append((name, len(results), found, time.monotonic() - started))
    lines = [
        "# Campaign: secrets",
        "",
        f"Commit {commit_id()}, {time.monotonic() - began:.0f} s in all.",
        "",
        f"The checks {', '.join(CHECKS)} must find nothing.",
        "",
        "| disk | checks | findings | seconds of the whole inspect |",
        "|---|---|---|---|",
        *(f"| {name} | {count} | {len(found)} | {seconds:.1f} |" for name, count, found, seconds in rows),
        *(f"\n{json.dumps(found)}" for _, _, found, _ in rows if found),
    ]
    text = "\n".join(lines) + "\n"
    PAGE.write_text(text)
    print(text)
    return 1 if any(found or count != len(CHECKS) for _, count, found, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
