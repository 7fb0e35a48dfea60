"""Is this host fit? Each finding says what was seen, the verdict, and what makes it right."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from pipeline.base import process, qemu_img
from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.hypervisor import accelerator, connection, lock_manager, privileges
from pipeline.hypervisor.file_access import ANYBODY, SEARCH, UNKNOWN_USER, Obstacle, closed_folders, remedy, user_name
from pipeline.hypervisor.finding import Finding, Mark, component
from pipeline.hypervisor.host_packages import SETUP, install_command
from pipeline.hypervisor.host_services import judge_ansible_user, judge_endpoints, judge_fabric, judge_facade
from pipeline.hypervisor.variable_store import SecureBootKeys, enrolled_stores

GIB = 1 << 30

#: A build of Debian writes about 4 GiB: base, layers, the VHD. Below the first it cannot, below the second the
#: store soon needs `goldsmith clean`.
DISK_LEAST, DISK_GOOD = 8 * GIB, 20 * GIB
#: A guest has 2 GiB by default and QEMU a little more; a proof runs one guest at a time.
MEMORY_LEAST, MEMORY_GOOD = 2 * GIB, 4 * GIB

#: What a bootstrap calls, and the package that has it.
BOOTSTRAP_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "sgdisk": "gdisk",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "apt-get": "apt",
}


@dataclass(frozen=True)
class Firmware:
    """What libvirt can give a guest on this host."""

    bios: bool
    uefi: bool
    secure_boot: bool
    tpm: bool


def firmware_of(pc: str, q35: str) -> Firmware:
    """Read libvirt's domain capabilities (XML) of the machines pc (generation 1) and q35 (generation 2)."""
    old, new = etree.fromstring(pc.encode()), etree.fromstring(q35.encode())

    def values(tree: etree._Element, path: str) -> set[str]:
        return {element.text or "" for element in tree.iterfind(path)}

    return Firmware(
        bios="rom" in values(old, "os/loader/enum[@name='type']/value"),
        uefi="efi" in values(new, "os/enum[@name='firmware']/value"),
        secure_boot="yes" in values(new, "os/loader/enum[@name='secure']/value"),
        tpm="emulator" in values(new, "devices/tpm/enum[@name='backendModel']/value"),
    )


def judge_accelerator(verdict: accelerator.Verdict) -> Finding:
    facts = {"kind": verdict.kind, "kvm_rate": verdict.kvm_rate, "tcg_rate": verdict.tcg_rate}
    when = " (measured since the host's boot)" if verdict.cached else ""
    if verdict.kind == "kvm":
        return Finding("accelerator", "ok", f"kvm: {verdict.reason}{when}", facts=facts)
    return Finding(
        "accelerator",
        "warn",
        f"tcg: {verdict.reason}{when}",
        "guests are emulated and slow; use a host with hardware virtualization, or turn on nested virtualization",
        facts,
    )


def judge_size(name: str, what: str, free: int, least: int, good: int, fix: str) -> Finding:
    verdict: Mark = "fail" if free < least else "warn" if free < good else "ok"
    wanted = "" if verdict == "ok" else f", wanted {good / GIB:.0f}"
    text = f"{free / GIB:.1f} GiB free {what}{wanted}"
    return Finding(name, verdict, text, None if verdict == "ok" else fix, {"free": free})


def judge_tools(found: dict[str, str | None]) -> Finding:
    """`found` maps each bootstrap tool to its path."""
    missing = sorted(name for name, path in found.items() if path is None)
    if missing:
        packages = sorted({BOOTSTRAP_TOOLS[name] for name in missing})
        return Finding("bootstrap", "fail", f"missing: {', '.join(missing)}", install_command(packages))
    return Finding("bootstrap", "ok", ", ".join(found))


def judge_rights(user: str, is_root: bool, groups: Iterable[str]) -> Finding:
    if is_root:
        return Finding("rights", "ok", "root")
    names = set(groups)
    if "libvirt" not in names:
        return Finding("rights", "fail", f"{user} is not in the group libvirt", f"sudo adduser {user} libvirt")
    return Finding(
        "rights",
        "warn",
        f"{user} is in the group libvirt",
        "a definition with a debian source needs root: sudo make golden",
    )


def judge_kvm_device(group: str, mode: int) -> Finding | None:
    """/dev/kvm must be the kvm group's; else libvirt finds what it knows of QEMU stale whenever a guest starts."""
    if group == "kvm" and mode & 0o060 == 0o060:
        return None
    return Finding(
        "kvm-device",
        "warn",
        f"/dev/kvm is group {group}'s, mode {mode:o}: each start of a guest takes a minute longer",
        "chgrp kvm /dev/kvm && chmod 660 /dev/kvm, or make setup",
    )


