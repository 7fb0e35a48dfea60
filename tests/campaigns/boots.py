"""Masters that would come to a login at home and fail on Azure: each must end in a verdict with a name.

Nothing reads the disk before the boot: what is wrong has to come out of the boot's own evidence. GOLDSMITH_PART names
the defects to run, by parts of their names, separated by commas; the others keep their rows.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.disk import open_disk
from pipeline.disk.efi_program import EfiProgram
from pipeline.disk.root import Root
from pipeline.prove.result import shared_identities
from tests.campaigns.clones import Outcome, changed, start
from tests.fakes.signed_efi import UEFI_2011, without_signature
from tests.harness import Lab, Say, commit_id, wanted

#: debugfs commands, made from the good disk's root and a folder for files to write.
Do = Callable[[Root, Path], Sequence[str]]
#: Clones at a time: most of them sit at their login prompt for minutes, and take no processor meanwhile.
AT_ONCE = 4
#: Names that say no more than that time was up.
BARE = {"clone-timeout"}


@dataclass(frozen=True)
class Defect:
    """What is done to the disk, and the verdict: an error's name, or the beginning of a failure.

    `on_esp` changes the EFI system partition of the copy. `check` must name the defect at rest. `revokes_shim`: the
    firmware's dbx holds the digest of the disk's shim.
    """

    do: Do
    verdict: str
    cell: str = "gen1"
    clones: int = 1
    on_esp: Callable[[Path], None] | None = None
    check: str = ""
    revokes_shim: bool = False


def write(*pairs: tuple[str, str], also: Sequence[str] = ()) -> Do:
    """Write files, over what is there; then more debugfs commands."""

    def do(root: Root, folder: Path) -> Sequence[str]:
        commands = []
        for number, (path, text) in enumerate(pairs):
            local = folder / str(number)
            local.write_text(text)
            commands += [*([f"rm {path}"] if root.exists(path) else []), f"write {local} {path}"]
        return [*commands, *also]

    return do


def edit(path: str, old: str, new: str) -> Do:
    def do(root: Root, folder: Path) -> Sequence[str]:
        text = root.text(path)
        assert old in text, (path, old)
        return write((path, text.replace(old, new)))(root, folder)

    return do


def fs(*commands: str) -> Do:
    return lambda _root, _folder: commands


def boot_files(what: str) -> Do:
    return lambda root, _folder: [f"rm /boot/{name}" for name in root.listdir("/boot") if name.startswith(what)]


CLOUD = "/etc/cloud/cloud.cfg.d/99-defect.cfg"
UNITS = "/etc/systemd/system"
WANTS = f"{UNITS}/multi-user.target.wants"
NETWORKD = "/etc/systemd/network/90-dhcp.network"
OFF = "network: {config: disabled}\n"
ELSEWHERE = "datasource_list: [NoCloud, None]\n"
SSHD = "/etc/ssh/sshd_config.d/99-defect.conf"
NO_WAAGENT = (f"rm {WANTS}/walinuxagent.service",)
PLAN = "network: {version: 2, ethernets: {old: {match: {name: 'en*'}, addresses: [192.0.2.7/24]}}}\n"
STATIC = "[Match]\nName=en* eth*\n[Network]\nAddress=192.0.2.7/24\n"
UNMANAGED = "[Match]\nName=en* eth*\n[Link]\nUnmanaged=yes\n"
PINNED = "[Match]\nMACAddress=52:54:00:12:34:56\n[Network]\nDHCP=yes\n"

SHIM = "/EFI/BOOT/BOOTX64.EFI"


def read_shim(disk: Path) -> bytes:
    """The boot loader at the path that firmware falls back to."""
    done = subprocess.run(["mtype", "-i", esp(disk), f"::{SHIM}"], capture_output=True, check=True)
    return done.stdout


def sign_by_2011_only(disk: Path) -> None:
    """Remove each signature of shim that is not of Microsoft's key of 2011."""
    data = read_shim(disk)
    for number in reversed(range(len(EfiProgram(data).signatures))):
        if EfiProgram(data).signatures[number].issuers[0] != UEFI_2011:
            data = without_signature(data, number)
    assert [each.issuers[0] for each in EfiProgram(data).signatures] == [UEFI_2011]
    subprocess.run(["mcopy", "-o", "-i", esp(disk), "-", f"::{SHIM}"], input=data, check=True)


