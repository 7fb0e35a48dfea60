"""Which published versions a target keeps, as `keep:` of a definition says: the index forgets a version first."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.base.files import remove_tree
from pipeline.gallery.versions import parse
from pipeline.publish import blob_uploader, folder_uploader, resource_targets
from pipeline.publish.container import Container
from pipeline.publish.index import Index
from pipeline.publish.targets import Target


def prunable_versions(index: Index, versions: int | None, days: int | None, now: datetime) -> list[Mapping[str, Any]]:
    """The versions beyond the newest `versions`, or published more than `days` ago; never the newest one."""
    newest_first = sorted(index.versions, key=lambda each: parse(each["version"]) or (0, 0, 0), reverse=True)
    prunable = []
    for place, each in enumerate(newest_first):
        published = each["published"]
        old = days is not None and published and now - datetime.fromisoformat(published) > timedelta(days=days)
        if place > 0 and ((versions is not None and place >= versions) or old):
            prunable.append(each)
    return prunable


def retire(
    image: str, target: Target, variables: Mapping[str, str], *, versions: int | None, days: int | None
) -> list[str]:
    """Remove the versions of an image that a target does not keep; their numbers. One with a leased blob stays.

    Raises Conflict where another publisher has changed the index, PublishError.
    """
    now = datetime.now(UTC)
    if target.place is not None:
        with resource_targets.opened(target, variables) as manager:
            index = resource_targets.read_index(manager, target, image)
            prunable = prunable_versions(index, versions, days, now)
            return resource_targets.remove_versions(manager, target, prunable)
    if target.url is None:
        assert target.folder is not None
        index = folder_uploader.read_index(target.folder, image)
        removed = prunable_versions(index, versions, days, now)
        if removed:
            kept = index.without({each["version"] for each in removed})
            folder_uploader.switch_index(target.folder, kept, "the retention")
            for each in removed:
                remove_tree(target.folder / each["folder"])
        return [each["version"] for each in removed]
    with closing(Container(target, variables)) as container:
        index = blob_uploader.read_index(container, image)
        prunable = prunable_versions(index, versions, days, now)
        removed = blob_uploader.remove_versions(container, index, prunable, "the retention")
        return [each["version"] for each in removed]