def _kvm_device() -> list[Finding]:
    path = Path("/dev/kvm")
    if not path.exists():
        return []
    status = path.stat()
    finding = judge_kvm_device(_group_name(status.st_gid), status.st_mode & 0o777)
    return [finding] if finding else []


def _accelerator(store: Store, refresh: bool) -> list[Finding]:
    return [judge_accelerator(accelerator.probe(store, refresh=refresh))]


def _libvirt() -> list[Finding]:
    link = connection.connect()
    try:
        with connection.translated("asking libvirt what its machines can do"):
            pc = link.raw.getDomainCapabilities(None, "x86_64", "pc", "qemu")
            q35 = link.raw.getDomainCapabilities(None, "x86_64", "q35", "qemu")
        found = firmware_of(pc, q35)
        findings = [
            Finding("libvirt", "ok", f"{link.version} at {connection.URI}", facts={"version": link.version}),
            Finding("qemu", "ok", link.qemu_version, facts={"version": link.qemu_version}),
        ]
    finally:
        link.close()
    for name, there, text, fix in (
        ("bios", found.bios, "SeaBIOS, for generation 1", "seabios"),
        ("uefi", found.uefi, "OVMF, for generation 2", "ovmf"),
        ("secure-boot", found.secure_boot, "OVMF with Secure Boot", "ovmf"),
    ):
        findings.append(component(name, there, text, fix, "fail" if name != "secure-boot" else "warn"))
    swtpm = found.tpm and process.find("swtpm") is not None and process.find("swtpm_setup") is not None
    findings.append(component("tpm", swtpm, "swtpm", "swtpm swtpm-tools", "warn"))
    return findings


def judge_lock_manager(manager: str | None, answers: bool) -> Finding:
    """Who keeps two machines from one disk: libvirt's lock manager beside QEMU. `answers`: whether it runs."""
    facts = {"lock_manager": manager}
    if manager is None:
        return Finding("disk-locks", "ok", "QEMU locks the disks of running machines", facts=facts)
    text = f"libvirt ({manager}) and QEMU lock the disks of running machines"
    if answers:
        return Finding("disk-locks", "ok", text, facts=facts)
    text = f"libvirt locks disks by {manager}, whose daemon does not run, so no machine can start"
    return Finding("disk-locks", "fail", text, lock_manager.START, facts)


def _disk_locks() -> list[Finding]:
    try:
        manager = lock_manager.read_lock_manager()
    except OSError:
        return []  # the file is root's alone, or libvirt is not installed, which has a line of its own
    return [judge_lock_manager(manager, lock_manager.is_running(manager))]


def judge_secure_boot_keys(stores: Mapping[Path, SecureBootKeys | None]) -> list[Finding]:
    """A line for each variable store with enrolled keys: which of Microsoft's certificates it knows."""
    findings = []
    for path, keys in stores.items():
        facts = {"path": str(path)}
        if keys is None or not keys.known:
            lacks = "cannot be read as a variable store" if keys is None else "knows no certificate of Microsoft's"
            fix = install_command(["ovmf"], again=True)
            findings.append(Finding("uefi-keys", "warn", f"{path} {lacks}", fix, facts))
            continue
        text = f"{path.name} knows {', '.join(keys.known)}"
        text += f"; not {', '.join(keys.missing)}" if keys.missing else ""
        text += f"; {keys.revoked} revoked"
        more = {"allowed": list(keys.allowed), "missing": list(keys.missing), "revoked": keys.revoked}
        findings.append(Finding("uefi-keys", "ok", text, facts={**facts, **more}))
    return findings


def _qemu_img() -> list[Finding]:
    line = qemu_img.version()
    version = re.search(r"version (\S+)", line)
    text = version.group(1) if version else line
    return [Finding("qemu-img", "ok", text, facts={"version": text})]


def _bootstrap() -> list[Finding]:
    return [judge_tools({name: process.find(name) for name in BOOTSTRAP_TOOLS})]


def _provisioning() -> list[Finding]:
    # ansible comes with the virtual environment, beside this interpreter or in PATH
    missing = [name for name in ("ssh", "ssh-keygen") if process.find(name) is None]
    if missing:
        return [component("provisioning", False, ", ".join(missing), "openssh-client", "fail")]
    return [Finding("provisioning", "ok", "ssh")]


