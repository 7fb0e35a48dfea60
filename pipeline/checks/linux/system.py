"""The installed system: mounts, device rules, packages, clock."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.base.errors import DiskError
from pipeline.checks.disk.boot import grub_entries
from pipeline.checks.model import AZURE_DOC, CLOUD, HOUSE, LISA, CannotLook, Skip, Subject, check
from pipeline.disk.root import device_name
from pipeline.disk.volumes import closed_kinds

_PSEUDO = ("proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "cgroup2", "efivarfs", "securityfs", "debugfs", "overlay")
_RULES = ("/etc/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d")


#: Names below /dev that mean the same disk whatever its controller: links by what is on it, by Azure's LUN (the link
#: of cloud-init's own line for the resource disk too), and names of LVM and device mapper.
_STABLE = re.compile(
    r"/dev/(disk/by-(uuid|label|partuuid|partlabel|azure)/|disk/(azure|cloud)/|mapper/|(?!disk/|cciss/|ida/)[\w.+-]+/[\w.+-]+$)"
)


def _options(words: list[str]) -> list[str]:
    """The mount options of a line of fstab."""
    return words[3].split(",") if len(words) > 3 else []


def _fstab(subject: Subject) -> Iterator[tuple[str, list[str]]]:
    for line in subject.lines("/etc/fstab"):
        words = line.split()
        if len(words) >= 3:
            yield line, words


@check(
    "fstab-by-uuid",
    "fstab names every file system by UUID or label",
    why="/dev/sda1 is another disk if the controller or the order changes. Then the boot waits 90 s and stops.",
    remedy="Write UUID= (blkid shows it) or LABEL= in /etc/fstab.",
    source=AZURE_DOC,
)
def fstab_by_uuid(subject: Subject) -> Iterator[str]:
    for line, words in _fstab(subject):
        # what is not mounted at boot cannot stop it: a CD-ROM drive is always called by its device
        if words[2] in (*_PSEUDO, "swap") or "noauto" in _options(words):
            continue
        if words[0].startswith("/dev/") and not _STABLE.match(words[0]):
            yield f"/etc/fstab: {line}"


@check(
    "fstab-targets",
    "The file systems in fstab are on this disk, or are optional",
    why="If a file system is missing and its line has no `nofail`, the boot stops in emergency mode.",
    remedy="Correct the UUID, or add nofail for a disk that is attached later.",
    source="systemd.mount(5), fstab(5)",
)
def fstab_targets(subject: Subject) -> Iterator[str]:
    here = {f"UUID={volume.uuid.lower()}" for volume in subject.disk.filesystems if volume.uuid}
    here |= {f"LABEL={volume.label.lower()}" for volume in subject.disk.filesystems if volume.label}
    here |= {f"PARTUUID={p.uuid.lower()}" for p in subject.disk.partitions if p.uuid}
    here |= {f"PARTLABEL={p.name.lower()}" for p in subject.disk.partitions if p.name}
    logical = {f"lv={volume.name.lower()}" for volume in subject.disk.filesystems if volume.name}
    closed = closed_kinds(subject.disk.filesystems)
    hidden = []
    for line, words in _fstab(subject):
        key, equals, value = words[0].partition("=")
        is_missing = logical and (name := device_name(words[0])).startswith("lv=") and name not in logical
        if is_missing and words[2] != "swap" and not {"nofail", "noauto"} & set(_options(words)):
            yield f"/etc/fstab: {line}"
        if not equals or words[2] == "swap" or {"nofail", "noauto"} & set(_options(words)):
            continue
        if f"{key}={value.strip(chr(34)).lower()}" in here:
            continue
        if closed and key in ("UUID", "LABEL"):
            hidden.append(line)
        else:
            yield f"/etc/fstab: {line}"
    if hidden:
        raise CannotLook(f"/etc/fstab: {'; '.join(hidden)}: what is in {', '.join(closed)} cannot be read")


#: A rule of udev's for one card: by its hardware address, or a name for the card in one slot.
_PINS_CARD = re.compile(
    r"^(?!\s*#).*ATTRS?\{address\}==\"[0-9a-fA-F:]{17}\""
    r"|^(?=.*SUBSYSTEM==\"net\")(?=.*(?:KERNELS|ENV\{ID_PATH\})==\"(?:pci-)?[0-9a-f]{4}:)(?!\s*#).*\bNAME:?=\"",
    re.MULTILINE,
)


@check(
    "persistent-net-rules",
    "No udev rule binds a network name to a network card",
    why="The clone's card has another address, so it becomes eth1 and gets no network.",
    remedy="rm -f /etc/udev/rules.d/70-persistent-net.rules; "
    "ln -sf /dev/null /etc/udev/rules.d/75-persistent-net-generator.rules",
    source=LISA,
)
def persistent_net_rules(subject: Subject) -> Iterator[str]:
    # a link to /dev/null is how a rule below /usr is switched off: the folder in /etc goes before
    off = {name for name in subject.root.listdir(_RULES[0])
           if subject.root.read_link(f"{_RULES[0]}/{name}") == "/dev/null"}  # fmt: skip
    for folder in _RULES:
        for path in subject.files_in(folder, ".rules"):
            if path.rsplit("/", 1)[-1] in off:
                continue
            if re.search(r"/7[05]-persistent-net(-generator)?\.rules$", path):
                yield f"{path} is there"
            elif folder.startswith("/etc") and _PINS_CARD.search(subject.root.text(path)):
                yield f"{path} names a card by its address or its place"


@check(
    "azure-storage-rules",
    "Azure's udev rules for disks are installed",
    why="Programs find data disks by their LUN in /dev/disk/azure/.",
    remedy="Install waagent (66-azure-storage.rules) or azure-vm-utils (80-azure-disk.rules).",
    source=AZURE_DOC,
    severity="warn",
    profiles=("azure-linux",),
)
def azure_storage_rules(subject: Subject) -> Iterator[str]:
    names = {name for folder in _RULES for name in subject.root.listdir(folder)}
    if not {"66-azure-storage.rules", "80-azure-disk.rules"} & names:
        yield "neither 66-azure-storage.rules nor 80-azure-disk.rules in any udev folder"


@check(
    "architecture",
    "The image is for x86-64 or arm64",
    why="Azure supports no other processor.",
    remedy="Bootstrap with amd64 or arm64.",
    source=LISA,
)
def architecture(subject: Subject) -> Iterator[str]:
    for path in _PROGRAMS:
        head = subject.root.read(path, 20) or b""
        if head.startswith(b"\x7fELF") and len(head) == 20:
            # e_machine: 16 bits at 18, in the order of bytes that byte 5 names (elf.h)
            machine = int.from_bytes(head[18:20], "big" if head[5] == 2 else "little")
            subject.note(f"{path} is for {_MACHINES.get(machine, f'machine {machine}')}")
            if machine not in _MACHINES or head[4] != 2:
                yield f"{path} is for machine {machine} of elf.h, {'64' if head[4] == 2 else '32'} bits"
            return
    raise CannotLook(f"none of these programs exists: {', '.join(_PROGRAMS)}")


#: EM_X86_64 and EM_AARCH64 of elf.h.
_MACHINES = {62: "x86-64", 183: "arm64"}
#: Programs of which every Linux has one.
_PROGRAMS = (
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/bin/sh",
    "/sbin/init",
    "/usr/bin/env",
    "/bin/busybox",
)


#: Errors of package databases that goldsmith has no reader for. One that is damaged or open is another matter.
_NO_READER = ("packages-not-read", "rpm-database-old")


@check(
    "dpkg-state",
    "Every package is completely installed",
    why="A half-configured package breaks the first update on every clone.",
    remedy="dpkg --configure -a, apt-get -f install (rpm --rebuilddb); find out why the step was interrupted.",
    source="dpkg(1), rpm(8)",
)
def dpkg_state(subject: Subject) -> Iterator[str]:
    yield from subject.system.unfinished_packages()
    try:
        found = [package for package in subject.system.packages() if package.installed]
    except DiskError as error:
        if error.name in _NO_READER:
            raise Skip(error.message) from None
        raise
    if not found:
        raise Skip("no package database")
    subject.note(f"{len(found)} packages")


@check(
    "account-locks",
    "No tool was interrupted while it changed accounts",
    why="A stale /etc/passwd.lock makes every useradd on every clone fail, including the provisioning agent's.",
    remedy="Remove the lock, then find out which step was killed.",
    source="shadow: lckpwdf(3)",
)
def account_locks(subject: Subject) -> Iterator[str]:
    for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
        if subject.root.exists(f"/etc/{name}.lock", follow=False):
            yield f"/etc/{name}.lock is there"


@check(
    "python-version",
    "Python is 3.9 or later",
    why="Current versions of waagent and cloud-init need it.",
    remedy="Build on Debian 11 or later.",
    source=LISA,
    severity="warn",
    profiles=("azure-linux",),
)
def python_version(subject: Subject) -> Iterator[str]:
    found = [tuple(map(int, m.groups())) for name in subject.root.listdir("/usr/bin")
             if (m := re.fullmatch(r"python(\d+)\.(\d+)", name))]  # fmt: skip
    if not found:
        yield "no python3 in /usr/bin"
    elif max(found) < (3, 9):
        yield "python {}.{}".format(*max(found))


@check(
    "openssl-version",
    "OpenSSL is 1.1.1 or 3",
    why="Older versions get no fixes, and Azure's endpoints require TLS 1.2 or later.",
    remedy="Build on Debian 11 or later.",
    source=LISA,
    severity="warn",
    profiles=("azure-linux",),
)
def openssl_version(subject: Subject) -> Iterator[str]:
    names = [name for name in subject.packages if re.fullmatch(r"libssl(3|1\.1)(t64)?|openssl", name)]
    if not names:
        raise Skip("no OpenSSL is installed")
    for name in names:
        version = subject.packages[name].version.split(":")[-1]
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
        if not match or tuple(map(int, match.groups())) < (1, 1, 1):
            yield f"{name} {version}"


@check(
    "package-sources",
    "The image can be updated",
    why="Without a package source, no clone can install security updates. A clone has no installation medium.",
    remedy="Write the distribution's public repositories into /etc/apt/sources.list.d/.",
    source=LISA,
)
def package_sources(subject: Subject) -> Iterator[str]:
    if not subject.root.exists("/etc/apt"):
        yield from _other_sources(subject)
        return
    active = [line for path in apt_source_files(subject) for line in subject.lines(path)
              if re.match(r"(deb\s|URIs:)", line)]  # fmt: skip
    if not active:
        yield "no active line in /etc/apt/sources.list and sources.list.d"
    yield from (f"{line}" for line in active if re.search(r"\b(file|cdrom|copy):", line))


#: Addresses that only a machine with the medium of its installation has: zypper's, dnf's, apk's.
_MEDIUM = re.compile(r"baseurl\s*=\s*(cd|dvd|hd|iso|file):|(@\S+\s+)?/(media|mnt)/", re.IGNORECASE)
#: Where dnf, zypper and apk keep their repositories, and how an active line begins.
_OTHER_SOURCES = (
    ("/etc/yum.repos.d", r"(baseurl|mirrorlist|metalink)\s*="),
    ("/etc/zypp/repos.d", r"(baseurl|mirrorlist)\s*="),
    ("/etc/apk", r"(@\S+\s+)?(https?://|ftp://|/)"),
)


def _other_sources(subject: Subject) -> Iterator[str]:
    known = [(folder, pattern) for folder, pattern in _OTHER_SOURCES if subject.root.is_dir(folder)]
    if not known:
        raise CannotLook("no apt, dnf, zypper or apk: where its packages come from is not known")
    for folder, pattern in known:
        names = ["repositories"] if folder == "/etc/apk" else subject.root.listdir(folder)
        lines = [line for name in names for line in subject.lines(f"{folder}/{name}")]
        if not any(re.match(pattern, line) for line in lines):
            yield f"no active line in {folder}"
        for name in names:
            yield from (f"{folder}/{name}: {line}" for line in _medium_lines(subject, f"{folder}/{name}"))


def _medium_lines(subject: Subject, path: str) -> Iterator[str]:
    """The lines of a file of repositories that name an installation medium, but for repositories that are off."""
    section: list[str] = []
    for line in [*subject.lines(path), "["]:
        if line.startswith("["):
            if not any(re.fullmatch(r"enabled\s*=\s*(0|no|false)", each, re.IGNORECASE) for each in section):
                yield from (each for each in section if _MEDIUM.match(each))
            section = []
        section.append(line)


def apt_source_files(subject: Subject) -> list[str]:
    more = [path for path in subject.files_in("/etc/apt/sources.list.d") if path.endswith((".list", ".sources"))]
    return ["/etc/apt/sources.list", *more]


@check(
    "clock-utc",
    "The hardware clock is in UTC, and the time zone exists",
    why="Azure's and Hyper-V's clock is UTC; with local time, the first minutes of logs have wrong times.",
    remedy="timedatectl set-local-rtc 0; timedatectl set-timezone UTC.",
    source=AZURE_DOC,
    severity="warn",
    profiles=CLOUD,
)
def clock_utc(subject: Subject) -> Iterator[str]:
    if "LOCAL" in subject.root.text("/etc/adjtime").split():
        yield "/etc/adjtime: the hardware clock is in local time"
    target = subject.root.read_link("/etc/localtime")
    if target is not None and not subject.root.exists("/etc/localtime"):
        yield f"/etc/localtime points to {target}, which does not exist"


#: The unit that systemd's generator starts on a serial console of the kernel's, and who else may start one.
_SERIAL_GETTY = "serial-getty@ttyS0.service"
_INITTAB = re.compile(r"^[^#:\n]*:[^:\n]*:(respawn|askfirst|ondemand):.*\bttyS0\b", re.MULTILINE)


@check(
    "serial-login",
    "Azure's serial console has a login prompt",
    why="The serial console is the only way into a machine whose network does not work.",
    remedy="systemctl unmask serial-getty@ttyS0.service; no systemd.getty_auto=no for the kernel (OpenRC "
    "and System V: a line with ttyS0 and getty in /etc/inittab).",
    source="Azure: Serial Console for Linux; systemd-getty-generator(8)",
    severity="warn",
    profiles=CLOUD,
)
def serial_login(subject: Subject) -> Iterator[str]:
    # a link to /dev/null of the generator's name takes it away too
    for path in (f"/etc/systemd/system/{_SERIAL_GETTY}", "/etc/systemd/system/serial-getty@.service",
                 "/etc/systemd/system-generators/systemd-getty-generator"):  # fmt: skip
        if subject.root.read_link(path) == "/dev/null":
            yield f"{path} is a link to /dev/null"
    for entry in grub_entries(subject):
        for word in entry.words:
            if re.fullmatch(r"systemd\.getty_auto=(0|no|n|false|f|off)", word):
                yield f"{entry.path}: {word}"
    inittab = subject.root.text("/etc/inittab")
    if inittab and not subject.root.is_dir("/usr/lib/systemd/system") and not _INITTAB.search(inittab):
        yield "/etc/inittab starts no getty on ttyS0"


@check(
    "temporary-files",
    "The folders /tmp and /var/tmp are empty",
    why="Scripts and archives of the build are often left there.",
    remedy="find /tmp /var/tmp -mindepth 1 -delete, as the last step.",
    source=HOUSE,
    severity="warn",
)
def temporary_files(subject: Subject) -> Iterator[str]:
    for folder in ("/tmp", "/var/tmp"):  # noqa: S108
        for name in subject.root.listdir(folder):
            if not name.startswith((".X11", ".ICE", ".font", ".XIM", ".Test", "systemd-private-")):
                yield f"{folder}/{name}"


@check(
    "core-dumps",
    "No core dump or crash report is left",
    why="They contain memory of the build, including keys.",
    remedy="rm -rf /var/crash/* /var/lib/systemd/coredump/* /var/lib/apport/coredump/* /core; find out which "
    "program crashed.",
    source=HOUSE,
)
def core_dumps(subject: Subject) -> Iterator[str]:
    for folder in ("/var/crash", "/var/lib/systemd/coredump", "/var/lib/apport/coredump"):
        yield from subject.files_in(folder)
    yield from (path for path in subject.files_in("/") if path in ("/core", "//core"))


@check(
    "failed-boot-marks",
    "No file changes the behaviour of the next boot",
    why="/forcefsck, /fastboot or a stale default target make each clone's first boot different from the tested one.",
    remedy="rm -f /forcefsck /fastboot /nologin /etc/nologin /.autorelabel; systemctl set-default multi-user.target.",
    source="systemd: bootup(7)",
    severity="warn",
)
def failed_boot_marks(subject: Subject) -> Iterator[str]:
    for path in ("/forcefsck", "/fastboot", "/nologin", "/etc/nologin", "/.autorelabel"):
        if subject.root.exists(path):
            yield f"{path} is there"
    target = subject.root.read_link("/etc/systemd/system/default.target") or ""
    if target.endswith(("rescue.target", "emergency.target")):
        yield f"the default target is {target}"
