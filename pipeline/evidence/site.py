"""`goldsmith gallery site DIR`: a gallery as static pages, as JSON and as metrics. The pages load nothing.

DIR/index.html, DIR/IMAGE/index.html, DIR/IMAGE/VERSION.html (the versions' own pages), DIR/site.json,
DIR/goldsmith.prom. site.json lists the files of the site: the next writing removes those that are no longer its.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.base import surroundings
from pipeline.base.errors import UsageError
from pipeline.base.files import Shape, read_usable, write_json
from pipeline.evidence.metrics import metrics
from pipeline.evidence.page_parts import render, show_seconds
from pipeline.evidence.site_data import SiteData, SiteImage, SiteVersion

RECORD, METRICS, INDEX = "site.json", "goldsmith.prom", "index.html"
#: Threads that copy pages: a copy is the kernel's work, and two of them keep a disk busy.
_COPIES = 2
#: The format of site.json; fields are added without a new number.
FORMAT = 1
#: The names of the files of a site in a folder of an image.
_OURS = re.compile(r"(?:[a-z0-9][a-z0-9.-]*/)?(?:index|\d+\.\d+\.\d+)\.html|goldsmith\.prom", re.ASCII)


class _SiteShape(Shape):
    goldsmith_site: int
    files: list[str]

    @classmethod
    def advice(cls) -> str:
        return "delete the file and the pages beside it, then write the site again"


@dataclass(frozen=True)
class Written:
    """A site that was written: numbers of its images and versions, of pages copied and files removed."""

    folder: Path
    images: int
    versions: int
    pages: int
    removed: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def write_site(data: SiteData, folder: Path, metrics_file: Path | None = None, *, link: bool = True) -> Written:
    """Write the site to `folder`, and its metrics to `metrics_file` too. A site that is there is brought up to date.

    `link`: the versions' pages are hard links to the gallery's files, not copies, where both are on one file system
    and everybody may read them.

    Raises UsageError (site-folder) for a folder with other files, OSError where it cannot be written.
    """
    before = _files_before(folder)
    if metrics_file is not None:
        surroundings.refuse_guarded(metrics_file)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, None] = {}

    def put(name: str, text: str) -> None:
        _write(folder / name, text)
        files[name] = None

    images, copied = [], 0
    with _copying() as pool:
        coming = [(image, _bring_pages(pool, image, folder, link=link)) for image in data.images]
        for image, pages in coming:
            brought = {version: page.result() for version, page in pages.items()}
            copied += sum(each is _Brought.NEW for each in brought.values())
            files |= {f"{image.name}/{each}.html": None for each, how in brought.items() if how is not _Brought.GONE}
            shown = _without(image, {each for each, how in brought.items() if how is _Brought.GONE})
            put(f"{image.name}/{INDEX}", render("site_image.html.j2", data=data, image=shown, plots=_plots(shown)))
            images.append(shown)
    data = replace(data, images=images)
    rows = [(image, _plots(image)) for image in data.images]
    put(INDEX, render("site.html.j2", data=data, rows=rows, totals=_totals(data)))
    text = metrics(data)
    put(METRICS, text)
    if metrics_file is not None:
        _write(metrics_file, text)
    write_json(folder / RECORD, {"goldsmith_site": FORMAT, **_to_json(data), "files": list(files)})
    removed = _remove(folder, set(before) - files.keys())
    versions = sum(len(image.versions) for image in data.images)
    return Written(folder, len(data.images), versions, copied, removed)


class _Brought(Enum):
    """What became of a version's page: it is new in the site, it was there, or it was deleted after it was listed."""

    NEW = 1
    SAME = 2
    GONE = 3


def _bring_pages(
    pool: ThreadPoolExecutor, image: SiteImage, folder: Path, *, link: bool
) -> dict[str, Future[_Brought]]:
    (folder / image.name).mkdir(exist_ok=True)
    targets = {each.version: folder / image.name / f"{each.version}.html" for each in image.versions}
    return {
        each.version: pool.submit(_bring, each.page, targets[each.version], link=link)
        for each in image.versions
        if each.page is not None
    }


def _without(image: SiteImage, gone: Collection[str]) -> SiteImage:
    """An image without the versions whose pages are gone; one whose folder is there only lost its page."""
    kept = []
    for version in image.versions:
        if version.version not in gone:
            kept.append(version)
        elif version.page is not None and version.page.parent.is_dir():
            kept.append(replace(version, page=None))
    return replace(image, versions=kept)


