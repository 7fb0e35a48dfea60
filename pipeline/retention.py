"""Retention of masters, with what the store knows of who stands on them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pipeline.care import in_use, planning
from pipeline.definition import Keep
from pipeline.gallery import Gallery, Version
from pipeline.gallery.keeping import Going, prune
from pipeline.layers import Layer, Layers
from pipeline.store import Store


def standing(layers: Layers) -> dict[Path, list[Layer]]:
    """Every file that layers have below their own disk, with those layers."""
    found: dict[Path, list[Layer]] = defaultdict(list)
    for layer in layers.all():
        for level in layer.image.chain[1:] if layer.record.get("image") else ():
            found[level.path].append(layer)
    return found


def prune_masters(store: Store, name: str, keep: Keep, *, dry: bool = False) -> list[Going]:
    """Let go the versions of an image that its definition does not keep.

    One that a running build stands on stays. With a version go the layers on top of it: nothing can use them.
    """
    gallery, layers = Gallery(store.gallery), Layers(store.layers)
    with planning(store):
        busy, above = in_use(store), standing(layers)

        def used(version: Version) -> str:
            names = {str(layer.record.get("name")) for layer in above[version.disk] if layer.key in busy}
            return f"a build of {', '.join(sorted(names))} stands on it" if names else ""

        going = prune(gallery, name, keep.versions, keep.days, used=used, dry=dry)
        for one in going:
            if not dry and not one.held:
                for layer in above[one.version.disk]:
                    layers.drop(layer.key)
    return going
