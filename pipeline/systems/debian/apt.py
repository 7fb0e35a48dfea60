"""The package archive of a Debian suite: what state it is in, what it has, and what of it is newer than a disk's."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import re
import shlex
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from pipeline.base import process, scratch
from pipeline.base.errors import BuildError, GoldsmithError
from pipeline.network.host_apt import APT_HELPER, INDEX_DEADLINE, mirrors

#: A suite's list of packages, about 9 MB, and the seconds for all of them.
LIST = "main/binary-amd64/Packages.xz"
LIST_DEADLINE = 120.0
#: Seconds for which a list of names is taken for granted: a name that is new today is not misspelt.
NAMES_AGE = 24 * 3600.0
_VERSION = re.compile(r"^Version: (\S+)", re.MULTILINE)
#: Names that mean another release from time to time; Debian's archive has them as links.
MOVING_SUITES = frozenset(("stable", "oldstable", "oldoldstable", "testing", "unstable"))
_CODE_NAME = re.compile(r"^Codename: ([a-z][a-z0-9-]*)\s*$", re.MULTILINE)
_LISTED = "$(FILENAME)|$(COMPONENT)|$(CODENAME)|$(SUITE)"


@dataclass(frozen=True)
class Archive:
    """The state of a suite in the archive: the InRelease text of each of its parts that exist."""

    releases: dict[str, str]

    def digest(self) -> str:
        """A digest of the package lists. The dates in a Release file change daily, the lists do not."""
        whole = hashlib.sha256()
        for name in sorted(self.releases):
            whole.update(f"{name}\n".encode())
            for line in index_lines(self.releases[name]):
                whole.update(f"{line}\n".encode())
        return whole.hexdigest()


def index_lines(release: str) -> list[str]:
    """The lines of an InRelease file's SHA256 part that speak of main/binary-amd64/Packages."""
    lines: list[str] = []
    inside = False
    for line in release.splitlines():
        if not line.startswith(" "):
            inside = line.startswith("SHA256:")
        elif inside and line.split()[-1] == "main/binary-amd64/Packages":
            lines.append(" ".join(line.split()))
    return lines


def ask_archive(suite: str, work: Path | None = None) -> Archive | None:
    """Ask the mirror for the suite's InRelease files; None when it cannot be reached.

    A part that the mirror says it does not have (sid has no updates) is left out. Raises BuildError when
    the mirror answers and has no such suite.
    """
    wanted = mirrors().candidates(suite)
    if not wanted or not Path(APT_HELPER).exists():
        return None
    with scratch.folder(work, "index") as folder:
        files = {name: folder / name for _, name in wanted}
        answer = _download({f"{uri}/dists/{name}/InRelease": files[name] for uri, name in wanted})
        if answer is None:
            return None
        releases = {name: file.read_text("utf-8", "replace") for name, file in files.items() if file.exists()}
    output = answer
    if suite not in releases:
        if re.search(r"\b404\b", output):
            raise BuildError(
                f"the mirror has no suite {suite}",
                name="suite-missing",
                hint="use a code name, such as trixie or bookworm, or stable",
            )
        return None
    if len(releases) < len(wanted) and not re.search(r"\b404\b", output):
        return None
    return Archive(releases)


def _download(wanted: Mapping[str, Path], deadline: float = 2 * INDEX_DEADLINE) -> str | None:
    """Fetch addresses into files by apt's own helper: apt's proxy, certificates and passwords hold for it too.

    What it said; None where it could not be run to its end. A file that could not be had is not there.
    """
    options = [
        "-oAcquire::Retries=0",
        f"-oAcquire::http::Timeout={INDEX_DEADLINE:.0f}",
        f"-oAcquire::https::Timeout={INDEX_DEADLINE:.0f}",
        *(["-oAPT::Sandbox::User=root"] if os.geteuid() == 0 else []),
    ]
    words = [word for address, file in wanted.items() for word in (address, file)]
    try:
        answer = process.run(
            [APT_HELPER, *options, "download-file", *words],
            deadline=deadline,
            env=process.download_variables(),
            ok_codes=(0, 100),
        )
    except GoldsmithError:
        return None
    return answer.stdout + answer.stderr


def newer(suite: str, installed: Mapping[str, str], work: Path | None = None) -> list[str] | None:
    """ "name old -> new" for each installed package (name: version) of which the archive has a newer version.

    None when the archive does not answer.
    """
    state = ask_archive(suite, work)
    if state is None:
        return None
    listed: dict[str, list[str]] = {}
    with scratch.folder(work, "lists") as folder:
        lists = {
            f"{uri}/dists/{name}/{LIST}": folder / name
            for uri, name in mirrors().sources(suite, list(state.releases))
        }
        if _download(lists, LIST_DEADLINE) is None or not all(path.exists() for path in lists.values()):
            return None
        for path in lists.values():
            for name, version in candidates(lzma.decompress(path.read_bytes()).decode("utf-8", "replace"), installed):
                listed.setdefault(name, []).append(version)
    found = []
    for name, versions in sorted(listed.items()):
        better = [
            version for version in versions if version != installed[name] and is_newer(version, installed[name])
        ]
        if better:
            found.append(f"{name} {installed[name]} -> {better[-1]}")
    return found