def esp(disk: Path) -> str:
    """The EFI system partition, as mtools name it."""
    shown = subprocess.run(["sgdisk", "-p", disk], capture_output=True, text=True, check=False).stdout
    (start,) = (int(line.split()[1]) for line in shown.splitlines() if " EF00 " in line)
    return f"{disk}@@{start * 512}"


DEFECTS: dict[str, Defect] = {
    # the agents
    "no agent is enabled": Defect(write(("/etc/cloud/cloud-init.disabled", ""), also=NO_WAAGENT), "agent-silent"),
    "the data source is pinned elsewhere": Defect(write((CLOUD, ELSEWHERE), also=NO_WAAGENT), "agent-silent"),
    "waagent waits for a cloud-init that looks elsewhere": Defect(write((CLOUD, ELSEWHERE)), "agent-silent"),
    "the agents' Python is gone": Defect(fs("rm /usr/bin/python3"), "agent-silent"),
    "the host name is kept": Defect(write((CLOUD, "preserve_hostname: true\n")), "host name"),
    "no user is made": Defect(write((CLOUD, "users: []\n")), "login-refused"),
    # the network
    # to bar its driver is not a defect: the initramfs has loaded it before. cloud-init leases an address for itself,
    # asks the fabric and posts Ready all the same: Azure shows a VM that runs, and nobody reaches it
    "the card is nobody's": Defect(write((CLOUD, OFF), (NETWORKD, UNMANAGED)), "guest-unreachable"),
    "a static address": Defect(write((CLOUD, OFF), (NETWORKD, STATIC)), "guest-unreachable"),
    "another machine's MAC": Defect(write((CLOUD, OFF), (NETWORKD, PINNED)), "guest-unreachable"),
    "the build's netplan": Defect(write((CLOUD, OFF), ("/etc/netplan/01-build.yaml", PLAN)), "guest-unreachable"),
    "no network service": Defect(
        # to disable it is not a defect: cloud-init's netplan starts it
        write((CLOUD, OFF), also=[f"symlink {UNITS}/systemd-networkd.service /dev/null"]),
        "guest-unreachable",
    ),
    "the resolver's service is masked": Defect(fs(f"symlink {UNITS}/systemd-resolved.service /dev/null"), "names"),
    # the boot
    "a disk in fstab that is not there": Defect(
        edit("/etc/fstab", "UUID=", "UUID=0000-0000 /data ext4 defaults 0 2\nUUID="), "guest-emergency"
    ),
    "no initramfs": Defect(boot_files("initrd"), "guest-no-boot"),
    "no kernel": Defect(boot_files("vmlinuz"), "guest-no-boot"),
    "no boot loader for BIOS": Defect(fs(), "console-silent"),
    "no fallback on the ESP": Defect(fs(), "guest-no-boot", cell="gen2"),
    "shim is signed by Microsoft's key of 2011 only": Defect(
        fs(), "guest-boot-refused", cell="gen2-keys-2023", on_esp=sign_by_2011_only, check="boot-efi-keys"
    ),
    "shim is revoked": Defect(fs(), "guest-boot-refused", cell="gen2-secure", revokes_shim=True),
    # two cards with one MAC
    "the virtual function is networkd's": Defect(
        fs(
            "rm /etc/systemd/network/10-azure-vf.network",
            "rm /usr/lib/udev/rules.d/10-azure-unmanaged-sriov.rules",
        ),
        "second card",
        cell="gen1-two-cards",
        check="network-sriov",
    ),
    # identity
    "the machine-id is kept": Defect(
        write(("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")), "machine-id: the same", clones=2
    ),
    # what a user asks for
    "the root file system does not grow": Defect(
        write((CLOUD, "growpart: {mode: 'off'}\nresize_rootfs: false\n")), "root grown"
    ),
    "no console on the serial port": Defect(
        fs(f"symlink {UNITS}/serial-getty@ttyS0.service /dev/null"), "serial console"
    ),
    "sshd is not enabled": Defect(fs(f"rm {WANTS}/ssh.service", f"rm {UNITS}/sshd.service"), "guest-sshd-dead"),
    "sshd's configuration is broken": Defect(write((SSHD, "Nonsense yes\n")), "guest-sshd-dead"),
    "sshd lets somebody else in": Defect(write((SSHD, "AllowUsers admin\n")), "login-refused"),
    "sshd takes no keys": Defect(write((SSHD, "PubkeyAuthentication no\n")), "login-refused"),
    "the clock runs on local time": Defect(
        write(
            ("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n"),
            also=["rm /etc/localtime", "symlink /etc/localtime /usr/share/zoneinfo/Asia/Tokyo"],
        ),
        "clock",
    ),
    "a unit that fails": Defect(
        write(
            (f"{UNITS}/defect.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
            also=[f"symlink {WANTS}/defect.service {UNITS}/defect.service"],
        ),
        "services",
    ),
    # its unit ends well all the same: systemd-tmpfiles goes on with the next line
    "a folder of a user that is not there": Defect(
        write(("/etc/tmpfiles.d/defect.conf", "d /var/lib/defect 0755 nosuch nosuch -\n")), "boot messages"
    ),
}


def campaign(lab: Lab, master: Path, say: Say) -> list[dict[str, object]]:
    chosen = wanted(DEFECTS)

    def boot_defect(name: str) -> dict[str, object]:
        with tempfile.TemporaryDirectory(dir=lab.home / "tmp", prefix="boots-") as scratch:
            folder = Path(scratch)
            folder.chmod(0o755)
            row = judged(name, lab, seeded(name, master, folder))
        say(row)
        return row

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(boot_defect, chosen))