@contextlib.contextmanager
def _copying() -> Iterator[ThreadPoolExecutor]:
    """Threads that copy pages while others are made; where the making fails, what has not begun is not copied."""
    with ThreadPoolExecutor(_COPIES, thread_name_prefix="site") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _files_before(folder: Path) -> Sequence[str]:
    """The files of the site that is there. Raises UsageError (site-folder)."""
    if not folder.exists():
        return ()
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", name="site-folder", hint="name a new or an empty folder")
    found = read_usable(folder / RECORD, _SiteShape)
    if found is None and any(folder.iterdir()):
        raise UsageError(
            f"{folder} has files, but no {RECORD}: it is not a site of goldsmith",
            name="site-folder",
            hint="name a new or an empty folder",
        )
    return found["files"] if found else ()


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a web server or a collector may read it at any moment."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o644)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _bring(source: Path, target: Path, *, link: bool) -> _Brought:
    """Bring a version's page into the site.

    A link is the same file, a copy has its size and time. A site that was written in the other way is written again.
    """
    try:
        return _Brought.NEW if _copy(source, target, link=link) else _Brought.SAME
    except FileNotFoundError:
        if source.exists():
            raise
        return _Brought.GONE


def _copy(source: Path, target: Path, *, link: bool) -> bool:
    """False where the same page is there already."""
    status = source.stat()
    # elsewhere there can be no link, and of a file that others may not read a web server needs a copy
    link = link and target.parent.stat().st_dev == status.st_dev and status.st_mode & 0o444 == 0o444
    with contextlib.suppress(OSError):
        there = target.lstat()
        is_linked = (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)
        if is_linked == link and (there.st_size, there.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            return False
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if not (link and _link(source, draft)):
            shutil.copyfile(source, draft, follow_symlinks=False)
            draft.chmod(0o644)
            os.utime(draft, ns=(status.st_mtime_ns, status.st_mtime_ns))
        draft.rename(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return True


def _link(source: Path, draft: Path) -> bool:
    """False where a file cannot have a second name there: another file system, or one without links."""
    try:
        os.link(source, draft, follow_symlinks=False)
    except OSError:
        return False
    return True


def _remove(folder: Path, names: set[str]) -> int:
    """Remove files of the former site, and folders of images that are empty then."""
    gone = 0
    for name in sorted(names):
        path = folder / name
        if _OURS.fullmatch(name) and ".." not in name and not path.parent.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                gone += 1
            if path.parent != folder:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
    return gone


def _totals(data: SiteData) -> list[tuple[str, str]]:
    from pipeline.evidence.page_parts import show_bytes

    images = data.images
    allocated, shared = sum(i.allocated for i in images), sum(i.shared for i in images)
    tiles = [
        ("Images", str(len(images))),
        ("Versions", str(sum(len(image.versions) for image in images))),
        ("On disk", show_bytes(allocated)),
        ("Shared with layers", show_bytes(shared)),
        ("VMs", str(len(data.vms))),
    ]
    if data.refresh is not None:
        bad = [each["name"] for each in data.refresh["images"] if each["outcome"] in ("failed", "skipped")]
        tiles.append(("Last refresh", f"{len(bad)} failed" if bad else "all good"))
    return tiles


@dataclass(frozen=True)
class Plot:
    """A line over the versions that have the figure. `points` are for a box of 100 by 40, y downward."""

    points: str
    dots: Sequence[tuple[float, float]]
    first: str
    last: str
    low: str
    high: str
    label: str


def _plots(image: SiteImage) -> dict[str, Plot | None]:
    return {
        "Time to Ready": _plot(image.versions, "ready_seconds", "Time to Ready"),
        "Build time": _plot(image.versions, "build_seconds", "Build time"),
    }


def _plot(versions: Sequence[SiteVersion], field: str, title: str) -> Plot | None:
    """None where fewer than two versions have the figure."""
    known = [(version, float(getattr(version, field))) for version in versions if getattr(version, field) is not None]
    if len(known) < 2:
        return None
    values = [value for _, value in known]
    top = max(values) or 1.0
    dots = [
        (round(100 * number / (len(values) - 1), 2), round(38 - 35 * value / top, 2))
        for number, value in enumerate(values)
    ]
    low, high = show_seconds(min(values)), show_seconds(max(values))
    label = f"{title} of {len(values)} versions: {low} to {high}, the last {show_seconds(values[-1])}"
    points = " ".join(f"{x:g},{y:g}" for x, y in dots)
    return Plot(points, dots, known[0][0].version, known[-1][0].version, low, high, label)


def _to_json(data: SiteData) -> dict[str, Any]:
    return {
        "made": data.made.isoformat(timespec="seconds"),
        "images": [_image_json(image) for image in data.images],
        "vms": [asdict(vm) for vm in data.vms],
        "damaged": list(data.damaged),
        "refresh": data.refresh,
        "cves_unknown": data.cves_unknown or None,
    }


def _image_json(image: SiteImage) -> dict[str, Any]:
    def version_json(version: SiteVersion) -> Mapping[str, Any]:
        fields = {**vars(version), "channels": list(version.channels), "vms": [vm.name for vm in version.vms]}
        fields["cves"] = None if version.cves is None else asdict(version.cves)
        page = f"{image.name}/{version.version}.html" if version.page is not None else None
        return {**fields, "age_days": round(version.age_days, 2), "page": page}

    return {
        "name": image.name,
        "golden": image.golden.version if image.golden else None,
        "refused": image.refused or None,
        "allocated": image.allocated,
        "shared": image.shared,
        "versions": [version_json(version) for version in image.versions],
    }
