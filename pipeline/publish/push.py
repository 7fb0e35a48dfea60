"""Push a version to a target: check, upload, register. Returns the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

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
from pipeline.publish.image_gallery import GalleryUploader
from pipeline.publish.managed_disk import ManagedDiskUploader
from pipeline.publish.page_blob import Options
from pipeline.publish.resource_manager import ResourceManager
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
    keep_days: int | None = None,
    on_plan: Callable[[Plan], None] = lambda _plan: None,
    on_progress: OnProgress = ignore_progress,
) -> Pushed:
    """Publish a version, unless the target has it. Raises PublishError; the index is then unchanged.

    `judge` returns the faults of a version's evidence. `keep_days` is `keep:` of the image's definition, the
    end of life of a version in an Azure gallery.
    """
    gallery, watch = Gallery(store.gallery), Stopwatch()
    golden = gallery.find(version.name)
    candidate = golden is None or golden.version != version.version
    uploader, wire = _open(store, target, variables, options, retries, on_progress, candidate, keep_days)
    try:
        with leased(gallery, version, f"publish to {target.shown}"):
            refuse(gallery, version, judge)
            with source.opened(version, store.tmp) as disks:
                plan = _run(uploader, version, disks, dry_run, on_plan)
    finally:
        uploader.close()
        if isinstance(wire, Container):
            wire.close()
    pushed = Pushed(plan, uploader.sent, seconds=round(watch.seconds, 2), dry_run=dry_run, url=target.shown)
    if wire is None:
        return pushed
    return replace(pushed, sent=wire.sent, received=wire.received, repeated=wire.retries.repeated)


class _Wire(Protocol):
    """Who counts the bytes of requests' bodies, with repetitions."""

    retries: Retries

    @property
    def sent(self) -> int: ...

    @property
    def received(self) -> int: ...


def _open(
    store: Store,
    target: Target,
    variables: Mapping[str, str],
    options: Options,
    retries: Retries | None,
    on_progress: OnProgress,
    candidate: bool,
    keep_days: int | None,
) -> tuple[Uploader, _Wire | None]:
    """The uploader of a kind of target, and what counts its bytes."""
    if target.folder is not None:
        return FolderUploader(target.folder, on_progress), None
    journals = store.root / JOURNALS
    if target.place is None:
        container = Container(target, variables, retries)
        return BlobUploader(container, journals, store.tmp, options, on_progress), container
    retries = retries or Retries()
    manager = ResourceManager(target.place, target.credential.open("", variables), retries)
    if target.disks is not None:
        disks = ManagedDiskUploader(manager, target.disks, options, target.rate, on_progress)
        return disks, disks.wire
    assert target.gallery is not None
    container = Container(target.gallery.staging, variables, retries)
    staging = BlobUploader(container, journals, store.tmp, options, on_progress)
    uploader = GalleryUploader(manager, target.gallery, staging, candidate=candidate, keep_days=keep_days)
    return uploader, container


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
