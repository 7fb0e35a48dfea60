"""`make wheelhouse`: goldsmith's wheel and all packages that it needs, for a host that reaches no package index.

    python tools/wheelhouse.py FOLDER [PYTHON]

PYTHON is the version of Python on that host, such as 3.13; by default this one's. The host installs goldsmith by
`pip install --no-index --find-links FOLDER goldsmith`. Packages without wheels come as their source, and setuptools
with them: that host compiles them (libvirt's module: gcc, pkg-config, python3-dev and libvirt-dev).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
#: Packages that have no wheels; others are found by trying.
FROM_SOURCE = ("libvirt-python",)
#: The oldest and the newest C library whose wheels are taken, by the minor version of glibc 2. Debian 12 has 2.36.
GLIBC = range(17, 37)
#: Seconds for one call of pip; the registry may be slow.
DEADLINE = 900
#: Rounds in which pip fetches what is still missing; each goes at least one level deeper.
ROUNDS = 10
#: The end of a source's name.
SOURCE = ".tar.gz"
PIP = ("--quiet", "--disable-pip-version-check")


def platforms(machine: str) -> list[str]:
    """pip's names of the platforms, the newest first: pip takes no older ones than those it is given."""
    return [*(f"manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)), f"manylinux2014_{machine}"]


def wheels(folder: Path, python: str, wanted: Iterable[str]) -> list[str]:
    """The arguments of pip that fetch packages as wheels for a Python such as 3.13. Pure."""
    named = [word for name in platforms("x86_64") for word in ("--platform", name)]
    words = ["download", *PIP, "--dest", str(folder), "--only-binary", ":all:", "--implementation", "cp"]
    return [*words, "--python-version", python, *named, *wanted]


def sources(folder: Path, wanted: Iterable[str]) -> list[str]:
    """The arguments of pip that fetch packages as their source. Pure."""
    return ["download", *PIP, "--dest", str(folder), "--no-deps", "--no-binary", ":all:", *wanted]


def split(wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Requirements that come as wheels, and those that come as their source. Pure."""
    from_wheels, from_source = [], []
    for each in wanted:
        (from_source if canonicalize_name(Requirement(each).name) in FROM_SOURCE else from_wheels).append(each)
    return from_wheels, from_source


def missing(required: Iterable[str], present: Iterable[str], python: str) -> list[str]:
    """The requirements that a Python such as 3.13 has and no package of these names satisfies. Pure.

    pip judges `python_version` of a requirement by the Python that it runs in, not by the one that it downloads for.
    """
    there = {canonicalize_name(name) for name in present}
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found = {}
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        requirement.marker = None
        if canonicalize_name(requirement.name) not in there:
            found[str(requirement)] = None
    return list(found)


def read_requirements(wheel: Path) -> list[str]:
    """What a wheel requires, with its markers."""
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (each for each in packed.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        described = BytesParser().parsebytes(packed.read(name), headersonly=True)
    return [str(each) for each in described.get_all("Requires-Dist", [])]


def lacks(folder: Path, python: str) -> list[str]:
    """What the packages in the folder require and is not there."""
    files = [path for path in folder.iterdir() if path.name.endswith((".whl", SOURCE))]
    required = [each for path in files if path.suffix == ".whl" for each in read_requirements(path)]
    return missing(required, [package_name(path.name) for path in files], python)


def package_name(file: str) -> str:
    """The package of a file, by its name: a wheel's begins with it, a source's ends with the version. Pure."""
    return file.removesuffix(SOURCE).rsplit("-", 1)[0] if file.endswith(SOURCE) else file.split("-", 1)[0]


def pip(words: Iterable[str]) -> None:
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=DEADLINE)


def fetch(folder: Path, python: str, requirement: str) -> None:
    """Fetch one package as a wheel, or as its source where it has none."""
    try:
        pip(wheels(folder, python, [requirement]))
    except subprocess.CalledProcessError:
        print(f"{requirement} has no wheel: its source is taken", flush=True)
        pip(sources(folder, [requirement]))


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python tools/wheelhouse.py FOLDER [PYTHON]")
    folder = Path(sys.argv[1]).absolute()
    python = sys.argv[2] if len(sys.argv) == 3 else f"{sys.version_info.major}.{sys.version_info.minor}"
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    from_wheels, from_source = split(described["project"]["dependencies"])
    pip(wheels(folder, python, [*described["build-system"]["requires"], *from_wheels]))
    pip(sources(folder, from_source))
    pip(["wheel", *PIP, "--no-deps", "--wheel-dir", str(folder), str(ROOT)])
    for _ in range(ROUNDS):
        for requirement in lacks(folder, python):
            fetch(folder, python, requirement)
    if lacks(folder, python):
        sys.exit(f"wheelhouse: not found for Python {python}: {', '.join(lacks(folder, python))}")
    files = sorted(path for path in folder.iterdir() if path.name.endswith((".whl", SOURCE)))
    size = sum(path.stat().st_size for path in files)
    print(f"{folder}: {len(files)} packages for Python {python}, {size >> 20} MiB")


if __name__ == "__main__":
    main()
