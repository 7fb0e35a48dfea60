"""What one key of a definition asks of another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.definition import rules
from pipeline.definition.diagnostics import shown
from pipeline.definition.document import Document
from pipeline.definition.model import TARGET_GENERATION
from pipeline.definition.units import GIB, disk_size

#: A bootstrapped Debian with a kernel, the agent and room for its own updates does not fit in less.
_SMALLEST_DEBIAN = 2 * GIB


def across(document: Document, data: dict[str, Any]) -> None:
    """Put the faults into the document; reads plain data, so that a fault elsewhere hides none of these."""
    windows = data.get("os") == "windows"
    generations = data.get("generations", [2] if windows else [1, 2])
    prove = data.get("prove")
    if isinstance(prove, list) and generations in ([1], [2], [1, 2], [2, 1]):
        for index, item in enumerate(prove):
            if item in TARGET_GENERATION and TARGET_GENERATION[item] not in generations:
                message = f"{item} is not among the generations"
                document.add(("prove", index), message, f"generations is {_list_of(generations)}")
    _outside(document, data)
    _windows(document, data) if windows else _linux(document, data)
    _data_disks(document, data.get("data_disks"))
    source = data.get("source")
    if not isinstance(source, dict):
        return
    if "debian" in source and "disk" in data:
        _debian_fits(document, data["disk"])
    disk = source.get("disk")
    if isinstance(disk, dict):
        _disk_is_whole(document, disk)


#: Steps by the system that runs them; a copy goes to both.
_LINUX_STEPS, _WINDOWS_STEPS = ("playbook", "script"), ("powershell", "cmd", "msi")


def _windows(document: Document, data: dict[str, Any]) -> None:
    source, generations = data.get("source"), data.get("generations")
    if isinstance(source, dict) and "debian" in source:
        document.add(("source", "debian"), "Debian is no Windows", "os: linux", at_key=True)
    if generations in ([1, 2], [2, 1]):
        hint = "a definition for each"
        document.add(("generations",), "a disk of Windows is of one generation: its partitions differ", hint)
    if generations == [1]:
        for key in ("secure_boot", "tpm"):
            if data.get(key) is True:
                document.add((key,), "is not to be had on generation 1", "generations: [2]")
    if data.get("data_disks"):
        document.add(("data_disks",), "is not built yet for Windows", "remove data_disks", at_key=True)
    _patch(document, data)
    first_boot = data.get("first_boot")
    apply = first_boot.get("apply") if isinstance(first_boot, dict) else None
    if isinstance(apply, str) and not apply.lower().endswith(".ps1"):
        document.add(("first_boot", "apply"), "must be a script of PowerShell", "its name ends in .ps1")
    _ports(document, data.get("ports"))
    generalize = data.get("generalize")
    if isinstance(generalize, dict) and generalize.get("agent") in ("waagent", "none"):
        document.add(("generalize", "agent"), "is for Linux", "sysprep, or outside")
    _steps(document, data, _LINUX_STEPS, "runs in Linux", "powershell or cmd", r"C:\ProgramData\...")


def _patch(document: Document, data: dict[str, Any]) -> None:
    refresh, generalize = data.get("refresh"), data.get("generalize")
    if not isinstance(refresh, dict) or refresh.get("mode") != "patch":
        return
    if not data.get("updates"):
        document.add(("refresh", "mode"), "patch brings in updates, and there are none", "updates: {only: security}")
    oobe = generalize.get("oobe") if isinstance(generalize, dict) else None
    if isinstance(oobe, dict) and oobe.get("skip") is False:
        document.add(("generalize", "oobe", "skip"), "false: a patch's first start would ask somebody", "skip: true")


def _linux(document: Document, data: dict[str, Any]) -> None:
    source, generalize = data.get("source"), data.get("generalize")
    if isinstance(source, dict) and "iso" in source:
        document.add(("source", "iso"), "is a medium of Windows", "os: windows", at_key=True)
    for key in ("secure_boot", "tpm", "locale", "timezone", "updates"):
        if key in data:
            document.add((key,), "is for Windows", f"remove {key}", at_key=True)
    if "ports" in data:
        document.add(("ports",), "is for Windows", "Debian has no firewall until a step brings one", at_key=True)
    for above, keys in (("generalize", ("mode_vm", "oobe")), ("machine", ("patience",))):
        part = data.get(above)
        for key in keys:
            if isinstance(part, dict) and key in part:
                document.add((above, key), "is for Windows", f"remove {key}", at_key=True)
    if isinstance(generalize, dict) and generalize.get("agent") == "sysprep":
        document.add(("generalize", "agent"), "is for Windows", "waagent or none")
    _steps(document, data, _WINDOWS_STEPS, "runs in Windows", "playbook or script", "/etc/...")


def _steps(
    document: Document, data: dict[str, Any], foreign: tuple[str, ...], why: str, instead: str, example: str
) -> None:
    refresh = data.get("refresh")
    _listed(document, ("steps",), data.get("steps"), foreign, why, instead, example)
    if isinstance(refresh, dict):
        _listed(document, ("refresh", "steps"), refresh.get("steps"), foreign, why, instead, example)


def _listed(
    document: Document,
    place: tuple[str, ...],
    steps: object,
    foreign: tuple[str, ...],
    why: str,
    instead: str,
    example: str,
) -> None:
    windows = "playbook" in foreign
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if not isinstance(step, dict):
            continue
        for key in foreign:
            if key in step:
                hint = (
                    f"{instead}; Ansible is not built yet for Windows" if windows and key == "playbook" else instead
                )
                document.add((*place, index, key), why, hint, at_key=True)
        if not windows:
            for key in ("reboot", "checkpoint"):
                if key in step:
                    document.add((*place, index, key), "is for Windows", f"remove {key}", at_key=True)
        copied = step.get("copy")
        to = copied.get("to") if isinstance(copied, dict) else None
        if isinstance(to, str) and (to.startswith("/") if windows else re.match(r"[A-Za-z]:\\", to)):
            document.add((*place, index, "copy", "to"), "is a path of another system", example)


def _outside(document: Document, data: dict[str, Any]) -> None:
    """A disk that was generalized outside is shipped as it is: whatever boots it would undo that."""
    generalize, source = data.get("generalize"), data.get("source")
    if not isinstance(generalize, dict) or generalize.get("agent") != "outside":
        return
    if isinstance(source, dict) and "disk" not in source:
        document.add(("generalize", "agent"), "outside goes with a disk as the source", "waagent or none")
    for key in ("steps", "disk", "first_boot", "updates", "ports"):
        if data.get(key):
            document.add(
                (key,), "needs a guest, and generalize: {agent: outside} boots none", f"remove {key}", at_key=True
            )


def _ports(document: Document, ports: object) -> None:
    seen: set[object] = set()
    for index, part in enumerate(ports if isinstance(ports, list) else ()):
        if not isinstance(part, dict):
            continue
        place = (part.get("port"), part.get("protocol", "tcp"))
        if all(isinstance(each, int | str) for each in place) and place in seen:
            document.add(("ports", index, "port"), f"{place[1]} {place[0]} is there twice", "one rule opens it")
        seen.add(place if all(isinstance(each, int | str) for each in place) else index)


def _data_disks(document: Document, disks: object) -> None:
    seen: set[object] = set()
    for index, disk in enumerate(disks if isinstance(disks, list) else ()):
        if not isinstance(disk, dict):
            continue
        lun = disk.get("lun")
        if isinstance(lun, int) and lun in seen:
            document.add(("data_disks", index, "lun"), f"LUN {lun} is there twice", "each disk has its own")
        seen.add(lun)
        if "label" in disk and "filesystem" not in disk:
            document.add(("data_disks", index, "label"), "only a file system has a label", "filesystem: ext4")


def _debian_fits(document: Document, disk: object) -> None:
    try:
        total = disk_size(disk)
    except ValueError:
        return
    if total < _SMALLEST_DEBIAN:
        document.add(("disk",), f"{disk} is too small to bootstrap Debian in", "at least 2 GiB")


def _disk_is_whole(document: Document, disk: dict[str, Any]) -> None:
    place = ("source", "disk")
    if "path" in disk and "url" in disk:
        document.add((*place, "url"), "a disk has a path or a url, not both", "remove one", at_key=True)
    elif "path" not in disk and "url" not in disk:
        document.add(place, "needs a path or a url")
    if "url" in disk and "sha256" not in disk:
        document.add((*place, "url"), "a url needs a sha256", "add sha256: with the digits that its maker publishes")
    where = disk.get("path", disk.get("url"))
    if "format" not in disk and isinstance(where, str) and format_of(where) is None:
        known = ", ".join(sorted(set(rules.FORMATS.values())))
        which = "path" if "path" in disk else "url"
        document.add((*place, which), "its name does not say its format", f"add format: one of {known}")


def format_of(name: str) -> str | None:
    return rules.FORMATS.get(Path(re.split("[?#]", name, maxsplit=1)[0]).suffix.lower())


def _list_of(values: Sequence[object]) -> str:
    """`[1, 2]`, as YAML writes it."""
    return f"[{', '.join(shown(value) for value in values)}]"
