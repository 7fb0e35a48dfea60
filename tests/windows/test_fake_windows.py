"""From an installation medium to a captured master, with a guest that plays Windows' part. NOT WINDOWS.

libvirt, OVMF with Secure Boot, swtpm, the guest agent, NTFS, the hives and the answer file are real.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.store import Store
from pipeline.checks import inspect_disk
from pipeline.definition import load_named
from pipeline.disk import open_disk
from pipeline.gallery import Gallery
from pipeline.nightly import patch
from pipeline.nightly.refresh import PROMOTED, refresh
from pipeline.systems.questions import list_disk
from pipeline.systems.windows import answers, release_days
from tests.campaigns import fake_windows
from tests.fakes.fake_windows.stand import Stand, sha256
from tests.harness import rotation

#: Runs twice: the first time it restarts the guest.
TWICE = """\
if (Test-Path 'C:\\ProgramData\\twice.txt') { exit 0 }
Set-Content 'C:\\ProgramData\\twice.txt' 'once'
Restart-Computer
"""
#: What the stand-in's msiexec takes for a package: it installs, and wants a restart.
MSI = "NOT AN MSI\nname: shop\ncode: 3010\n"
STEPS = """
  - powershell: scripts/mark.ps1
    checkpoint: true
  - powershell: scripts/twice.ps1
    reboot: expected
  - msi: {path: media/shop.msi, sha256: SHA, arguments: [EDITION=2.0 beta]}
    reboot: expected
  - powershell: scripts/agent.ps1
  - cmd: reg add HKLM\\SYSTEM\\CurrentControlSet\\Control\\NotWindows /v Seen /t REG_DWORD /d 7 /f
  - copy: {from: scripts, to: 'C:\\ProgramData\\scripts'}
