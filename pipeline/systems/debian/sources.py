"""A Debian bootstrapped from its archive: the first disk of a build, and what its definition asks of the archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from pipeline.base.disk_format import QCOW2
from pipeline.base.errors import BuildError
from pipeline.cache.layers import DISK, Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.definition import DebianSource
from pipeline.definition.diagnostics import closest
from pipeline.definition.document import Document
from pipeline.guest.build import Build
from pipeline.systems.base import Lookups
from pipeline.systems.debian import apt, bootstrap

#: Seconds for a whole bootstrap; 100 s on a quiet host with a near mirror.
BOOTSTRAP_DEADLINE = 1800.0


def bootstrap_unit(build: Build, source: DebianSource) -> UnitSpec[Build]:
    """The unit that bootstraps a suite onto a disk: of `stable` and the like, the release that this means today.

    Raises BuildError (suite-unknown) where that is not known.
    """
    source = replace(source, suite=apt.code_name(source.suite))
    inputs: dict[str, object] = {
        "source": "debian",
        "suite": source.suite,
        "packages": sorted(source.packages),
        "package index": build.package_index(source.suite),
        "recipe": bootstrap.recipe(),
    }
    if not source.check_valid_until:
        inputs["check valid until"] = False
    return UnitSpec(f"bootstrap {source.suite}", inputs, partial(_bootstrap, source))


def _bootstrap(source: DebianSource, build: Build, _source: Layer | None, draft: PendingLayer) -> StageResult:
    work = build.store.tmp / f"bootstrap-{build.run.id}"
    with build.log_file("bootstrap.log").open("a", encoding="utf-8") as file:

        def progress(text: str) -> None:
            file.write(text + "\n")
            file.flush()
            build.progress(text)

        facts = bootstrap.bootstrap(
            source.suite,
            source.packages,
            draft.path / DISK,
            work=work,
            seed=draft.key,
            progress=progress,
            deadline=BOOTSTRAP_DEADLINE,
            check_valid_until=source.check_valid_until,
        )
    image = Image(draft.path / DISK, QCOW2)
    return StageResult(image, {**facts, "suite": source.suite}, f"{facts.get('packages', '?')} packages")


def check_source(source: DebianSource, document: Document, lookups: Lookups) -> None:
    """Put a fault into the document for a suite, or a package, that the archive does not have."""
    suite = source.suite
    try:
        known = lookups.once(f"packages of {suite}", lambda: apt.known_packages(suite, lookups.cache))
    except BuildError as error:
        document.add(("source", "debian", "suite"), error.message, error.hint or "")
        return
    if known is None and source.packages:
        lookups.note(f"the names of packages could not be looked up: no list of {suite} is at hand")
    for number, package in enumerate(source.packages if known else ()):
        if known and package not in known:
            near = closest(package, _alike(package, known)) or "search for packages with apt-cache search"
            document.add(("source", "debian", "packages", number), f"{suite} has no package {package}", near)


def _alike(word: str, names: Iterable[str]) -> Iterator[str]:
    """Names that may be a slip of `word`: comparing sixty thousand takes seconds."""
    near = (name for name in names if abs(len(name) - len(word)) <= 2)
    return (name for name in near if name[0] == word[0] or name[1:2] == word[1:2])
