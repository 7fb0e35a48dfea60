"""What a definition of a Windows may say."""

from __future__ import annotations

import re
from typing import Any

from pipeline.definition.document import Document
from pipeline.definition.system_rules import StepRules, SystemRules, check_steps
from pipeline.definition.units import GIB

STEPS = StepRules(
    foreign={
        "playbook": "powershell or cmd; Ansible is not built yet for Windows",
        "script": "use powershell or cmd",
    },
    why="runs only in Linux",
    foreign_path=re.compile("/"),
    example=r"C:\ProgramData\...",
)


#: Targets whose tests look at a Linux.
_LINUX_TARGETS = ("gen1-two-cards", "gen2-nvme", "gen2-upgrade")


def check(document: Document, data: dict[str, Any]) -> None:
    """Put the faults of a definition of a Windows into the document."""
    source, generations = data.get("source"), data.get("generations")
    if isinstance(source, dict) and "debian" in source:
        document.add(("source", "debian"), "needs os: linux", "write os: linux, or remove debian", at_key=True)
    if generations in ([1, 2], [2, 1]):
        hint = "write one definition for each generation"
        document.add(("generations",), "a Windows image has one generation, because its partitions differ", hint)
    if generations == [1]:
        for key in ("secure_boot", "tpm"):
            if data.get(key) is True:
                document.add((key,), "is not available on generation 1", "generations: [2]")
    if data.get("data_disks"):
        document.add(("data_disks",), "is not built yet for Windows", "remove data_disks", at_key=True)
    if data.get("secrets"):
        document.add(("secrets",), "is not built yet for Windows", "remove secrets", at_key=True)
    if data.get("test_suites"):
        document.add(("test_suites",), "are only for Linux", "remove test_suites", at_key=True)
    _patch(document, data)
    prove = data.get("prove")
    for index, name in enumerate(prove if isinstance(prove, list) else ()):
        if name in _LINUX_TARGETS:
            document.add(("prove", index), f"{name} is only for Linux", "use gen1 or gen2")
    first_boot = data.get("first_boot")
    apply = first_boot.get("apply") if isinstance(first_boot, dict) else None
    if isinstance(apply, str) and not apply.lower().endswith(".ps1"):
        document.add(("first_boot", "apply"), "must be a PowerShell script", "its name must end in .ps1")
    _ports(document, data.get("ports"))
    generalize = data.get("generalize")
    if isinstance(generalize, dict) and generalize.get("agent") in ("waagent", "none"):
        document.add(("generalize", "agent"), "is only for Linux", "use sysprep or outside")
    check_steps(document, data, STEPS)


def _patch(document: Document, data: dict[str, Any]) -> None:
    refresh, generalize = data.get("refresh"), data.get("generalize")
    if not isinstance(refresh, dict) or refresh.get("mode") != "patch":
        return
    if not data.get("updates"):
        document.add(
            ("refresh", "mode"), "patch needs updates, but the definition has none", "updates: {only: security}"
        )
    oobe = generalize.get("oobe") if isinstance(generalize, dict) else None
    if isinstance(oobe, dict) and oobe.get("skip") is False:
        document.add(
            ("generalize", "oobe", "skip"),
            "false is not possible, because a patch's first start would wait for input",
            "skip: true",
        )


def _ports(document: Document, ports: object) -> None:
    seen: set[object] = set()
    for index, part in enumerate(ports if isinstance(ports, list) else ()):
        if not isinstance(part, dict):
            continue
        place = (part.get("port"), part.get("protocol", "tcp"))
        if all(isinstance(each, int | str) for each in place) and place in seen:
            document.add(("ports", index, "port"), f"port {place[0]}/{place[1]} is duplicated", "remove one of them")
        seen.add(place if all(isinstance(each, int | str) for each in place) else index)


#: Installed on generation 2 it has Secure Boot and a TPM, as a machine of Azure's Trusted Launch has them.
RULES = SystemRules(
    "windows",
    check,
    generations=(2,),
    memory=4 * GIB,
    agent="sysprep",
    # Microsoft's media bring a boot manager that is signed for 2011; an update replaces it
    secure_boot_keys=(2011,),
    trusted_boot=((2,),),
)
