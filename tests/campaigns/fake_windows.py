"""Everything that can go wrong with a Windows image, on the stand-in: make campaign-fake-windows. NOT WINDOWS.

Each ends within its deadline, in an error of its own, with a picture of the screen. CI runs a rotating one.
GOLDSMITH_PART names those to run, by parts of their names, separated by commas; the others keep their rows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.fake_windows import media
from tests.fakes.fake_windows.stand import Stand
from tests.harness import Lab, Say, commit_id, wanted

#: Builds at a time.
AT_ONCE = 2


@dataclass(frozen=True)
class Fault:
    """What is wrong, and the name of the error that must come of it.

    `timezone` and `step` tell the stand-in how to fail; `more` are other keys of the definition, `files` other files
    of the project, `media` makes other media. `within` are seconds for all.
    """

    name: str
    error: str
    timezone: str = "UTC"
    step: str = ""
    more: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    until: str = "convert"
    edition: str = "ServerStandard Server"
    generation: int = 2
    media: Callable[[Stand], dict[str, Path]] = lambda _stand: {}
    timeout_factor: float = 0.02
    within: float = 300.0
    boots: bool = True


def _no_key(stand: Stand) -> dict[str, Path]:
    folder = stand.other("no-key")
    return {"server": media.installation(stand.parts, stand.initrd, folder, prompts=True, answers_key=False)}


def _wrong_drivers(stand: Stand) -> dict[str, Path]:
    return {"virtio": media.drivers(stand.other("wrong-drivers"), whole=False)}


def _broken_agent(stand: Stand) -> dict[str, Path]:
    return {"virtio": media.drivers(stand.other("broken-agent"), agent=b"no package at all")}


#: What the stand-in's msiexec takes for a package that ends with a fatal error.
BAD_MSI = "NOT AN MSI\nname: shop\nerror: Service 'shop' failed to start.\n"

FAULTS = (
    Fault("nobody presses a key", "no-key-pressed", media=_no_key),
    Fault("the driver's folder holds another driver", "setup-stopped", media=_wrong_drivers),
    Fault("no such edition", "edition-unknown", edition="Datacenter", within=30, boots=False),
    Fault("the agent's package is broken", "guest-no-agent", media=_broken_agent, timeout_factor=0.012),
    Fault("the installation hangs", "setup-hangs", timezone="stand-in: setup hangs"),
    Fault("a blue screen", "guest-blue-screen", timezone="stand-in: blue screen"),
    # thirteen starts: of BIOS, because UEFI's take twice as long, and are tried by all the others
    Fault("it restarts for ever", "setup-loops", "stand-in: restarts for ever", timeout_factor=0.06, generation=1),
    Fault("the first logon fails", "guest-no-agent", timezone="stand-in: no first logon", timeout_factor=0.012),
    Fault("sysprep refuses", "sysprep-appx", step="# stand-in: from now on sysprep refuses"),
    Fault("it was generalized too often", "sysprep-rearm", step="# stand-in: from now on no rearm is left"),
    Fault("sysprep hangs", "sysprep-hangs", step="# stand-in: from now on sysprep hangs", timeout_factor=0.012),
    Fault("sysprep powers off", "sysprep-not-generalized", step="# stand-in: from now on sysprep powers off"),
    Fault(
        "sysprep fails and powers off",
        "sysprep-bitlocker",
        step="# stand-in: from now on sysprep fails and powers off",
    ),
    Fault("the agent dies in mid-step", "guest-agent-silent", step="# stand-in: the agent is gone\nStart-Sleep 300"),
    Fault("a restart in mid-step", "guest-rebooted", step="Restart-Computer\nStart-Sleep 300"),
    Fault("a blue screen in mid-step", "guest-blue-screen", step="# stand-in: blue screen\nStart-Sleep 300"),
    Fault("a step fails", "step-failed", step="Write-Error 'no such feature'\nexit 5"),
    Fault(
        "a package does not install",
        "msi-failed",
        files={"media/bad.msi": BAD_MSI},
        more=f"steps: [{{msi: {{path: media/bad.msi, sha256: '{hashlib.sha256(BAD_MSI.encode()).hexdigest()}'}}}}]",
    ),
    Fault(
        "a package is another than was meant",
        "checksum-mismatch",
        files={"media/other.msi": BAD_MSI},
        more=f"steps: [{{msi: {{path: media/other.msi, sha256: '{64 * '0'}'}}}}]",
        within=30,
        boots=False,
    ),
    Fault(
        "the first boot's script fails",
        "prove-failed",
        files={"scripts/refuses.ps1": "Write-Error 'no such shop'\nexit 3\n"},
        more="first_boot: {apply: scripts/refuses.ps1, sample: x}",
        until="prove",
        timeout_factor=0.06,
        within=400,
    ),
    Fault(
        "no server of updates answers",
        "updates-search-failed",
        timezone="stand-in: updates cannot be searched",
        more="updates: {only: security}",
    ),
    Fault("an update fails", "updates-failed", timezone="stand-in: an update fails", more="updates: {only: all}"),
    Fault(
        "updates go in circles",
        "updates-loop",
        timezone="stand-in: updates are taken back",
        more="updates: {only: security}",
        within=400,
    ),
    Fault(
        "an update does not end",
        "updates-timeout",
        timezone="stand-in: updates hang",
        more="updates: {only: all, deadline: 30 s}",
    ),
)


def write_definition(stand: Stand, fault: Fault) -> str:
    """Write the image that fails into the stand's project; its name."""
    name = "fault-" + fault.name.replace(" ", "-").replace("'", "")[:50]
    steps = ""
    if fault.step:
        # a script of comments alone would be refused as step-empty
        stand.lab.write(f"scripts/{name}.ps1", fault.step + "\nWrite-Output 'begun'\n")
        steps = f"[{{powershell: scripts/{name}.ps1}}]"
    for path, text in fault.files.items():
        stand.lab.write(path, text)
    return stand.define(
        name,
        edition=fault.edition,
        generation=fault.generation,
        timezone=fault.timezone,
        steps=steps,
        timeout_factor=fault.timeout_factor,
        more=fault.more,
        **fault.media(stand),  # type: ignore[arg-type]  # paths of media, by the names of its keywords
    )


