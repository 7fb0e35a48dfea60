"""What one key of a definition asks of another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.base.disk_format import PACKED_SUFFIXES
from pipeline.definition import rules
from pipeline.definition.diagnostics import closest, shown
from pipeline.definition.document import Document
from pipeline.definition.model import TARGET_GENERATION
from pipeline.definition.system_rules import check_definition, rules_of

#: The keys of a secret.
_SECRET_SOURCES = ("file", "env", "command")


def check_cross_rules(document: Document, data: dict[str, Any]) -> None:
    """Put the faults into the document; reads plain data, so that a fault elsewhere hides none of these."""
    generations = data.get("generations", list(rules_of(data.get("os")).generations))
    prove = data.get("prove")
    if isinstance(prove, list) and generations in ([1], [2], [1, 2], [2, 1]):
        for index, item in enumerate(prove):
            if item in TARGET_GENERATION and TARGET_GENERATION[item] not in generations:
                message = f"{item} is not in the image's generations"
                document.add(("prove", index), message, f"generations is {_list_of(generations)}")
    _outside(document, data)
    check_definition(document, data)
    _data_disks(document, data.get("data_disks"))
    _secrets(document, data)
    machine = data.get("machine")
    if isinstance(machine, dict) and {"patience", "timeout_factor"} <= machine.keys():
        message = "patience is the former name of timeout_factor; they cannot be combined"
        document.add(("machine", "patience"), message, "remove patience", at_key=True)
    source = data.get("source")
    if not isinstance(source, dict):
        return
    disk = source.get("disk")
    if isinstance(disk, dict):
        _disk_is_whole(document, disk)
        _brought_data_disks(document, disk.get("data_disks"), data.get("data_disks"))


def _outside(document: Document, data: dict[str, Any]) -> None:
    """A disk that was generalized outside is shipped as it is: whatever boots it would undo that."""
    generalize, source = data.get("generalize"), data.get("source")
    if not isinstance(generalize, dict) or generalize.get("agent") != "outside":
        return
    if isinstance(source, dict) and "disk" not in source:
        document.add(("generalize", "agent"), "outside needs a disk as the source", "use waagent or none")
    for key in ("steps", "disk", "first_boot", "updates"):
        if data.get(key):
            document.add(
                (key,), "needs a guest, but generalize: {agent: outside} boots none", f"remove {key}", at_key=True
            )


def _data_disks(document: Document, disks: object) -> None:
    seen: set[object] = set()
    for index, disk in enumerate(disks if isinstance(disks, list) else ()):
        if not isinstance(disk, dict):
            continue
        lun = disk.get("lun")
        if isinstance(lun, int) and lun in seen:
            document.add(("data_disks", index, "lun"), f"LUN {lun} is duplicated", "give each disk its own LUN")
        seen.add(lun)
        if "label" in disk and "filesystem" not in disk:
            document.add(("data_disks", index, "label"), "a label needs a filesystem", "filesystem: ext4")


def _brought_data_disks(document: Document, files: object, disks: object) -> None:
    """Each file of a data disk has a LUN of its own, whose size and caching `data_disks` has."""
    known = [each.get("lun") for each in disks if isinstance(each, dict)] if isinstance(disks, list) else []
    seen: set[object] = set()
    for index, each in enumerate(files if isinstance(files, list) else ()):
        if not isinstance(each, dict) or not isinstance(each.get("lun"), int):
            continue
        place, lun = ("source", "disk", "data_disks", index, "lun"), each["lun"]
        if lun in seen:
            document.add(place, f"LUN {lun} is duplicated", "give each disk its own LUN")
        elif lun not in known:
            document.add(place, f"data_disks has no LUN {lun}", f"data_disks: [{{lun: {lun}, size: 64 MiB}}]")
        seen.add(lun)


def _secrets(document: Document, data: dict[str, Any]) -> None:
    """Each secret has one source, and each name in a step is a secret's."""
    secrets = data.get("secrets")
    known = secrets if isinstance(secrets, dict) else {}
    for name, source in known.items():
        if isinstance(source, dict) and len(source.keys() & set(_SECRET_SOURCES)) != 1:
            document.add(("secrets", name), "needs exactly one source", "file: PATH, env: VARIABLE or command: LINE")
    refresh = data.get("refresh")
    nightly = refresh.get("steps") if isinstance(refresh, dict) else None
    for place, steps in ((("steps",), data.get("steps")), (("refresh", "steps"), nightly)):
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            names = step.get("secrets") if isinstance(step, dict) else None
            for number, name in enumerate(names if isinstance(names, list) else ()):
                if isinstance(name, str) and name not in known:
                    hint = closest(name, list(known)) or f"secrets: {{{name}: {{file: PATH}}}}"
                    document.add((*place, index, "secrets", number), f"{shown(name)} is not in `secrets:`", hint)


def _disk_is_whole(document: Document, disk: dict[str, Any]) -> None:
    place = ("source", "disk")
    if "path" in disk and "url" in disk:
        document.add((*place, "url"), "path and url cannot be combined", "remove one", at_key=True)
    elif "path" not in disk and "url" not in disk:
        document.add(place, "needs a path or a url")
    if "url" in disk and "sha256" not in disk:
        document.add(
            (*place, "url"), "a url needs a sha256", "add sha256: with the checksum that the publisher states"
        )
    where = disk.get("path", disk.get("url"))
    if "format" not in disk and isinstance(where, str) and format_of(where) is None:
        known = ", ".join(sorted(set(rules.FORMATS.values())))
        which = "path" if "path" in disk else "url"
        document.add((*place, which), "the file's name does not show its format", f"add format: one of {known}")


def format_of(name: str) -> str | None:
    """The format that the name of a file or a URL shows, without the suffix of its compression; None if none."""
    path = Path(re.split("[?#]", name, maxsplit=1)[0])
    if path.suffix.lower() in PACKED_SUFFIXES:
        path = path.with_suffix("")
    return rules.FORMATS.get(path.suffix.lower())


def _list_of(values: Sequence[object]) -> str:
    """`[1, 2]`, as YAML writes it."""
    return f"[{', '.join(shown(value) for value in values)}]"
