"""Each name of an error about publishing is raised by the code that speaks to the target; no server is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError

from pipeline.base.errors import GoldsmithError
from pipeline.gallery import Gallery
from pipeline.gallery.retention import roll_back
from pipeline.publish import push, receive
from pipeline.publish.container import Container
from pipeline.publish.credentials import default_chain
from pipeline.publish.folder_uploader import _text_of
from pipeline.publish.journal import Journal
from pipeline.publish.page_blob import DiskUpload
from pipeline.publish.resource_manager import ResourceManager
from pipeline.publish.retries import Retries
from tests.unit.gallery.test_retention import capture

Patch = pytest.MonkeyPatch
Call = Callable[[Path, Patch], object]
ONCE = Retries(attempts=1)


def follow_a_link(folder: Path, _patch: Patch) -> None:
    (folder / "index.json").symlink_to("/etc/hostname")
    _text_of(folder / "index.json")


def ask(error: Exception) -> None:
    def action() -> None:
        raise error

    ONCE.call("send a page", "https://account.blob.core.windows.net/c", action)


def refuse_request(*_: object) -> None:
    error = HttpResponseError("the request is not valid")
    error.status_code = 400
    ask(error)


def fill_the_journal(folder: Path, _patch: Patch) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        Journal._write(SimpleNamespace(_fd=fd, path=folder / "journal"), "w 0 512\n")  # type: ignore[arg-type]
    finally:
        os.close(fd)


def await_a_failed_copy(*_: object) -> None:
    facts = SimpleNamespace(copy={"status": "failed"})
    container = SimpleNamespace(facts=lambda _blob: facts, url="https://x/c")
    DiskUpload._await_copy(SimpleNamespace(container=container, blob="disk.vhd"))  # type: ignore[arg-type]


def snapshot_without_a_name(*_: object) -> None:
    blob = SimpleNamespace(create_snapshot=lambda **_known: {"snapshot": None})
    container = SimpleNamespace(blob=lambda _name: blob, retries=ONCE, _where=lambda name: f"https://x/c/{name}")
    Container.snapshot(container, "disk.vhd", "etag")  # type: ignore[arg-type]


def manager(**methods: Any) -> Any:
    return SimpleNamespace(retries=Retries(first=0.0), **methods)


def await_what_stays(*_: object) -> None:
    def look() -> dict[str, Any]:
        return {"state": "Creating"}

    ResourceManager.await_state(manager(), "create a disk", look, lambda found: found["state"], deadline=-1)


def finish_what_stays(*_: object) -> None:
    poller = SimpleNamespace(wait=lambda _deadline: None, done=lambda: False)
    slow = manager(_call=lambda _what, _name, action: action())
    ResourceManager._finish(slow, "create a disk", "web", lambda: poller, 0)


def without_azure(patch: Patch, module: str, call: Callable[[], object]) -> None:
    patch.setitem(sys.modules, module, None)
    call()


def open_container(*_: object) -> None:
    Container._open(SimpleNamespace(), SimpleNamespace(), {})  # type: ignore[arg-type]


def publish_what_was_withdrawn(folder: Path, _patch: Patch) -> None:
    gallery = Gallery(folder / "gallery")
    capture(gallery)
    bad = capture(gallery)
    gallery.promote(bad)
    roll_back(gallery, "web", "golden", "a token was in it")
    push.refuse(gallery, bad, lambda _folder, _manifest: "")


CALLS: dict[str, Call] = {
    "cannot-read": follow_a_link,
    "publish-azure-late": await_what_stays,
    "publish-copy-failed": await_a_failed_copy,
    "publish-failed": refuse_request,
    "publish-image": lambda *_: receive._only_image(["a", "b"], SimpleNamespace(shown="https://x/c")),  # type: ignore[arg-type]
    "publish-journal": fill_the_journal,
    "publish-needs-azure": lambda _, patch: without_azure(patch, "azure.identity", lambda: default_chain({})),
    "publish-unreachable": lambda *_: ask(ServiceRequestError("no route to host")),
    "publish-withdrawn": publish_what_was_withdrawn,
}
CALLS_TOO: list[tuple[str, Call]] = [
    ("publish-azure-late", finish_what_stays),
    ("publish-copy-failed", snapshot_without_a_name),
    ("publish-needs-azure", lambda _, patch: without_azure(patch, "azure.storage.blob", open_container)),
    (
        "publish-needs-azure",
        lambda _, patch: without_azure(
            patch,
            "azure.mgmt.compute",
            lambda: ResourceManager(None, None, ONCE),  # type: ignore[arg-type]
        ),
    ),
]


CASES = [*CALLS.items(), *CALLS_TOO]


@pytest.mark.parametrize(("name", "call"), CASES, ids=[name for name, _ in CASES])
def test_publishing_that_fails_has_the_name_of_its_failure(
    name: str, call: Call, tmp_path: Path, monkeypatch: Patch
) -> None:
    with pytest.raises(GoldsmithError) as caught:
        call(tmp_path, monkeypatch)
    assert (caught.value.name, bool(caught.value.hint)) == (name, True)
