"""LISA, Microsoft's test suite, against the golden master and against one with five defects that it looks for.

Each defect must be found twice: by a check on the disk at rest, and by LISA's case in a running clone. Needs
`goldsmith suite install lisa` in the store that GOLDSMITH_TEST_HOME names, or downloads it into a fresh one.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.disk import open_disk
from pipeline.disk.root import Root
from tests.campaigns.boots import Do, edit, write
from tests.campaigns.clones import changed
from tests.harness import Lab, Say, wanted

#: As yescrypt and crypt(5) write them; of no password that anybody has.
_HASH = "$6$abcdefgh$" + "x" * 86
#: Bytes of the swap file: mkswap takes no less than ten pages.
_SWAP = 16 << 20


@dataclass(frozen=True)
class Defect:
    """What is done to the disk, and who must find it: a check at rest and a case of LISA's."""

    do: Do
    check: str
    case: str


def _swap_file(root: Root, folder: Path) -> Sequence[str]:
    """A swap file without holes, which fstab turns on."""
    path = folder / "swapfile"
    path.write_bytes(b"\x55" * _SWAP)
    subprocess.run(["mkswap", "-q", path], check=True, capture_output=True)
    fstab = root.text("/etc/fstab").rstrip("\n") + "\n/swapfile none swap sw 0 0\n"
    return [f"write {path} /swapfile", "sif /swapfile mode 0100600", *write(("/etc/fstab", fstab))(root, folder)]


def _without_cifs(root: Root, folder: Path) -> Sequence[str]:
    """The configuration of a kernel that cannot mount Azure's file shares."""
    (name,) = [name for name in root.listdir("/boot") if name.startswith("config-")]
    return edit(f"/boot/{name}", "CONFIG_CIFS=m", "# CONFIG_CIFS is not set")(root, folder)


def _without_console(root: Root, folder: Path) -> Sequence[str]:
    """The kernel's own messages do not go to the serial port.

    A login prompt does, so that goldsmith's test of it need not wait for its deadline.
    """
    link = "/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
    kernel = edit("/boot/grub/grub.cfg", " console=ttyS0,115200n8", "")(root, folder)
    return [*kernel, f"symlink {link} /usr/lib/systemd/system/serial-getty@.service"]


def _password(root: Root, folder: Path) -> Sequence[str]:
    lines = root.text("/etc/shadow").splitlines()
    text = "".join(
        f"root:{_HASH}:20000:0:99999:7:::\n" if line.startswith("root:") else f"{line}\n" for line in lines
    )
    return write(("/etc/shadow", text))(root, folder)


DEFECTS = {
    "the password of root is set": Defect(_password, "password-hash", "verify_no_pre_exist_users"),
    "swap is on": Defect(_swap_file, "swap", "verify_no_swap_on_osdisk"),
    "root's history was kept": Defect(
        write(("/root/.bash_history", "apt install nginx\n")), "shell-history", "verify_bash_history_is_empty"
    ),
    "the kernel does not write to the serial port": Defect(
        _without_console, "serial-console", "verify_serial_console_is_enabled"
    ),
    "the kernel has no CIFS": Defect(_without_cifs, "kernel-config", "verify_essential_kernel_modules"),
}


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    (suite,) = json.loads(lab.run("suite", "list", "--json").stdout)
    if suite["installed"] is None:
        done = lab.run("suite", "install", "lisa")
        assert done.returncode == 0, done.stderr
    rows: list[dict[str, object]] = []
    for part in wanted(PARTS):
        for row in PARTS[part](lab, master):
            say(row)
            rows.append(row)
    return rows


def _good(lab: Lab, master: Path) -> list[dict[str, object]]:
    """Each case on the master as it ships: it passes, or has its reason."""
    done = lab.run("prove", str(master), "--suite", "lisa", "--json")
    if done.returncode:
        return [{"disk": "the master", "case": "", "result": done.stderr.strip(), "ok": False}]
    (clone,) = json.loads(done.stdout).values()
    return describe_cases(clone["suites"]["lisa"])


def describe_cases(found: Mapping[str, Any]) -> list[dict[str, object]]:
    """The rows of LISA's cases, as a proof records them."""
    return [
        {
            "disk": f"the master (LISA {found['version']})",
            "case": case["name"],
            "result": case["status"],
            "seconds": case["seconds"],
            "reason": case["reason"] or case["message"],
            "ok": case["status"] != "failed",
        }
        for case in found["cases"]
    ]


def _defects(lab: Lab, master: Path) -> list[dict[str, object]]:
    """All five on one disk: each found by its check and by its case."""
    disk = lab.folder / "five-defects.vhd"
    with tempfile.TemporaryDirectory() as folder, open_disk(master, "vpc") as opened:
        root, commands = opened.root, list[str]()
        for number, defect in enumerate(DEFECTS.values()):
            place = Path(folder) / str(number)
            place.mkdir()
            commands += defect.do(root, place)
        changed(master, disk, commands)
    try:
        checks = json.loads(lab.run("inspect", str(disk), "--json").stdout)["checks"]
        at_rest = {check["id"]: check["evidence"] for check in checks if check["status"] in ("fail", "warn")}
        cases = [word for defect in DEFECTS.values() for word in ("--suite-case", defect.case)]
        done = lab.run("prove", str(disk), "--suite", "lisa", *cases)
    finally:
        disk.unlink()
    return [
        {
            "disk": name,
            "case": f"{defect.check} at rest; {defect.case} in a clone",
            "result": f"{at_rest.get(defect.check, 'NOT FOUND at rest')}; {_message(done.stderr, defect.case)}",
            "ok": defect.check in at_rest and f"suite lisa: {defect.case}: " in done.stderr,
        }
        for name, defect in DEFECTS.items()
    ]


def _message(output: str, case: str) -> str:
    _, found, rest = output.partition(f"suite lisa: {case}: ")
    return rest.splitlines()[0][:160] if found else "NOT FOUND in a clone"


#: GOLDSMITH_PART names the parts to run; the others keep their rows.
PARTS = {"master": _good, "defects": _defects}
