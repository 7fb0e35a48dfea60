"""capture: the last gate. A version exists when its directory does, complete, by one rename."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pipeline
from pipeline.base import process, qemu_img
from pipeline.base.byte_progress import ByteProgress
from pipeline.base.disk_format import DiskFormat
from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError
from pipeline.base.runs import now
from pipeline.cache.digests import BLOCK, CHUNK, write_block_digests
from pipeline.cache.layers import Image, Layer, PendingLayer
from pipeline.cache.units import StageResult, UnitSpec
from pipeline.context import BaseStage, BuildContext
from pipeline.definition import Definition, MasterSource
from pipeline.gallery import CANDIDATE, GOLDEN, data_file, digests_file, disk_file
from pipeline.gallery.verdict import count

#: The manifest's format.
MANIFEST_FORMAT = 1


class Capture(BaseStage):
    """The version in the gallery."""

    name = "capture"
    version = 1
    makes_version = True

    def units(self, context: BuildContext) -> tuple[UnitSpec[BuildContext], ...]:
        definition = context.definition
        inputs: dict[str, object] = {"name": definition.name, "summary": definition.summary}
        if context.data_disks:
            inputs["caching"] = [[disk.lun, disk.caching] for disk in context.data_disks]
        return (UnitSpec(GOLDEN, inputs, _run),)


def _composition(definition: Definition) -> dict[str, Any]:
    """What a definition has beside its own file: the texts of the files that it inherits from, and its parameters."""
    inherited = {
        str(path.relative_to(definition.project)): path.read_text(encoding="utf-8") for path in definition.inherited
    }
    return {
        **({"inherited_definitions": inherited} if inherited else {}),
        **({"parameters": dict(definition.parameters)} if definition.parameters else {}),
    }


def _run(context: BuildContext, source: Layer | None, draft: PendingLayer) -> StageResult:
    # a plan needs none of these
    from pipeline.evidence import unsigned
    from pipeline.evidence.checksum import Contents, write_evidence
    from pipeline.evidence.signing import load
    from pipeline.evidence.verification import FORMAT
    from pipeline.guest.secret_gate import refuse_secrets, without_secrets

    assert source is not None
    image = source.image
    refuse_secrets(context.secrets, context.made, image, context.progress)
    context.mask_logs()
    row = image.format
    files = {disk_file(row): image.path, **{data_file(lun, row): disk.path for lun, disk in image.data}}
    blocks = {digests_file(name): draft.path / digests_file(name) for name in files}
    entries = {name: _describe_disk(context, row, path, blocks[digests_file(name)]) for name, path in files.items()}
    key = load(context.store.host.key, context.store.root)
    if key is not None:
        # before this host signs its first master here, what nobody signed is registered
        unsigned.admitted(unsigned.register_beside(key.path), context.gallery)
    proven = source.facts.get("trees") or {}
    for name, tree in proven.items():
        if tree != entries[name]["tree_sha256"]:
            raise BuildError(f"{files[name]} has changed since it was tested", name="master-changed")
    lineage = context.made
    facts = {name: layer.facts for name, layer in lineage}
    checks = facts.get("inspect", {}).get("checks", [])
    if not count(checks).good:
        # a master that inspect has not looked at is no better than one that failed there
        raise CheckFailed(
            f"the master has not passed inspect: {count(checks)}",
            name="master-not-inspected",
            hint=f"goldsmith build {context.definition.name} --from inspect",
        )
    suite = next((layer.facts.get("suite") for name, layer in lineage if name == "acquire"), None)

    def manifest(version: str) -> dict[str, Any]:
        return without_secrets(context.secrets, describe(version))

    def describe(version: str) -> dict[str, Any]:
        return {
            "goldsmith": MANIFEST_FORMAT,
            "name": context.definition.name,
            "version": version,
            "summary": context.definition.summary,
            "created": now(),
            "state": "proven",
            "start": "warm" if context.warm else "cold",
            "os": context.definition.os,
            "suite": suite,
            **context.system.manifest_settings(context.definition),
            "generations": list(context.definition.generations),
            "machine": {"cpus": context.definition.machine.cpus, "memory": context.definition.machine.memory},
            "accelerator": context.accelerator.kind,
            "agent": context.definition.generalize.agent,
            **_rearms(facts.get("generalize", {})),
            "first_boot": context.definition.first_boot.source if context.definition.first_boot else None,
            "disk": entries[disk_file(row)],
            "data_disks": [
                {
                    "lun": disk.lun,
                    "caching": disk.caching,
                    "filesystem": disk.filesystem,
                    "label": disk.label,
                    **entries[data_file(disk.lun, row)],
                }
                for disk in context.data_disks
            ],
            "inputs": [
                {
                    "stage": name,
                    "title": layer.record.get("title"),
                    "key": layer.key,
                    "inputs": layer.record["inputs"],
                }
                for name, layer in lineage
            ],
            "definition": context.definition.path.read_text(encoding="utf-8"),
            **_composition(context.definition),
            "tools": tool_versions(context),
            "checks": checks,
            "verdict": count(checks).to_json(),
            "prove": facts.get("prove", {}).get("cells", {}),
            "timings": [
                {"stage": name, "title": layer.record.get("title"), "seconds": layer.record.get("seconds")}
                for name, layer in lineage
            ],
            "run": context.run.id,
            "started": context.run.record["started"],
            "signed_by": key.id if key else None,
            "evidence": FORMAT,
            **_lineage(context),
        }

    context.progress("reading the packages")
    contents = Contents.of(image)
    context.progress("into the gallery")
    made = context.gallery.capture(
        context.definition.name,
        {**files, **blocks},
        _extras(context, source),
        manifest,
        partial(write_evidence, contents=contents, key=key, add_files=partial(_write_page, context, image)),
    )
    # an author's warm build is to be looked at, never to be built upon: the night builds it cold
    context.gallery.promote(made, CANDIDATE if context.warm else GOLDEN)
    return StageResult(made.image, {"version": made.version}, f"{made.name} {made.version}")


def _write_page(context: BuildContext, image: Image, folder: Path) -> None:
    """Write the page of the version in `folder`; one that cannot be written is a note of the run."""
    from pipeline.evidence.disk_map import draw_disk
    from pipeline.evidence.version_page import VersionPage
    from pipeline.gallery.manifest import manifest_of

    former = context.gallery.find(context.definition.name)
    run = context.run
    try:
        VersionPage(folder, manifest_of(folder), former, draw_disk(image), run.record, run.folder).write()
    except (GoldsmithError, OSError) as error:
        run.emit("note", "", f"the page of this version was not written: {error}")


def _describe_disk(context: BuildContext, row: DiskFormat, path: Path, blocks: Path) -> dict[str, Any]:
    """What the manifest says of a disk's file; the digests of its blocks go to the file `blocks`."""
    digests = write_block_digests(path, blocks, ByteProgress(context.progress, f"digests: {path.name}"))
    blocks.chmod(0o444)
    return {
        "file": f"{blocks.stem}{row.suffix}",
        "format": row.output_title,
        "size": digests.size,
        "virtual_size": digests.size - row.trailing,
        "allocated": digests.allocated,
        "sha256": context.flat_digest(path, digests.tree),
        "tree_sha256": digests.tree,
        "chunk_size": CHUNK,
        "digests": {"file": blocks.name, "block_size": BLOCK},
    }


