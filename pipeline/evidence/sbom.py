"""The bill of materials (CycloneDX 1.6): every package of the disk that ships, by the disk's own record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

import pipeline
from pipeline.systems.inspection import NO_INDEX, package_type


def bill(
    name: str,
    version: str,
    *,
    created: str,
    sha256: str | None,
    tree: str,
    system: Mapping[str, str],
    packages: Sequence[Sequence[str]],
) -> str:
    """The bill as JSON. `system` is the disk's os-release, `packages` are name, version and architecture.

    `sha256` is that of the disk file, None for one too large to have one; `tree` is the digest of its chunks'.
    """
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"goldsmith:{name}:{version}:{tree}"))
    bom.metadata.timestamp = datetime.fromisoformat(created)
    bom.metadata.tools.components.add(
        Component(name="goldsmith", version=pipeline.__version__, type=ComponentType.APPLICATION)
    )
    master = Component(
        name=name,
        version=version,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"{name}@{version}",
        description=system.get("PRETTY_NAME") or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        properties=[Property(name="goldsmith:tree_sha256", value=tree)],
    )
    bom.metadata.component = master
    parts = [_component(row, system) for row in packages]
    bom.components.update(parts)
    bom.register_dependency(master, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _component(row: Sequence[str], system: Mapping[str, str]) -> Component:
    name, version, architecture = row
    kind = package_type(system)
    distribution = f"{system.get('ID', 'linux')}-{system.get('VERSION_ID', '')}".rstrip("-")
    if kind == NO_INDEX:
        purl = PackageURL(type=kind, name=name, version=version or None, qualifiers={"arch": architecture})
        return Component(
            name=name, version=version or None, type=ComponentType.APPLICATION, purl=purl, bom_ref=purl.to_string()
        )
    purl = PackageURL(
        type=kind,
        namespace=system.get("ID") or None,
        name=name,
        version=version,
        qualifiers={"arch": architecture, "distro": distribution},
    )
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string())
