"""azure-init: Azure's agent that provisions and does nothing else; extensions still need waagent.

Written from its documentation. No package of it was available, so no clone here was provisioned by it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from pipeline.checks.linux.agents import AZURE_INIT, enabled, has_azure_init, has_cloud_init
from pipeline.checks.model import AZURE, SYSTEMD, Subject, check

_DOC = "Azure/azure-init doc/configuration.md"
_FOLDER = "/etc/azure-init"
#: Where it marks that it has provisioned a VM: a file for each VM's id. The program may lie there too.
_STATE = "/var/lib/azure-init"
_LOGS = ("/var/log/azure-init.log",)
_TOML_LIMIT = 256 << 10


@check(
    "azure-init",
    "Where azure-init is installed, it starts at boot and provisions alone",
    why="A clone that it does not provision stays 'creating'; two agents that provision create two users.",
    remedy="Install its program, enable azure-init.service, correct its TOML files, remove or disable cloud-init.",
    source=_DOC,
    profiles=AZURE,
)
def azure_init(subject: Subject) -> Iterator[str]:
    if not has_azure_init(subject):
        subject.note("azure-init is not installed")
        return
    units = subject.system.agent_units["azure-init"]
    if not any(subject.root.is_file(path) for path in AZURE_INIT):
        yield f"its program is missing: none of {', '.join(AZURE_INIT)}"
    masked = [unit for unit in units if subject.root.read_link(f"/etc/systemd/system/{unit}") == "/dev/null"]
    if masked:
        yield f"{' and '.join(masked)} is masked"
    elif not enabled(subject, units):
        yield f"{' nor '.join(units)} is not enabled"
    for path in (f"{_FOLDER}/azure-init.toml", *subject.files_in(f"{_FOLDER}/azure-init.toml.d", ".toml")):
        try:
            tomllib.loads(subject.root.text(path, _TOML_LIMIT))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            yield f"{path}: {str(error)[:200]}"
    if has_cloud_init(subject) and not subject.root.exists("/etc/cloud/cloud-init.disabled"):
        yield "cloud-init provisions too"


@check(
    "azure-init-state",
    "azure-init has no mark of a machine that it provisioned",
    why="The mark names the build's VM, and its log the build's user and address.",
    remedy="rm -f /var/lib/azure-init/*.provisioned /var/log/azure-init.log",
    source=SYSTEMD,
    profiles=AZURE,
)
def azure_init_state(subject: Subject) -> Iterator[str]:
    for name in subject.root.listdir(_STATE):
        if name.endswith(".provisioned"):
            yield f"{_STATE}/{name}"
    yield from (path for path in _LOGS if subject.has_data(path))
