"""The last look before a master exists: none of the build's secrets is on what ships, nor in what describes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.base.errors import CheckFailed
from pipeline.base.secret_forms import needles
from pipeline.cache.layers import Image, Layer
from pipeline.guest.secret_values import SECRETS, SecretValues


def refuse_secrets(
    secrets: SecretValues, lineage: Iterable[tuple[str, Layer]], image: Image, progress: Callable[[str], None]
) -> None:
    """Search the shipped disks for each secret that a step of this master has read.

    `lineage`: the layers that the master is made of, each with its stage's name.

    Raises CheckFailed: secret-in-image; secret-changed, where a layer was made with another value, for which nothing
    can be searched any more; secret-search-incomplete. Raises UsageError as `SecretValues.read`.
    """
    recorded = [(layer, dict(layer.facts.get(SECRETS) or {})) for _, layer in lineage]
    names = sorted({name for _, prints in recorded for name in prints})
    if not names:
        return
    # a plan needs no search
    from pipeline.disk.value_question import search_disk

    values = secrets.read_all(names)
    current = secrets.fingerprints(names)
    for layer, prints in recorded:
        for name, fingerprint in prints.items():
            if fingerprint != current[name]:
                title = layer.record.get("title")
                raise CheckFailed(
                    f"the secret {name} has changed since {title} read it, and its old value is not known",
                    name="secret-changed",
                    hint=f'goldsmith build {secrets.definition.name} --from "{title}"',
                )
    progress(f"searching the disk for {len(names)} secrets")
    searched = needles(values)
    for path in (image.path, *(disk.path for _, disk in image.data)):
        found, gaps = search_disk(path, image.format.key, searched)
        if found:
            raise CheckFailed(
                f"the shipped disk has {len(found)} copies of secrets of the build: {'; '.join(map(str, found[:3]))}",
                name="secret-in-image",
                hint="let the step write secrets only to memory (/run), and delete what a program wrote; then "
                "replace the secret, because this disk was in the cache",
                evidence=path,
            )
        if gaps:
            raise CheckFailed(
                f"the shipped disk could not be searched whole for the secrets of the build: {gaps[0]}",
                name="secret-search-incomplete",
                hint="remove what could not be read, or give the steps no secrets",
                evidence=path,
            )


def without_secrets(secrets: SecretValues, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest. Raises CheckFailed (secret-in-record) where it has a secret in it."""
    name = secrets.mask.find(json.dumps(manifest).encode())
    if name is not None:
        raise CheckFailed(
            f"the manifest would contain the secret {name}",
            name="secret-in-record",
            hint="remove it from the definition, from its parameters and from the titles of its steps",
        )
    return manifest
