"""A template to a definition: read, one build chosen, its source and its provisioners turned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.store import IMAGE_NAME
from pipeline.definition import rules
from pipeline.definition.scaffold import STARTER, starter_texts
from pipeline.packer.imported import Imported
from pipeline.packer.legacy import read_legacy
from pipeline.packer.limits import Folder
from pipeline.packer.provisioners import StepMaker
from pipeline.packer.sources import is_true, is_windows, turn_source
from pipeline.packer.template import Build, HclTemplate, Settings, Template, load_json, read_file

#: Post-processors whose work goldsmith does anyway.
_DONE = {
    "manifest": "each version has a manifest",
    "checksum": "each version has its digest",
    "compress": "goldsmith gallery export compresses",
    "artifice": "goldsmith keeps the version itself",
}


def folder_of(path: Path, root: Path | None) -> Folder:
    """The folders that a template may read: its own, and `root`. Raises UsageError (no-such-file)."""
    if not path.is_file():
        raise UsageError(
            f"{path} is not a file", name="no-such-file", hint="name a template that ends in .pkr.hcl or .json"
        )
    own = path.resolve().parent
    return Folder(own, root.resolve() if root is not None else own)


def read_template(path: Path, settings: Settings) -> Template:
    """The builds of a template in HCL2, or in the older JSON form. Raises UsageError."""
    path = path.resolve()
    if path.suffix != ".json":
        return HclTemplate(path, settings).read()
    document = load_json(read_file(path), path.name)
    if "builders" not in document and {"source", "build"} & set(document):
        raise UsageError(
            f"{path.name} is HCL2 written as JSON, which goldsmith does not import",
            name="packer-syntax",
            hint="write it in the native syntax, as a file that ends in .pkr.hcl",
        )
    return read_legacy(path, settings)


def choose_build(template: Template, source: str | None) -> tuple[Build, list[str]]:
    """The build of a source, by default of the one that goldsmith can turn best, and the names of the other sources.

    Raises UsageError (packer-no-build).
    """
    builds = [each for each in template.builds if each.source.type not in ("null", "docker", "lxc", "lxd")]
    chosen = [each for each in builds if source in (None, each.source.address, each.source.name, each.source.type)]
    if not chosen:
        names = ", ".join(dict.fromkeys(each.source.address for each in builds)) or "none that makes a disk"
        raise UsageError(
            f"the template has no source {source}" if source else "the template has no source that makes a disk",
            name="packer-no-build",
            hint=f"its sources: {names}",
        )
    best = min(chosen, key=_rank)
    return best, [each.source.address for each in builds if each is not best]


def _rank(build: Build) -> tuple[bool, bool, bool]:
    kind = build.source.type
    return (
        not build.provisioners,
        not (kind == "qemu" and is_true(build.source.attributes.get("disk_image"))),
        kind not in ("qemu", "azure-arm", "hyperv-iso"),
    )


def image_name(build: Build, path: Path) -> str:
    """The name of the image: of the template's file. Raises UsageError (image-name)."""
    stem = path.name.removesuffix(".json").removesuffix(".hcl").removesuffix(".pkr").removesuffix(".json")
    for word in (stem, build.source.name):
        name = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
        if IMAGE_NAME.fullmatch(name):
            return name
    raise UsageError(f"{stem!r} makes no image name", name="image-name", hint="name the image: --as NAME")


def turn(build: Build, name: str, project: Path, folder: Folder, base: str | None) -> Imported:
    """The definition of a build. Raises UsageError (image-name), (packer-source), (packer-too-large)."""
    if not IMAGE_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid image name", name="image-name", hint=rules.IMAGE_NAME_RULE)
    imported = Imported(name)
    imported.document = {"goldsmith": 1, "summary": f"{name}, imported from Packer"}
    runs_powershell = is_windows(build.source, [each.type for each in build.provisioners])
    turn_source(build.source, imported, base=base, runs_powershell=runs_powershell)
    if imported.bootstraps:
        _add_azure_playbook(imported, project)
    maker = StepMaker(imported, folder, runs_powershell=runs_powershell)
    for provisioner in build.provisioners:
        maker.turn(provisioner)
    for post in build.post_processors:
        imported.miss(
            f"post-processor {post.type}",
            _DONE.get(post.type, "it is not run; see goldsmith publish and goldsmith vhd convert"),
        )
    return imported


def name_others(imported: Imported, others: Sequence[str], notes: Sequence[str]) -> None:
    """Name the template's other sources, and what was not read."""
    if names := ", ".join(dict.fromkeys(others)):
        imported.miss(f"other sources: {names}", "import each with --source, under a name of its own")
    for note in notes:
        what, _, why = note.partition(": ")
        imported.miss(what, why or "not turned")


def _add_azure_playbook(imported: Imported, project: Path) -> None:
    """A bootstrapped Debian begins with the playbook that makes it ready for Azure, as `goldsmith init` writes it."""
    imported.document["steps"] = [{"name": "azure", "playbook": STARTER[0]}]
    if (project / "playbooks" / STARTER[0]).exists():
        return
    for path, text in starter_texts(Path("playbooks")):
        if not (project / path).exists():
            imported.add_file(str(path), text.encode())