def _lineage(context: BuildContext) -> dict[str, Any]:
    """Of a patched master: the version it was, and how the first of its line was built."""
    source = context.definition.source
    if not isinstance(source, MasterSource) or source.image != context.definition.name:
        return {}
    parent = context.gallery.get(str(source))
    root = parent.manifest.get("rebuilt") or {
        "version": parent.version,
        "created": parent.manifest["created"],
        "inputs": parent.manifest["inputs"],
    }
    return {"patched_from": parent.version, "rebuilt": root}


def _rearms(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How often a Windows can be generalized again: a patch does, a clone does not."""
    return {"rearms_left": facts["rearms_left"]} if facts.get("rearms_left") is not None else {}


def _extras(context: BuildContext, source: Layer) -> list[tuple[str, Path]]:
    """Logs and screenshots that go with the master."""
    extras = [(f"screenshots/{p.name}", p) for p in sorted(source.path.glob("*.png"))]
    for path in sorted(context.run.folder.rglob("*")):
        if path.is_file() and path.suffix in (".log", ".json") and path.name != "run.json":
            extras.append((f"logs/{path.relative_to(context.run.folder)}", path))
    return extras


def tool_versions(context: BuildContext) -> dict[str, str]:
    """The versions of what had a hand in the master."""
    versions = {"goldsmith": pipeline.__version__, "python": platform.python_version()}
    versions["qemu-img"] = qemu_img.version()
    if process.find("mmdebstrap"):
        versions["mmdebstrap"] = (
            process.run(["mmdebstrap", "--version"], deadline=process.ANSWER).stdout.splitlines()[0].strip()
        )
    versions["libvirt"] = context.connection.version
    versions["qemu"] = context.connection.qemu_version
    return versions