"""


_CURRENT = "SYSTEM\\ControlSet001\\Control\\ComputerName\\ComputerName"
_CRYPTOGRAPHY = "SOFTWARE\\Microsoft\\Cryptography"


def built(stand: Stand, name: str) -> dict[str, Any]:
    done = stand.lab.run("build", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stand.lab.leftovers() == []
    return stand.lab.last_run(name)


def define_master(stand: Stand, generation: int) -> str:
    """An image with a step, a first-boot service and two ports; its name."""
    stand.lab.write("scripts/mark.ps1", "Write-Output 'hello'\nSet-Content 'C:\\ProgramData\\mark.txt' 'made'\n")
    stand.lab.write("scripts/apply.ps1", "$input | Set-Content 'C:\\ProgramData\\page.txt'\n")
    source = {2: "userdata", 1: "http://192.0.2.80:8080/first?of=web"}[generation]
    # the one that is patched below brings in updates
    wish = {2: "", 1: "updates: {only: security}\nrefresh: {mode: patch}\n"}[generation]
    return stand.define(
        f"not-windows-{generation}",
        generation=generation,
        steps="[{powershell: scripts/mark.ps1}]",
        more=f"{wish}ports: [{{port: 443, name: web}}, {{port: 53, protocol: udp}}]\n"
        f'first_boot: {{apply: scripts/apply.ps1, from: "{source}", sample: "This is {{{{ clone }}}}"}}',
    )


@pytest.mark.parametrize("generation", [2, 1])
def test_from_the_medium_to_a_master(stand: Stand, generation: int) -> None:
    name = define_master(stand, generation)
    run = built(stand, name)
    # an update may move Windows' boot manager to newer keys: the variables go with the disk from layer to layer
    kept = [(stand.lab.home / "layers" / key / "vars.fd").exists() for key in run["layers"][:3]]
    assert kept == [False, generation == 2, generation == 2]
    if generation == 1:
        # two rounds with a restart between them, and one that finds nothing; updates other than security updates are
        # not installed
        result = run["updates"]
        assert [update["kb"] for update in result["updates"]] == [["KB5000001"], ["KB5000003"]]
        assert (result["rounds"], result["restarts"]) == (3, 1)
        assert result["updates"][0]["title"].startswith("NOT WINDOWS: update f\u00fcr tests")
    master = Path(stand.lab.master(name)["path"])
    manifest = json.loads((master.parent / "manifest.json").read_text())
    assert (manifest["os"], manifest["generations"], manifest["agent"]) == ("windows", [generation], "sysprep")
    assert (Path(run["folder"]) / "steps/01-mark.ps1.log").read_text() == "hello\n"
    with open_disk(master, "vpc") as disk:
        assert disk.windows.read("/ProgramData/mark.txt") == b"made\r\n"
        # of the installation nothing that opens a door is left
        assert b"<Password>" not in (disk.windows.read("/Windows/Panther/unattend.xml") or b"")
    found = {check["id"]: check for check in manifest["checks"]}
    assert found["win-ports"]["status"] == "pass"
    shut = {check.id: check.evidence for check in inspect_disk(master, profile="azure-windows", ports=[("tcp", 443)])}
    assert shut["win-ports"].startswith("ControlSet001: goldsmith-udp-53 exists, but is not declared")
    verdict = manifest["prove"][f"gen{generation}"]
    assert verdict["checks"]["first boot"] == "IMAGE_STATE_COMPLETE"
    given = f"This is {verdict['checks']['computer name']}"
    assert verdict["checks"]["configuration"].startswith(f"{len(given)} bytes applied after")
    serial = (Path(run["folder"]) / f"prove/gen{generation}/boot.serial.log").read_text(errors="replace")
    assert ("Secure Boot on TPM ['tpm0']" in serial) == (generation == 2)
    assert "first boot answered by /mnt/D/Unattend.xml" in serial
    assert found["win-answer-cached"]["status"] == "pass"


def test_a_vm_becomes_an_image_and_comes_back(stand: Stand) -> None:
    """Of the generation 1 master of above. Its guest has one rearm left, which the VM's sysprep uses."""
    lab, name = stand.lab, "not-windows-1"
    if lab.last_version(name) == "none":
        built(stand, define_master(stand, 1))

    def vm(*words: str, code: int = 0) -> str:
        done = lab.run("vm", *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    home, serial = lab.home / "instances/web", lab.home / "instances/web/logs/serial.log"

    def registry(key: str, value: str) -> str | None:
        """A value on the VM's disk at rest."""
        (disk,) = home.glob("disk*.qcow2")
        rows = list_disk(disk, "qcow2", what="registry", key=key, allow_backing_within=lab.home)
        return next((str(row[1]) for row in rows if row[0] == value), None)

    def provisioned(output: str) -> tuple[str, str]:
        """The password, shown once, that the guest has got and nobody else has; the machine's GUID."""
        ((password,),) = [re.findall(r"the password of azureuser is (\S+) \(shown only once", output)]
        console = serial.read_text(errors="replace")
        *_, (user, digest) = re.findall(r"account (\S+) sha256 (\S+)", console)
        assert (user, digest) == ("azureuser", hashlib.sha256(password.encode()).hexdigest())
        files = [path for path in home.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
        secrets = (password, answers.hidden(password, "Password"))
        assert not [path for path in files if any(word.encode() in path.read_bytes() for word in secrets)]
        *_, (computer, guid) = re.findall(r"first boot is over: (\S+) (\S+)", console)
        assert computer == "web"
        return password, guid

    def codes() -> list[str]:
        return [each["code"] for each in json.loads(vm("show", "web", "--json"))["instanceView"]["statuses"]]

    try:
        first = provisioned(vm("create", "web", "--image", name))
        assert "not at rest" in vm("generalize", "web", code=2), "one that runs is not read"
        vm("generalize", "web", "--run")
        assert codes()[1:] == ["OSState/generalized", "PowerState/stopped"]
        assert (registry(_CURRENT, "ComputerName"), registry(_CRYPTOGRAPHY, "MachineGuid")) == (
            "WIN-GENERALIZED",
            None,
        )
        assert "generalized" in vm("start", "web", code=2)
        vm("capture", "web", "--as", "captured", "--account", "azureuser")
        assert codes()[1:] == ["OSState/generalized", "PowerState/stopped"], "it stays as it was"
        manifest = lab.manifest("captured")
        assert (manifest["os"], manifest["agent"], manifest["generations"]) == ("windows", "outside", [1])
        assert manifest["ports"] == lab.manifest(name)["ports"] != []
        found = {check["id"]: check["status"] for check in manifest["checks"]}
        assert found["win-ports"] == found["win-image-state"] == found["win-account-passwords"] == "pass"
        assert manifest["prove"]["gen1"]["checks"]["first boot"] == "IMAGE_STATE_COMPLETE"
        second = provisioned(vm("reimage", "web"))
        assert first[0] != second[0] and first[1] != second[1], "another password, and another machine"
        assert codes() == ["ProvisioningState/succeeded", "PowerState/running"]
    finally:
        lab.run("vm", "delete", "web", "--yes")
    assert json.loads(vm("list", "--json")) == [] and lab.leftovers() == []


def test_a_months_updates_are_patched_into_golden(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation 1 master of above: two rearms at first, of which its build used one, and the patch the other."""
    name = "not-windows-1"
    assert stand.lab.last_version(name) != "none", "the test before this one has made it"
    first = stand.lab.manifest(name)
    assert first["rearms_left"] == 1
    definition, store = load_named(stand.lab.folder, name), Store(stand.lab.home)
    monkeypatch.setattr(release_days, "today", lambda: date(2099, 1, 13))
    (image,) = refresh([definition], store, command="test").images
    assert (image.outcome, image.why) == (PROMOTED, "newer: updates of 2099-01-13"), image
    golden = stand.lab.manifest(name)
    assert (golden["patched_from"], golden["rearms_left"]) == (first["version"], 0)
    assert golden["prove"]["gen1"]["checks"]["first boot"] == "IMAGE_STATE_COMPLETE"
    packages = list_disk(Path(stand.lab.master(name)["path"]), "vpc", what="packages")
    assert [row[0] for row in packages if row[0].startswith("KB50000")] == ["KB5000001", "KB5000003", "KB5000004"]
    assert stand.lab.leftovers() == []
    # a month later there is no rearm left: the next one is built from its medium
    monkeypatch.setattr(release_days, "today", lambda: date(2099, 2, 10))
    wanted, why = patch.needs_patch(definition, Gallery(store.gallery).get(name), store)
    assert (wanted, why.partition(":")[0]) == (definition, "rebuilt")


def test_steps_restarts_and_an_agent_that_is_restarted(stand: Stand) -> None:
    scripts = {
        "mark.ps1": "Write-Output 'hello'\n",
        "twice.ps1": TWICE,
        "agent.ps1": "Write-Output 'one'\n# stand-in: the agent is restarted\nStart-Sleep 12\nWrite-Output 'two'\n",
    }
    for script, text in scripts.items():
        stand.lab.write(f"scripts/{script}", text)
    stand.lab.write("media/shop.msi", MSI)
    steps = STEPS.replace("SHA", hashlib.sha256(MSI.encode()).hexdigest())
    # generation 1, whose installation the tests above have left: the firmware of the other one takes a minute more
    name = stand.define("not-windows-steps", generation=1, steps=steps)
    done = stand.lab.run("build", name, "--until", "provision")
    assert done.returncode == 0, done.stdout + done.stderr
    run = stand.lab.last_run(name)
    titles = [stage["title"] for stage in run["stages"] if stage["stage"] == "provision"]
    assert len(titles) == 2 and titles[0] == "mark.ps1"
    logs = {path.name[3:]: path.read_text() for path in (Path(run["folder"]) / "steps").iterdir()}
    assert logs["agent.ps1.log"] == "one\ntwo\n"
    # the package wanted a restart, and got it; its properties came in as they were written
    (layer,) = (stand.lab.home / "layers" / run["layers"][3]).glob("disk.*")
    packages = list_disk(layer, what="packages", allow_backing_within=stand.lab.home)
    assert ["shop", "2.0 beta", "amd64"] in packages
    # the checkpoint is kept: a change behind it does not run what lies before it
    stand.lab.write("scripts/agent.ps1", "Write-Output 'another'\n")
    rows = json.loads(stand.lab.run("plan", name, "--json").stdout)
    actions = {row["title"]: row["action"] for row in rows if row["stage"] in ("install", "provision")}
    assert list(actions.values()) == ["keep", "keep", "run"], actions


def test_what_goes_wrong_has_a_name(stand: Stand) -> None:
    """A rotating one; `make campaign-fake-windows` runs all."""
    row = fake_windows.run(stand, fake_windows.FAULTS[rotation(len(fake_windows.FAULTS))], slowness=3)
    assert row["ok"], row
    assert stand.lab.leftovers() == []


@pytest.mark.skipif(
    not (os.environ.get("WINDOWS_ISO") and os.environ.get("VIRTIO_ISO")),
    reason="WINDOWS_ISO and VIRTIO_ISO are not set: nobody has Windows media here",
)
def test_with_the_real_media(stand: Stand) -> None:
    """The same way with what the user brings. WINDOWS_EDITION chooses; hours where it is emulated."""
    server, virtio = Path(os.environ["WINDOWS_ISO"]).resolve(), Path(os.environ["VIRTIO_ISO"]).resolve()
    stand.lab.write(
        "images/windows.yaml",
        "goldsmith: 1\nos: windows\nsource:\n"
        f"  iso: {{path: {server}, sha256: {sha256(server)}}}\n"
        f"  drivers: {{path: {virtio}, sha256: {sha256(virtio)}}}\n"
        f"  edition: '{os.environ.get('WINDOWS_EDITION', '1')}'\n"
        "disk: 40 GiB\nmachine: {cpus: 2, memory: 4 GiB}\n",
    )
    done = stand.lab.run("build", "windows", deadline=24 * 3600)
    assert done.returncode == 0, done.stdout + done.stderr
