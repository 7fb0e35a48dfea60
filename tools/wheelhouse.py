"""`make wheelhouse`: goldsmith's wheel and all packages that it needs, for a host that reaches no package index.

    python tools/wheelhouse.py FOLDER [PYTHON]

PYTHON is the version of Python on that host, such as 3.13; by default this one's. The host installs goldsmith by
`pip install --no-index --find-links FOLDER goldsmith`. Packages without wheels come as their source, and setuptools
with them: that host compiles them (libvirt's module: gcc, pkg-config, python3-dev and libvirt-dev).
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Packages that have no wheels.
FROM_SOURCE = ("libvirt-python",)
#: The oldest and the newest C library whose wheels are taken, by the minor version of glibc 2. Debian 12 has 2.36.
GLIBC = range(17, 37)
#: Seconds for one call of pip; the registry may be slow.
DEADLINE = 900


def platforms(machine: str) -> list[str]:
    """pip's names of the platforms, the newest first: pip takes no older ones than those it is given."""
    return [*(f"manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)), f"manylinux2014_{machine}"]


def downloads(folder: Path, python: str, project: dict[str, object], build: list[str]) -> list[list[str]]:
    """The arguments of pip's calls. Pure. `project` and `build` are of pyproject.toml; `python` is as in 3.13."""
    wanted = [str(each) for each in project["dependencies"]]  # type: ignore[attr-defined]
    source = [each for each in wanted if each.startswith(FROM_SOURCE)]
    if len(source) != len(FROM_SOURCE):
        raise ValueError(f"of {', '.join(FROM_SOURCE)} pyproject.toml names {source}")
    words = ["download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    wheels = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    wheels += [word for name in platforms("x86_64") for word in ("--platform", name)]
    return [
        [*words, *wheels, *build, *(each for each in wanted if each not in source)],
        [*words, "--no-deps", "--no-binary", ",".join(FROM_SOURCE), *source],
        ["wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
    ]


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python tools/wheelhouse.py FOLDER [PYTHON]")
    folder = Path(sys.argv[1]).absolute()
    python = sys.argv[2] if len(sys.argv) == 3 else f"{sys.version_info.major}.{sys.version_info.minor}"
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for words in downloads(folder, python, described["project"], described["build-system"]["requires"]):
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=DEADLINE)
    files = sorted(path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz")))
    size = sum(path.stat().st_size for path in files)
    print(f"{folder}: {len(files)} packages for Python {python}, {size >> 20} MiB")


if __name__ == "__main__":
    main()
