"""Retention of masters, with what the store knows of who stands on them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.care import in_use, planning
from pipeline.definition import Keep
from pipeline.gallery import Gallery, Version, archive
from pipeline.gallery.integrity import Judge
from pipeline.gallery.keeping import Going, prune
from pipeline.layers import Layer, Layers
from pipeline.store import Store


def standing(layers: Layers) -> dict[Path, list[Layer]]:
    """Every file that layers have below their own disk, with those layers."""
    found: dict[Path, list[Layer]] = defaultdict(list)
    for layer in layers.all():
        for level in layer.image.below if layer.record.get("image") else ():
            found[level.path].append(layer)
    return found


@contextlib.contextmanager
def users_of(store: Store) -> Iterator[Callable[[Version], str]]:
    """Who of the running builds stands on a version, as long as this is held."""
    layers = Layers(store.layers)
    with planning(store):
        busy, above = in_use(store), standing(layers)

        def used(version: Version) -> str:
            names = {str(layer.record.get("name")) for layer in above[version.disk] if layer.key in busy}
            return f"a build of {', '.join(sorted(names))} stands on it" if names else ""

        yield used


def prune_masters(store: Store, name: str, keep: Keep, *, dry: bool = False) -> list[Going]:
    """Let go the versions of an image that its definition does not keep.

    One that a running build stands on stays. With a version go the layers on top of it: nothing can use them.
    """
    gallery, layers = Gallery(store.gallery), Layers(store.layers)
    with users_of(store) as used:
        going = prune(gallery, name, keep.versions, keep.days, used=used, dry=dry)
        for one in going:
            if not dry and not one.held:
                _drop_above(layers, one.version)
    return going


def put_away(store: Store, version: Version, repository: Path, judge: Judge) -> None:
    """Move a version into an archive; the layers on top of it go. Raises as `archive.put_away`."""
    with users_of(store) as used:
        archive.put_away(Gallery(store.gallery), version, repository, store.tmp, judge=judge, used=used)
        _drop_above(Layers(store.layers), version)


def _drop_above(layers: Layers, version: Version) -> None:
    for layer in standing(layers)[version.disk]:
        layers.drop(layer.key)