def run(stand: Stand, fault: Fault, slowness: float = 1.0) -> dict[str, object]:
    """Build it, and see how it ends. `slowness`: how many times longer it may take than on a quiet host."""
    name = write_definition(stand, fault)
    began = time.monotonic()
    done = stand.lab.run("build", name, "--until", fault.until)
    took = time.monotonic() - began
    record = stand.lab.last_run(name)
    error = record.get("error") or {}
    folder = Path(record["folder"])
    taken = (*folder.glob("screens/*.png"), *folder.glob("prove/*/screen.png"), folder / "screen.png")
    pictures = [path for path in taken if path.exists()]
    good = done.returncode != 0 and error.get("name") == fault.error and took <= slowness * fault.within
    good = good and (bool(pictures) or not fault.boots)
    return {
        "what": fault.name,
        "error": error.get("name", ""),
        "seconds": round(took),
        "message": error.get("message", ""),
        "pictures": len(pictures),
        "commit": commit_id(),
        "ok": good,
    }


def campaign(lab: Lab, _master: Path, say: Say) -> list[dict[str, object]]:
    stand = Stand.build(lab.home, lab.folder)

    def run_fault(fault: Fault) -> dict[str, object]:
        row = run(stand, fault)
        say(row)
        return row

    # a guest that hangs takes no processor
    with ThreadPoolExecutor(AT_ONCE) as pool:
        chosen = wanted(fault.name for fault in FAULTS)
        rows = list(pool.map(run_fault, (fault for fault in FAULTS if fault.name in chosen)))
    left = lab.leftovers()
    return [*rows, {"what": "what all of them left", "message": str(left), "ok": not left}]