def seeded(name: str, master: Path, folder: Path) -> Path:
    with open_disk(master, "vpc") as disk:
        commands = DEFECTS[name].do(disk.root, folder)
    bad = changed(master, folder / "bad.vhd", commands)
    if name == "no boot loader for BIOS":
        with bad.open("r+b") as file:
            file.write(bytes(440))
    if name == "no fallback on the ESP":
        remove_fallback(bad)
    if (on_esp := DEFECTS[name].on_esp) is not None:
        on_esp(bad)
    return bad


def remove_fallback(disk: Path) -> None:
    """Every file that firmware looks for where no boot entry is."""
    subprocess.run(["mdeltree", "-i", esp(disk), "::/EFI/BOOT"], check=True)


def judged(name: str, lab: Lab, disk: Path) -> dict[str, object]:
    defect = DEFECTS[name]
    at_rest = find_at_rest(lab, disk, defect.check) if defect.check else ""
    revoked = [EfiProgram(read_shim(disk)).digest().hex()] if defect.revokes_shim else []
    outcomes = [start(lab.home, disk, "boots", cell=defect.cell, revoked=revoked) for _ in range(defect.clones)]
    verdicts = [outcome.verdict for outcome in outcomes if outcome.verdict is not None]
    shared_identities(verdicts)
    last = outcomes[-1]
    return {
        "defect": name,
        "cell": defect.cell,
        "verdict": last.name,
        "s": round(sum(outcome.seconds for outcome in outcomes)),
        "said": last.words[:400],
        "at rest": f"{defect.check}: {at_rest or 'NOT FOUND'}" if defect.check else "",
        "commit": commit_id(),
        "ok": last.name not in BARE and named(last, defect.verdict) and bool(at_rest) == bool(defect.check),
    }


def find_at_rest(lab: Lab, disk: Path, check: str) -> str:
    """What the check found on the disk; empty where it passed."""
    checks = json.loads(lab.run("inspect", str(disk), "--json").stdout)["checks"]
    (found,) = (each for each in checks if each["id"] == check)
    return str(found["evidence"]) if found["status"] in ("fail", "warn") else ""


def named(outcome: Outcome, verdict: str) -> bool:
    if outcome.verdict is None:
        return outcome.name == verdict
    return any(failure.startswith(verdict) for failure in outcome.verdict.failures)