def _sizes(store: Store) -> list[Finding]:
    root = store.root
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    disk = shutil.disk_usage(there)
    memory = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            memory = int(line.split()[1]) * 1024
    return [
        judge_size(
            "disk",
            f"at {there}",
            disk.free,
            DISK_LEAST,
            DISK_GOOD,
            "run goldsmith clean, or use a larger store (GOLDSMITH_HOME)",
        ),
        judge_size(
            "memory", "of memory", memory, MEMORY_LEAST, MEMORY_GOOD, "stop other programs, or use a larger host"
        ),
    ]


def _rights() -> list[Finding]:
    is_root = os.geteuid() == 0
    found = [judge_rights(_user_name(os.geteuid()), is_root, [_group_name(number) for number in os.getgroups()])]
    if is_root:
        # each thing is tried: root in a container may lack any of it
        found += [Finding(lack.name, "fail", lack.text, lack.fix) for lack in privileges.find_lacks()]
        if why := privileges.log_daemon_refused():
            text = f"virtlogd, which records the guests' consoles, does not answer at {privileges.VIRTLOGD}: {why}"
            found.append(Finding("libvirt-log", "fail", text, privileges.DAEMONS))
    return found


def _user_name(number: int) -> str:
    """A user's name; in a container a number may have none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _store(store: Store) -> list[Finding]:
    facts = {"path": str(store.root)}
    # the first VM makes the folder of instances: a store from before has none
    folders = [folder for folder in store.folders if folder not in (store.instances, store.disks) or folder.is_dir()]
    missing = [folder for folder in (store.root, *folders) if not folder.is_dir()]
    if missing:
        return [Finding("store", "fail", f"missing: {missing[0]}", SETUP, facts)]
    owner, user = _qemu_user()
    if closed := closed_folders(folders, owner):
        names = " and ".join(map(str, closed))
        fix = remedy([Obstacle(folder, SEARCH) for folder in closed], user)
        return [Finding("store", "fail", f"libvirt's QEMU runs as {user} and cannot search {names}", fix, facts)]
    if not all(os.access(folder, os.W_OK) for folder in folders):
        return [Finding("store", "fail", f"this user cannot write to {store.root}", SETUP, facts)]
    return [Finding("store", "ok", str(store.root), facts=facts)]


def _qemu_user() -> tuple[tuple[int, int], str]:
    """The user that libvirt runs QEMU as: its ids and its name; anybody where libvirt does not answer."""
    try:
        link = connection.connect()
    except GoldsmithError:
        return ANYBODY, UNKNOWN_USER
    try:
        return link.qemu_owner, user_name(link.qemu_owner[0])
    finally:
        link.close()


def _host() -> list[Finding]:
    machine = platform.machine()
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown system")
    except OSError:  # a container made of nothing may have no os-release
        name = "unknown system"
    cpus = len(os.sched_getaffinity(0))
    verdict: Mark = "ok" if machine == "x86_64" else "fail"
    fix = None if verdict == "ok" else "use a host with an x86-64 processor"
    return [Finding("host", verdict, f"{name}, {machine}, {cpus} processors", fix, {"cpus": cpus})]


def examine(find_store: Callable[[], Store], *, refresh: bool = False) -> list[Finding]:
    """Look at everything; a store that cannot be found is a finding. `refresh` measures the accelerator again.

    Takes 0.3 s, and 4 s with a measurement.
    """
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("host", _host),
        ("accelerator", lambda: _accelerator(find_store(), refresh)),
        ("kvm-device", _kvm_device),
        ("libvirt", _libvirt),
        ("disk-locks", _disk_locks),
        ("uefi-keys", lambda: judge_secure_boot_keys(enrolled_stores())),
        ("qemu-img", _qemu_img),
        ("bootstrap", _bootstrap),
        ("provisioning", _provisioning),
        ("fabric", judge_fabric),
        ("endpoints", judge_endpoints),
        ("facade", judge_facade),
        ("ansible-user", judge_ansible_user),
        ("disk", lambda: _sizes(find_store())),
        ("rights", _rights),
        ("store", lambda: _store(find_store())),
    ]
    findings: list[Finding] = []
    for name, look in looks:
        try:
            findings += look()
        except GoldsmithError as error:
            findings.append(Finding(name, "fail", error.message, _fix(error)))
        except OSError as error:
            # what a container hides or a file's mode forbids is one line of the report, not its end
            fix = f"{SETUP}; in a container: {privileges.CONTAINER}"
            findings.append(Finding(name, "fail", f"the check failed: {error}", fix))
    return findings


def _fix(error: GoldsmithError) -> str:
    if error.name == "libvirt-unreachable":
        return privileges.DAEMONS
    return SETUP if not error.hint or "doctor" in error.hint else error.hint
