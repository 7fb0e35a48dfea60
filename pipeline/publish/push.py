"""Push a version to a target: check, upload, register. Returns the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.base.errors import CheckFailed
from pipeline.base.runs import Stopwatch
from pipeline.base.store import Store
from pipeline.gallery import Gallery, Version
from pipeline.gallery.integrity import Judge
from pipeline.gallery.retention import leased, withdrawn
from pipeline.publish import source
from pipeline.publish.blob_uploader import BlobUploader
from pipeline.publish.container import Container
from pipeline.publish.folder_uploader import FolderUploader
from pipeline.publish.page_blob import Options
from pipeline.publish.retries import Retries
from pipeline.publish.targets import Target
from pipeline.publish.transfer import OnProgress, ignore_progress
from pipeline.publish.uploader import Plan, Sent, Uploader

#: Journals of uploads, in the store.
JOURNALS = "publish"


@dataclass(frozen=True)
class Pushed:
    """The result of a push: the plan, the sent disks, and the bytes of all requests' bodies."""

    plan: Plan
    disks: Sequence[Sent] = ()
    sent: int = 0
    received: int = 0
    repeated: int = 0
    seconds: float = 0.0
    dry_run: bool = False
    url: str = field(default="")

    def to_json(self) -> dict[str, Any]:
        return {
            "image": self.plan.name,
            "version": self.plan.version,
            "target": self.url,
            "folder": self.plan.folder,
            "already_published": self.plan.published,
            "dry_run": self.dry_run,
            "plan": [asdict(disk) for disk in self.plan.disks],
            "disks": [asdict(disk) for disk in self.disks],
            "bytes_sent": self.sent,
            "bytes_received": self.received,
            "requests_repeated": self.repeated,
            "seconds": self.seconds,
        }


def push(
    store: Store,
    version: Version,
    target: Target,
    variables: Mapping[str, str],
    *,
    options: Options,
    judge: Judge = lambda _folder, _manifest: "",
    retries: Retries | None = None,
    dry_run: bool = False,
    on_plan: Callable[[Plan], None] = lambda _plan: None,
    on_progress: OnProgress = ignore_progress,
) -> Pushed:
    """Publish a version, unless the target has it. Raises PublishError; the index is then unchanged.

    `judge` returns the faults of a version's evidence.
    """
    gallery, watch = Gallery(store.gallery), Stopwatch()
    container = Container(target, variables, retries) if target.url is not None else None
    uploader: Uploader
    if container is not None:
        uploader = BlobUploader(container, store.root / JOURNALS, store.tmp, options, on_progress)
    else:
        assert target.folder is not None
        uploader = FolderUploader(target.folder)
    try:
        with leased(gallery, version, f"publish to {target.shown}"):
            refuse(gallery, version, judge)
            with source.opened(version, store.tmp) as disks:
                plan = _run(uploader, version, disks, dry_run, on_plan)
    finally:
        uploader.close()
        if container is not None:
            container.close()
    pushed = Pushed(plan, uploader.sent, seconds=round(watch.seconds, 2), dry_run=dry_run, url=target.shown)
    if container is None:
        return pushed
    return replace(pushed, sent=container.sent, received=container.received, repeated=container.retries.repeated)


def _run(
    uploader: Uploader,
    version: Version,
    disks: list[source.SourceDisk],
    dry_run: bool,
    on_plan: Callable[[Plan], None],
) -> Plan:
    plan = uploader.check(version, disks)
    on_plan(plan)
    if not plan.published and not dry_run:
        uploader.register(plan, uploader.upload(version, disks, plan))
    return plan


def refuse(gallery: Gallery, version: Version, judge: Judge) -> None:
    """Raise CheckFailed for a version that must not be published: withdrawn, or with damaged evidence."""
    if wrong := judge(version.path, version.manifest):
        raise CheckFailed(
            f"{version.path}: {wrong}",
            name="master-damaged",
            hint="goldsmith gallery verify shows the damage; restore the version, or publish another one",
        )
    why = withdrawn(gallery, version.name).get(version.version)
    if why:
        raise CheckFailed(
            f"{version.name} {version.version} was withdrawn: {why}",
            name="publish-withdrawn",
            hint="publish another version; goldsmith gallery list shows all",
        )
