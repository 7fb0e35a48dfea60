"""Whether the gallery is what was captured: every disk against its manifest, every channel against its target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.digests import chunk_digests, flat_digest
from pipeline.errors import GoldsmithError
from pipeline.gallery import DISK, GONE, MANIFEST, NEW, POINT, Gallery, disks_of
from pipeline.gallery.versions import parse


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what was wrong with it; `scratch` is what a dead process left, and no damage."""

    what: str
    wrong: str = ""
    scratch: bool = False


#: Judges what a version carries besides its disk: the folder, its manifest; what is wrong, or nothing.
Judge = Callable[[Path, Mapping[str, Any]], str]


def verify(
    gallery: Gallery, name: str, only: str | None = None, *, judge: Judge = lambda _folder, _manifest: ""
) -> Iterator[Finding]:
    """Look at all versions and channels of an image, or at one version. Costs a read of every disk's data."""
    folder = gallery.root / name
    for path in sorted(folder.iterdir()):
        if path.name.startswith((NEW, GONE, POINT)):
            yield Finding(f"{name}/{path.name}", "left by a process that died", scratch=True)
        elif path.is_symlink():
            if only in (None, path.name):
                yield Finding(f"{name}@{path.name}", _channel(gallery, name, path))
        elif parse(path.name) and only in (None, path.name):
            yield Finding(f"{name} {path.name}", judge_folder(path, name, path.name, judge))


def _channel(gallery: Gallery, name: str, link: Path) -> str:
    target = str(link.readlink())
    if not parse(target):
        return f"points at {target}, which is no version"
    return "" if gallery.find(name, target) else f"points at {target}, which is not there"


def judge_folder(path: Path, name: str, version: str, judge: Judge) -> str:
    """What is wrong with the version in a folder, wherever that lies, or nothing."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if (manifest["version"], manifest["name"]) != (version, name):
            return f"its manifest is that of {manifest['name']} {manifest['version']}"
        for file, told in disks_of(manifest).items():
            if wrong := _judge_disk(path / file, told):
                return wrong
        return judge(path, manifest)
    except (OSError, ValueError, KeyError, TypeError, GoldsmithError) as error:
        return f"cannot be read: {type(error).__name__}: {error}"


def _judge_disk(path: Path, told: Mapping[str, Any]) -> str:
    whose = "its disk" if path.name == DISK else path.name
    found = chunk_digests(path)
    if found.size != told["size"]:
        return f"{whose} has {found.size} bytes, not {told['size']}"
    wrong = [n for n, (a, b) in enumerate(zip(found.chunks, told["chunks_sha256"], strict=True)) if a != b]
    if wrong:
        return f"{whose} was changed: {len(wrong)} chunks, the first at byte {wrong[0] * int(told['chunk_size'])}"
    if told["sha256"] is not None and flat_digest(path) != told["sha256"]:
        return f"its manifest's sha256 is not that of {whose}"
    return ""
