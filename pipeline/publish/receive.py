"""Receive what goldsmith published: a folder as `gallery export` makes it, which the import then judges as any other.

Nothing on the target is trusted. The index and the digests say which ranges to read; every block is compared with its
digest, and the import compares disks, files and signatures with the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipeline.base import scratch
from pipeline.base.errors import UsageError
from pipeline.base.printable import listed
from pipeline.cache.digests import blocks_size
from pipeline.gallery import MANIFEST, digests_file, disks_of
from pipeline.gallery.export_import import TEXT_LIMIT
from pipeline.gallery.manifest import LIMIT as MANIFEST_LIMIT
from pipeline.gallery.manifest import manifest_of
from pipeline.publish import blob_uploader, folder_uploader
from pipeline.publish.blob_uploader import read_file, write_sparse
from pipeline.publish.container import Container
from pipeline.publish.errors import PublishError
from pipeline.publish.index import FILE, Index
from pipeline.publish.published import chosen
from pipeline.publish.ranges import BlockDigests, Range, cut, merge
from pipeline.publish.resource_targets import refuse
from pipeline.publish.source import unequal
from pipeline.publish.targets import Target
from pipeline.publish.transfer import Meter, OnProgress, at_once, ignore_progress


def is_published(folder: Path) -> bool:
    """Whether a folder is a target with published images, not one exported version."""
    return not (folder / MANIFEST).exists() and any(folder.glob(f"*/{FILE}"))


@contextmanager
def received(
    target: Target,
    reference: str | None,
    variables: Mapping[str, str],
    temporary: Path,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[Path]:
    """A folder with the published version NAME[@VERSION], by default the newest of the only image.

    Raises NotFound (publish-unknown), UsageError (publish-image), PublishError (publish-damaged).
    """
    refuse(target, "imported from", "import from a container or a folder that has the version too")
    image, _, which = (reference or "").partition("@")
    if target.url is None:
        root = target.folder
        assert root is not None
        image = image or _only_image(sorted(path.parent.name for path in root.glob(f"*/{FILE}")), target)
        yield root / _entry(folder_uploader.read_index(root, image), which, target)["folder"]
        return
    with closing(Container(target, variables)) as container, scratch.folder(temporary, "receive") as folder:
        if not image:
            names = {facts.name.removesuffix(f"/{FILE}") for facts in container.names("") if _is_index(facts.name)}
            image = _only_image(sorted(names), target)
        entry = _entry(blob_uploader.read_index(container, image), which, target)
        exported = folder / "version"
        exported.mkdir()
        _download(container, entry, exported, target.parallel, Meter(on_progress))
        yield exported


def _is_index(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(f"/{FILE}")


def _only_image(names: list[str], target: Target) -> str:
    if len(names) == 1:
        return names[0]
    raise UsageError(
        f"{target.shown} has {'several images' if names else 'no published image'}",
        name="publish-image",
        hint=f"name one of them: {listed(names)}" if names else "goldsmith publish push publishes an image",
    )


def _entry(index: Index, which: str, target: Target) -> Mapping[str, Any]:
    """The version that is meant: the newest without a number."""
    newest = index.newest
    return next(iter(chosen(index, which or (newest["version"] if newest else None), target)))


def _download(container: Container, entry: Mapping[str, Any], exported: Path, parallel: int, meter: Meter) -> None:
    for record in entry["files"]:
        limit = MANIFEST_LIMIT if record["file"] == MANIFEST else TEXT_LIMIT
        if int(record["size"]) > limit:
            raise _damaged(container, entry, f"{record['file']} has {record['size']} bytes, more than {limit}")
        path = exported / record["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(read_file(container, entry["folder"], record, int(record["size"])))
    records = disks_of(manifest_of(exported))
    for disk in entry["disks"]:
        has_digests = bool(records.get(disk["file"], {}).get("digests"))
        _download_disk(container, entry, disk, exported, has_digests, parallel, meter)


def _download_disk(
    container: Container,
    entry: Mapping[str, Any],
    disk: Mapping[str, Any],
    exported: Path,
    has_digests: bool,
    parallel: int,
    meter: Meter,
) -> None:
    name, size = str(disk["file"]), int(disk["size"])
    facts = container.facts(f"{entry['folder']}/{name}")
    if facts is None or facts.size != size:
        raise _damaged(container, entry, f"{name} is missing or has another size")
    place = exported.with_name(digests_file(name))
    with place.open("xb") as file:
        write_sparse(file, read_file(container, entry["folder"], disk["digests"], blocks_size(size)))
    with closing(BlockDigests(place, size)) as digests, (exported / name).open("xb") as target:
        target.truncate(size)
        pages = list(cut(merge(map(digests.range_of, digests.with_data()))))

        def fetch(page: Range) -> None:
            data = container.read_range(f"{entry['folder']}/{name}", page)
            if wrong := unequal(data, page.start, digests):
                at = digests.range_of(wrong[0]).start
                raise _damaged(container, entry, f"{name} has changed at byte {at}")
            os.pwrite(target.fileno(), data, page.start)
            meter.add(page.length)

        meter.begin(f"download {name}", sum(page.length for page in pages))
        at_once(pages, parallel, fetch, container.retries)
    # a version of an older goldsmith has no such file: it was made for publishing only
    if has_digests:
        place.rename(exported / place.name)


def _damaged(container: Container, entry: Mapping[str, Any], why: str) -> PublishError:
    return PublishError(
        f"{container.url}/{entry['folder']}: {why}",
        name="publish-damaged",
        hint="goldsmith publish verify shows the damage; import another version",
    )
