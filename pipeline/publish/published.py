"""The content of a target: show it, verify it, and remove leftovers of crashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.base import scratch
from pipeline.base.errors import NotFound
from pipeline.base.printable import listed
from pipeline.cache.digests import blocks_size
from pipeline.gallery.integrity import judge_folder
from pipeline.gallery.versions import parse
from pipeline.publish import blob_uploader, folder_uploader, resource_targets
from pipeline.publish.blob_uploader import read_file, write_sparse
from pipeline.publish.container import BlobFacts, Container
from pipeline.publish.errors import PublishError
from pipeline.publish.index import Index
from pipeline.publish.page_blob import read_unequal, unexpected_blocks
from pipeline.publish.ranges import BlockDigests
from pipeline.publish.targets import Target
from pipeline.publish.transfer import Meter, OnProgress, ignore_progress
from pipeline.publish.uploader import DIGITS

#: `clean` keeps younger blobs: between its creation and its lease a blob is unprotected.
GRACE = timedelta(minutes=2)


def look(image: str, target: Target, variables: Mapping[str, str]) -> dict[str, Any]:
    """The index of an image, with the state of each disk: `good`, `changed` since it was published, or `missing`.

    Of a gallery's version `latest` or `candidate`, of a managed disk what Azure says.
    """
    if target.place is not None:
        with resource_targets.opened(target, variables) as manager:
            return _shown(resource_targets.read_index(manager, target, image), target, lambda _entry, _disk: {})
    if target.url is None:
        root = _root(target)
        return _shown(folder_uploader.read_index(root, image), target, lambda e, d: _file_state(root, e, d))
    with closing(Container(target, variables)) as container:
        index = blob_uploader.read_index(container, image)
        return _shown(index, target, lambda e, d: _blob_state(container, e, d))


def _shown(index: Index, target: Target, state_of: Any) -> dict[str, Any]:
    newest = index.newest
    return {
        "image": index.image,
        "target": target.shown,
        "newest": newest["version"] if newest else None,
        "versions": [
            {**each, "disks": [{**disk, **state_of(each, disk)} for disk in each["disks"]]} for each in index.versions
        ],
    }


def _root(target: Target) -> Path:
    assert target.folder is not None
    return target.folder


def _file_state(root: Path, entry: Mapping[str, Any], disk: Mapping[str, Any]) -> dict[str, Any]:
    path = root / entry["folder"] / disk["file"]
    if not path.is_file():
        return {"state": "missing", "blob": None}
    return {"state": "good" if path.stat().st_size == disk["size"] else "changed", "blob": None}


def _blob_state(container: Container, entry: Mapping[str, Any], disk: Mapping[str, Any]) -> dict[str, Any]:
    facts = container.facts(f"{entry['folder']}/{disk['file']}")
    if facts is None:
        return {"state": "missing", "blob": None}
    blob = {
        "name": facts.name,
        "etag": facts.etag,
        "modified": facts.modified,
        "leased": facts.leased,
        "content_type": facts.content_type,
        "content_md5": facts.md5,
        "metadata": dict(facts.metadata),
        "copy": dict(facts.copy),
    }
    return {"state": "good" if facts.etag == disk["etag"] else "changed", "blob": blob}


# ---- verify ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One published version; `wrong` describes its damage, or is empty."""

    version: str
    wrong: str


def verify(
    image: str,
    which: str | None,
    target: Target,
    variables: Mapping[str, str],
    temporary: Path,
    on_progress: OnProgress = ignore_progress,
) -> list[Finding]:
    """Read published versions whole, all or one, and compare them with their digests. Raises NotFound."""
    resource_targets.refuse(target, "read back", "a push reads back what it writes; --no-read-back leaves that out")
    meter = Meter(on_progress)
    if target.url is None:
        root = _root(target)
        index = folder_uploader.read_index(root, image)
        return [
            Finding(
                each["version"],
                judge_folder(root / each["folder"], image, each["version"], lambda _folder, _manifest: ""),
            )
            for each in chosen(index, which, target)
        ]
    with closing(Container(target, variables)) as container:
        index = blob_uploader.read_index(container, image)
        return [
            Finding(each["version"], _wrong(container, each, target.parallel, temporary, meter))
            for each in chosen(index, which, target)
        ]


def chosen(index: Index, which: str | None, target: Target) -> Iterable[Mapping[str, Any]]:
    """The version with this number, or all versions. Raises NotFound."""
    found = [each for each in index.versions if which in (None, each["version"])]
    if not found:
        known = listed((each["version"] for each in index.versions), newest=True) or "none"
        raise NotFound(
            f"{target.shown} has no {index.image}{'@' + which if which else ''}",
            name="publish-unknown",
            hint=f"published versions of {index.image}: {known}; goldsmith publish push publishes one",
        )
    return found


def _wrong(container: Container, entry: Mapping[str, Any], parallel: int, temporary: Path, meter: Meter) -> str:
    try:
        for record in entry["files"]:
            read_file(container, entry["folder"], record, int(record["size"]))
        for disk in entry["disks"]:
            if wrong := _wrong_disk(container, entry, disk, parallel, temporary, meter):
                return wrong
    except PublishError as error:
        if error.name not in ("publish-damaged", "publish-missing"):
            raise
        return error.message
    return ""