@dataclass(frozen=True)
class PackageNames:
    """The names of a suite's packages, virtual ones too, one a line: a few are looked for among sixty thousand."""

    text: str

    @classmethod
    def of(cls, names: Iterable[str]) -> PackageNames:
        return cls("\n".join(sorted(names)))

    def __contains__(self, name: str) -> bool:
        return f"\n{name}\n" in self._padded

    def __iter__(self) -> Iterator[str]:
        return iter(self.text.split())

    def __bool__(self) -> bool:
        return bool(self.text)

    @cached_property
    def _padded(self) -> str:
        return f"\n{self.text}\n"


def known_packages(suite: str, cache: Path) -> PackageNames | None:
    """The names of all packages of a suite; None where they are not known here.

    They come from the host's own apt where it has the suite, else from the archive, kept in the folder `cache` for a
    day, and for longer where the archive does not answer. Raises BuildError (suite-missing) where the archive has no
    such suite.
    """
    kept = cache / f"{suite}.txt"
    with contextlib.suppress(OSError):
        if time.time() - kept.stat().st_mtime < NAMES_AGE:
            return PackageNames(kept.read_text(encoding="utf-8"))
    if (names := _host_packages(suite) or _ask_packages(suite)) is not None:
        # anyone who may not write here asks again the next time
        with contextlib.suppress(OSError, GoldsmithError):
            cache.mkdir(parents=True, exist_ok=True)
            with scratch.file_beside(kept, force=True, own=True) as draft:
                draft.write_text(PackageNames.of(names).text, encoding="utf-8")
        return PackageNames.of(names)
    with contextlib.suppress(OSError):
        return PackageNames(kept.read_text(encoding="utf-8"))
    return None


def _host_packages(suite: str) -> frozenset[str] | None:
    """The names in the lists that the host's apt has of a suite; None where it has none of it."""
    parts = (suite, f"{suite}-updates", f"{suite}-security")
    try:
        shown = process.run(
            ["apt-get", "indextargets", "--format", _LISTED, "Created-By: Packages"], deadline=INDEX_DEADLINE
        ).stdout
        files = {
            release: file
            for file, component, codename, alias in (line.split("|") for line in shown.splitlines())
            for release in {codename, alias} & {*parts}
            if component == "main" and Path(file).exists()
        }
        if suite not in files:
            return None
        # apt may keep its lists compressed in several ways
        each = " && ".join(f"{APT_HELPER} cat-file {shlex.quote(file)}" for file in files.values())
        found = process.run(
            ["sh", "-c", f"{{ {each}; }} | grep -E '^(Package|Provides): '"], deadline=LIST_DEADLINE, ok_codes=(0, 1)
        )
    except (GoldsmithError, ValueError):
        return None
    return _names(found.stdout.splitlines()) or None


def _ask_packages(suite: str) -> frozenset[str] | None:
    state = ask_archive(suite)
    if state is None:
        return None
    names: set[str] = set()
    with scratch.folder(None, "lists") as folder:
        lists = {
            f"{uri}/dists/{name}/{LIST}": folder / name
            for uri, name in mirrors().sources(suite, list(state.releases))
        }
        if _download(lists, LIST_DEADLINE) is None or not all(path.exists() for path in lists.values()):
            return None
        for path in lists.values():
            with lzma.open(path, "rt", encoding="utf-8", errors="replace") as lines:
                names |= _names(lines)
    return frozenset(names)


def _names(lines: Iterable[str]) -> frozenset[str]:
    """The packages, and what they provide, in the lines of Packages files."""
    names: set[str] = set()
    for line in lines:
        if line.startswith("Package: "):
            names.add(line[9:].strip())
        elif line.startswith("Provides: "):
            names.update(word.split()[0] for word in line[10:].split(",") if word.strip())
    return frozenset(names)


def candidates(listing: str, wanted: Container[str]) -> Iterator[tuple[str, str]]:
    """(name, version) of the wanted packages in a Packages file."""
    for stanza in listing.split("\n\n"):
        name = stanza.partition("\n")[0].removeprefix("Package: ")
        if name in wanted and (version := _VERSION.search(stanza)):
            yield name, version[1]


def is_newer(version: str, than: str) -> bool:
    """By dpkg's own order."""
    done = process.run(["dpkg", "--compare-versions", version, "gt", than], deadline=process.ANSWER, ok_codes=(0, 1))
    return done.code == 0


@cache
def code_name(suite: str) -> str:
    """The code name of the release that a suite's name means today: `stable` is one, `bookworm` is its own.

    Raises BuildError (suite-unknown) where the archive does not say which: a build must know what it builds.
    """
    if suite not in MOVING_SUITES:
        return suite
    archive = ask_archive(suite)
    found = _CODE_NAME.search(archive.releases[suite]) if archive else None
    if found is None:
        why = "its archive does not answer" if archive is None else "its archive names no code name"
        raise BuildError(
            f"the code name of {suite} cannot be determined: {why}",
            name="suite-unknown",
            hint="check that apt-get update works on this host, or write the release's code name, such as trixie",
        )
    return found[1]


def package_index(suite: str) -> str | None:
    """A digest of the archive's state for the suite, its updates and security; None when not reachable."""
    archive = ask_archive(suite)
    return archive.digest() if archive else None
