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
    sources: Sequence[Sequence[str]] = (),
) -> str:
    """The bill as JSON. `system` is the disk's os-release, `packages` are name, version and architecture.

    `sources` are name, architecture, source package and its version, of packages whose source differs from them.

    `sha256` is that of the disk file, None for one too large to have one; `tree` is the digest of its chunks'.
    """
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"goldsmith:{name}:{version}:{tree}"))
    bom.metadata.timestamp = datetime.fromisoformat(created)
    bom.metadata.tools.components.add(
        Component(name="goldsmith", version=pipeline.__version__, type=ComponentType.APPLICATION)
    )
    facts = {"tree_sha256": tree}
    if system.get("VERSION_CODENAME"):
        facts["codename"] = system["VERSION_CODENAME"]
    master = Component(
        name=name,
        version=version,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"{name}@{version}",
        description=system.get("PRETTY_NAME") or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        properties=[Property(name=f"goldsmith:{name}", value=value) for name, value in facts.items()],
    )
    bom.metadata.component = master
    upstream = {(package, architecture): f"{source}@{number}" for package, architecture, source, number in sources}
    parts = [_component(row, system, upstream.get((row[0], row[2]))) for row in packages]
    bom.components.update(parts)
    bom.register_dependency(master, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _component(row: Sequence[str], system: Mapping[str, str], source: str | None) -> Component:
    """`source` is NAME@VERSION of its source package: `upstream`, the qualifier that scanners of bills read."""
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
        qualifiers={"arch": architecture, "distro": distribution, **({"upstream": source} if source else {})},
    )
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=purl.to_string())