def _wrong_disk(
    container: Container,
    entry: Mapping[str, Any],
    disk: Mapping[str, Any],
    parallel: int,
    temporary: Path,
    meter: Meter,
) -> str:
    blob, size = f"{entry['folder']}/{disk['file']}", int(disk["size"])
    facts = container.facts(blob)
    if facts is None or facts.size != size:
        return f"{disk['file']} {'is missing' if facts is None else f'has {facts.size} bytes, not {size}'}"
    with scratch.folder(temporary, "verify") as folder:
        place = folder / "digests"
        with place.open("xb") as file:
            write_sparse(file, read_file(container, entry["folder"], disk["digests"], blocks_size(size)))
        with closing(BlockDigests(place, size)) as digests:
            blocks = list(digests.with_data())
            wrong, _ = read_unequal(container, blob, digests, blocks, parallel, meter, f"verify {disk['file']}")
            wrong = sorted({*wrong, *unexpected_blocks(container, blob, digests)})
            if wrong:
                at = digests.range_of(wrong[0]).start
                return f"{disk['file']} has changed: {len(wrong)} blocks of 64 KiB, the first at byte {at}"
    return ""


# ---- clean -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leftover:
    """A version's folder that no index names; `kept` is the reason why it stays, or empty."""

    folder: str
    bytes: int
    kept: str


def clean(
    image: str | None,
    target: Target,
    variables: Mapping[str, str],
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
) -> list[Leftover]:
    """Remove the leftovers of publishers that died. Published, leased, new and foreign blobs stay."""
    if target.gallery is not None:
        resource_targets.refuse(target, "cleaned", "clean its staging target: goldsmith publish clean NAME")
    if target.disks is not None:
        return _clean_disks(target, variables, image, dry_run)
    if target.url is None:
        return _clean_folder(_root(target), image, dry_run)
    with closing(Container(target, variables)) as container:
        groups: dict[str, list[BlobFacts]] = {}
        for facts in container.names(f"{image}/" if image else ""):
            if folder := version_folder(facts.name):
                groups.setdefault(folder, []).append(facts)
        # read after the list, so that versions registered meanwhile are seen
        images = {folder.split("/")[0] for folder in groups}
        named = {e["folder"] for each in images for e in blob_uploader.read_index(container, each).versions}
        return [
            _clean_group(container, folder, blobs, dry_run, grace)
            for folder, blobs in sorted(groups.items())
            if folder not in named
        ]


def version_folder(name: str) -> str | None:
    """`NAME/VERSION-DIGEST` of the name of a blob or file in it; None if it belongs to no version."""
    parts = name.split("/")
    if len(parts) < 3:
        return None
    number, _, digest = parts[1].partition("-")
    ours = parse(number) and len(digest) == DIGITS and not set(digest) - set("0123456789abcdef")
    return f"{parts[0]}/{parts[1]}" if ours else None


def _clean_group(
    container: Container, folder: str, blobs: list[BlobFacts], dry_run: bool, grace: timedelta
) -> Leftover:
    size = sum(each.size for each in blobs)
    youngest = max(datetime.fromisoformat(each.modified) for each in blobs)
    if any(each.leased for each in blobs):
        return Leftover(folder, size, "a publisher has a lease on it")
    if datetime.now(UTC) - youngest < grace:
        return Leftover(folder, size, f"it was written less than {grace.total_seconds() / 60:.0f} minutes ago")
    if not dry_run:
        kept = [each.name for each in blobs if not container.delete(each.name)]
        if kept:
            return Leftover(folder, size, f"{kept[0]} has been leased meanwhile")
    return Leftover(folder, size, "")


def _clean_disks(target: Target, variables: Mapping[str, str], image: str | None, dry_run: bool) -> list[Leftover]:
    with resource_targets.opened(target, variables) as manager:
        found = [Leftover(*each) for each in resource_targets.interrupted_disks(manager, image)]
        for each in found:
            if not each.kept and not dry_run:
                with suppress(PublishError):
                    manager.close_disk(each.folder)
                manager.delete_disk(each.folder)
    return found


def _clean_folder(root: Path, image: str | None, dry_run: bool) -> list[Leftover]:
    from pipeline.base.files import disk_bytes, remove_tree

    found = []
    for place in sorted(path for path in root.glob("*") if path.is_dir() and image in (None, path.name)):
        named = {e["folder"] for e in folder_uploader.read_index(root, place.name).versions}
        folders = [f"{place.name}/{path.name}" for path in sorted(place.iterdir())]
        left = [each for each in folders if version_folder(f"{each}/x") and each not in named]
        for folder in left:
            found.append(Leftover(folder, disk_bytes(root / folder), ""))
            if not dry_run:
                with folder_uploader.hold(root, place.name):
                    again = {e["folder"] for e in folder_uploader.read_index(root, place.name).versions}
                    if folder not in again:
                        remove_tree(root / folder)
    return found
