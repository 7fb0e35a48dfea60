"""The three kinds of field runs: what each needs and does. Each works in a store and a project of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.field.azure import Azure, FieldError, run_vms
from tests.harness import GOLDSMITH, ROOT, Lab

#: The image that is built and proven where the user names none.
IMAGE = "debian-13"
#: Seconds for a build, and for a whole matrix; Windows without KVM takes a day.
LINUX, WINDOWS = 4 * 3600.0, 24 * 3600.0
#: Registry keys of a Windows master that say how it was made: docs/windows.md.
REGISTRY_KEYS = (
    r"SYSTEM\Setup",
    r"SYSTEM\Setup\Status\SysprepStatus",
    r"SYSTEM\ControlSet001\Control\ComputerName\ComputerName",
    r"SYSTEM\ControlSet001\Control\Terminal Server",
    r"SYSTEM\ControlSet001\Control\Terminal Server\WinStations\RDP-Tcp",
    r"SYSTEM\ControlSet001\Services\storvsc",
    r"SYSTEM\ControlSet001\Services\vioscsi",
    r"SYSTEM\ControlSet001\Services\stornvme",
    r"SOFTWARE\Microsoft\Windows NT\CurrentVersion",
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Setup\State",
)


@dataclass(frozen=True)
class Kind:
    """`missing` says what this host or its user does not have, empty where all is there. `run` works in a Lab.

    What it writes into the folder goes into the archive, beside the runs' own files.
    """

    name: str
    missing: Callable[[Mapping[str, str]], str]
    run: Callable[[Lab, Path, Mapping[str, str]], None]


def call(lab: Lab, folder: Path, name: str, *words: str, deadline: float = LINUX) -> str:
    """Run goldsmith and keep its output. Raises FieldError where it fails."""
    done = lab.run(*words, deadline=deadline)
    (folder / f"{name}.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise FieldError(
            f"goldsmith {' '.join(words[:2])} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    return done.stdout


def examine(lab: Lab, folder: Path) -> None:
    """Keep what `goldsmith doctor` says of the host, whatever its exit code."""
    (folder / "doctor.json").write_text(lab.run("doctor", "--json").stdout)


def accelerator(doctor: str) -> tuple[str, str]:
    """The kind of accelerator that goldsmith measured, and why: from what `goldsmith doctor --json` prints."""
    rows = [row for row in json.loads(doctor or "[]") if row["name"] == "accelerator"]
    return (str(rows[0]["facts"].get("kind", "tcg")), str(rows[0]["text"])) if rows else ("tcg", "not measured")


def _kvm_missing(_environment: Mapping[str, str]) -> str:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm cannot be opened"
    done = subprocess.run([GOLDSMITH, "doctor", "--json"], capture_output=True, text=True, check=False)
    kind, why = accelerator(done.stdout)
    return "" if kind == "kvm" else f"this host's KVM is not used: {why}"


def _kvm(lab: Lab, folder: Path, environment: Mapping[str, str]) -> None:
    """A build and the whole matrix, by KVM."""
    image = environment.get("IMAGE") or IMAGE
    _own_images(lab)
    examine(lab, folder)
    call(lab, folder, "build", "build", image)
    call(lab, folder, "prove", "prove", image, "--json")


def _windows_missing(environment: Mapping[str, str]) -> str:
    unset = [name for name in ("WINDOWS_ISO", "VIRTIO_ISO") if not environment.get(name)]
    if unset:
        return f"{' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set"
    absent = [name for name in ("WINDOWS_ISO", "VIRTIO_ISO") if not Path(environment[name]).is_file()]
    return f"{' and '.join(absent)} names no file" if absent else ""


def _windows(lab: Lab, folder: Path, environment: Mapping[str, str]) -> None:
    """From the user's media to a proven master; its registry as it ships."""
    server, virtio = (Path(environment[name]).resolve() for name in ("WINDOWS_ISO", "VIRTIO_ISO"))
    lab.write(
        "images/windows.yaml",
        "goldsmith: 1\nos: windows\nsource:\n"
        f"  iso: {{path: '{server}', sha256: {_sha256(server)}}}\n"
        f"  drivers: {{path: '{virtio}', sha256: {_sha256(virtio)}}}\n"
        f"  edition: '{environment.get('WINDOWS_EDITION', '1')}'\n"
        "disk: 40 GiB\nmachine: {cpus: 2, memory: 4 GiB}\n",
    )
    examine(lab, folder)
    call(lab, folder, "editions", "iso", str(server))
    call(lab, folder, "build", "build", "windows", deadline=WINDOWS)
    call(lab, folder, "prove", "prove", "windows", "--json", deadline=WINDOWS)
    registry(lab, folder, str(lab.master("windows")["path"]))


def registry(lab: Lab, folder: Path, disk: str) -> None:
    """Keep what the keys of REGISTRY_KEYS hold on a disk; a key that is not there is kept as an error."""
    facts = {}
    for key in REGISTRY_KEYS:
        done = lab.run("inspect", disk, "--list", "registry", "--registry-key", key, "--json")
        facts[key] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()}
    (folder / "registry.json").write_text(json.dumps(facts, indent=1))


def _azure_missing(environment: Mapping[str, str]) -> str:
    if not environment.get("AZURE_SUBSCRIPTION"):
        return "AZURE_SUBSCRIPTION is not set (AZURE_LOCATION too, by default westeurope)"
    return "" if shutil.which("az") else "Azure's command line az is not installed"


def _azure(lab: Lab, folder: Path, environment: Mapping[str, str]) -> None:
    """A build here, its disk uploaded, and a VM of each size in the user's subscription."""
    image, location = environment.get("IMAGE") or IMAGE, environment.get("AZURE_LOCATION") or "westeurope"
    subscription, group = environment["AZURE_SUBSCRIPTION"], f"goldsmith-field-{os.urandom(4).hex()}"
    _own_images(lab)
    call(lab, folder, "build", "build", image)
    lab.write(
        "publish.yaml",
        "targets:\n  field:\n"
        f"    managed-disk: {{subscription: {subscription}, resource-group: {group}, location: {location}}}\n",
    )
    key = lab.home / "tmp" / "field-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "field", "-f", key], check=True)
    azure = Azure(folder, subscription)
    try:
        run_vms(azure, group, location, lambda: _uploaded(lab, folder, azure, group, image), Path(f"{key}.pub"))
    finally:
        (folder / "azure-seconds.json").write_text(json.dumps(azure.seconds, indent=1))


def _uploaded(lab: Lab, folder: Path, azure: Azure, group: str, image: str) -> str:
    """The id of the managed disk that goldsmith has published."""
    call(lab, folder, "publish", "publish", "push", image, "field")
    listed = json.loads(azure.call("disks", "disk", "list", "--resource-group", group, "--output", "json"))
    if len(listed) != 1:
        raise FieldError(f"{len(listed)} managed disks are in the group, not the one that was published")
    return str(listed[0]["id"])


def _own_images(lab: Lab) -> None:
    """The repository's own images and their playbooks, in the project of the lab."""
    shutil.copytree(ROOT / "images", lab.folder / "images", dirs_exist_ok=True)
    for name in ("playbooks", "files", "scripts"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, lab.folder / name, dirs_exist_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("kvm", _kvm_missing, _kvm),
        Kind("windows", _windows_missing, _windows),
        Kind("azure", _azure_missing, _azure),
    )
}
