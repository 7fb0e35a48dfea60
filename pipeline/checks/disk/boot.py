"""The boot chain of both generations, and what GRUB tells the kernel."""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterator

from pipeline.base.errors import DiskError
from pipeline.base.secure_boot import AUTHORITIES, authority_named
from pipeline.checks.model import AZURE_DOC, CLOUD, LISA, WINDOWS_TOO, CannotLook, Skip, Subject, check
from pipeline.disk.boot_menu import Entry, read_menus
from pipeline.disk.efi_program import PROGRAM_LIMIT, EfiProgram
from pipeline.disk.filesystem import FileSystem
from pipeline.disk.partitions import BIOS_BOOT, SECTOR
from pipeline.disk.root import Root, device_name
from pipeline.disk.volumes import closed_kinds

_BOOTX64 = "/EFI/BOOT/BOOTX64.EFI"
_GRUB_SPEC = "GNU GRUB: boot.S (kernel sector at 0x5c), diskboot.S (block list at 0x1f4)"


def grub_entries(subject: Subject) -> list[Entry]:
    """What the boot loader's menu boots, recovery entries left out; the first is the default unless it says so."""
    return read_menus(subject.root, subject.system.boot_menus)


def boot_entries(subject: Subject) -> list[Entry]:
    """`grub_entries` for a check that looks at each of them. Raises CannotLook where there is none."""
    entries = grub_entries(subject)
    if not entries:
        raise CannotLook("no boot entry in grub.cfg to look at (see grub-config)")
    return entries


def boot_path(subject: Subject, path: str) -> str | None:
    """A path of grub.cfg in the root: /boot may be a file system of its own."""
    name = re.sub(r"^\([^)]*\)", "", path)
    return subject.disk.boot_path(name)


@check(
    "boot-bios",
    "Generation 1 boots: the boot code is there and points to GRUB's core",
    why="A generation 1 machine has no UEFI. Without boot code it shows only a black screen.",
    remedy="grub-install --target=i386-pc DISK, with a BIOS boot partition (EF02) on GPT.",
    source=_GRUB_SPEC,
    profiles=CLOUD,
    needs_root=False,
)
def boot_bios(subject: Subject) -> Iterator[str]:
    if 1 not in subject.generations:
        raise Skip("generation 1 is not asked for")
    code = subject.disk.table.boot_code
    if not any(code[:3]):
        yield "the first sector has no boot code"
        return
    if subject.disk.read(510, 2) != b"\x55\xaa":
        yield "the first sector does not end in 55 aa"
    if b"GRUB" not in code:
        if not any(partition.bootable for partition in subject.disk.partitions):
            yield "the boot code is not GRUB's, and no partition is marked active"
        return
    (core,) = struct.unpack_from("<Q", code, 0x5C)
    biosboot = next((p for p in subject.disk.partitions if p.type == BIOS_BOOT), None)
    if subject.disk.table.kind == "gpt" and biosboot is None:
        yield "no BIOS boot partition (EF02) on a GPT disk"
        return
    first = min((p.start for p in subject.disk.partitions), default=0)
    begin, end = (biosboot.start, biosboot.end) if biosboot else (SECTOR, first)
    sector = subject.disk.read(core * SECTOR, SECTOR) if core * SECTOR < subject.disk.size else b""
    if not begin <= core * SECTOR < end or not any(sector):
        yield f"GRUB's core is not in sector {core}, where the boot code looks for it"
        return
    (rest,) = struct.unpack_from("<Q", sector, 0x1F4)
    if not begin <= rest * SECTOR < end or not any(subject.disk.read(rest * SECTOR, SECTOR)):
        yield f"the rest of GRUB's core is not in sector {rest}, where its first sector looks for it"
    subject.note(f"GRUB, core in sector {core}")


def _esp(subject: Subject) -> FileSystem:
    if 2 not in subject.generations:
        raise Skip("generation 2 is not asked for")
    if subject.esp is None:
        raise DiskError("the disk has no EFI system partition", name="no-esp")
    return subject.disk.filesystem(subject.esp)


@check(
    "boot-efi",
    "Generation 2 boots: the boot loader is at EFI/BOOT/BOOTX64.EFI",
    why="A VHD has no UEFI variables, so the firmware finds only the fallback path.",
    remedy="grub-install --target=x86_64-efi --removable, with an EFI system partition (EF00, FAT).",
    source="UEFI specification 3.5.1.1",
    profiles=WINDOWS_TOO,
    needs_root=False,
)
def boot_efi(subject: Subject) -> Iterator[str]:
    if 2 not in subject.generations:
        raise Skip("generation 2 is not asked for")
    if subject.esp is None:
        yield "the disk has no EFI system partition"
        return
    if subject.esp.kind != "vfat":
        yield f"the EFI system partition holds {subject.esp.kind or 'no file system'}, not FAT"
        return
    loader = Root(_esp(subject)).read(_BOOTX64, 1024)
    if loader is None:
        yield f"no {_BOOTX64} on the EFI system partition"
    elif _machine(loader) != 0x8664:
        yield f"{_BOOTX64} is not an x86-64 EFI program"


@check(
    "boot-efi-signed",
    "The boot loader at the fallback path is the signed shim",
    why="Secure Boot and trusted launch run only signed boot loaders.",
    remedy="Install shim-signed and grub-efi-amd64-signed; copy /usr/lib/shim/shimx64.efi.signed to "
    "/boot/efi/EFI/BOOT/BOOTX64.EFI and /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed to EFI/BOOT/grubx64.efi.",
    source="Debian: SecureBoot; Azure: trusted launch",
    profiles=CLOUD,
    needs_root=False,
)
def boot_efi_signed(subject: Subject) -> Iterator[str]:
    root = Root(_esp(subject))
    loader = root.read(_BOOTX64, PROGRAM_LIMIT)
    if loader is None:
        raise CannotLook(f"no {_BOOTX64} on the EFI system partition")
    signed = yield from _signatures(subject, _BOOTX64.removeprefix("/"), loader)
    if signed and b"shim," not in loader and b"UEFI SHIM" not in loader:
        yield f"{_BOOTX64} is signed, but is not shim"
    second = second_loader(root)
    if second is None:
        yield "no EFI/BOOT/grubx64.efi: shim cannot start GRUB"
    else:
        yield from _signatures(subject, second.removeprefix("/"), root.read(second, PROGRAM_LIMIT) or b"")


#: What shim starts beside itself: GRUB, as distributions and as SUSE calls it.
_GRUBS = ("grubx64.efi", "grub.efi")
#: shim's own program for a machine without UEFI variables: it starts what the CSV files below /EFI name.
_FALLBACKS = ("fbx64.efi", "fallback.efi")


def second_loader(esp: Root) -> str | None:
    """The GRUB that shim at the fallback path leads to: beside it, or where its fallback program goes.

    shim: README.fallback. With fallback the first boot writes a UEFI variable and starts the distribution's shim.
    """
    beside = next((f"/EFI/BOOT/{name}" for name in _GRUBS if esp.exists(f"/EFI/BOOT/{name}")), None)
    if beside is not None or not any(esp.exists(f"/EFI/BOOT/{name}") for name in _FALLBACKS):
        return beside
    for folder in esp.listdir("/EFI"):
        for name in esp.listdir(f"/EFI/{folder}"):
            if name.lower().endswith(".csv") and name.lower().startswith("boot"):
                loader = _csv_loader(esp.read(f"/EFI/{folder}/{name}") or b"")
                grub = next((f"/EFI/{folder}/{each}" for each in _GRUBS if esp.exists(f"/EFI/{folder}/{each}")), None)
                if loader and grub and esp.exists(f"/EFI/{folder}/{loader}"):
                    return grub
    return None


def _csv_loader(data: bytes) -> str:
    """The program that a CSV of shim's names: UTF-16, the first field of the first line."""
    line = data.decode("utf-16", "replace").lstrip("\ufeff").splitlines()[:1]
    return line[0].split(",")[0].strip() if line else ""


@check(
    "boot-efi-keys",
    "Firmware with the Secure Boot keys of either year starts the boot loader",
    why="Microsoft's keys of 2011 have ended in 2026: new firmware may have those of 2023 only, and older virtual "
    "machines have those of 2011 only.",
    remedy="Install the newest shim-signed, which carries both signatures, and copy "
    "/usr/lib/shim/shimx64.efi.signed to /boot/efi/EFI/BOOT/BOOTX64.EFI. For an image for firmware of one year, "
    "set `secure_boot_keys` in its definition and waive this check.",
    source="Microsoft: Windows Secure Boot certificate expiration and CA updates",
    profiles=CLOUD,
    needs_root=False,
)
def boot_efi_keys(subject: Subject) -> Iterator[str]:
    loader = Root(_esp(subject)).read(_BOOTX64, PROGRAM_LIMIT)
    if loader is None:
        raise CannotLook(f"no {_BOOTX64} on the EFI system partition")
    try:
        signatures = EfiProgram(loader).signatures
    except DiskError as error:
        raise CannotLook(f"{_BOOTX64}: {error.message}") from error
    found = [authority_named(each.issuers[0]) for each in signatures if each.is_for_content]
    signed = {authority.year for authority in found if authority is not None and authority.signs == "loaders"}
    # one without any signature of Microsoft's is boot-efi-signed's finding, or has a key of its own enrolled
    for authority in AUTHORITIES:
        if signed and authority.signs == "loaders" and authority.year not in signed:
            yield f"{_BOOTX64.removeprefix('/')} is not signed by {authority.label}"


def _signatures(subject: Subject, path: str, data: bytes) -> Generator[str, None, bool]:
    """What is wrong with the signatures of an EFI program, and as evidence who signed it; whether it is signed."""
    try:
        program = EfiProgram(data)
        signatures = program.signatures
    except DiskError as error:
        yield f"{path}: {error.message}"
        return False
    if not signatures:
        yield f"{path} has no signature"
        return False
    for each in signatures:
        if not each.is_for_content:
            yield f"{path}: its content has changed since {each.issuers[0]} signed it"
    names = [found.label if (found := authority_named(each.issuers[0])) else each.issuers[0] for each in signatures]
    levels = " ".join(str(level) for level in program.sbat)
    subject.note(f"{path}: signed by {', '.join(names)}; SBAT {levels or 'none'}")
    return True


@check(
    "boot-efi-config",
    "GRUB on the EFI system partition finds its configuration",
    why="Signed GRUB reads its configuration only from the folder that it was built for (EFI/debian). Without it, "
    "GRUB stops at its prompt.",
    remedy="Write three lines into /boot/efi/EFI/debian/grub.cfg (the folder of your distribution): "
    "search.fs_uuid UUID root; set prefix=($root)'/boot/grub'; configfile $prefix/grub.cfg. "
    "UUID is that of the file system with /boot (findmnt -no UUID -T /boot).",
    source="Debian: grub-efi-amd64-signed",
    profiles=CLOUD,
    needs_root=False,
)
def boot_efi_config(subject: Subject) -> Iterator[str]:
    root = Root(_esp(subject))
    folders = [name for name in root.listdir("/EFI") if root.exists(f"/EFI/{name}/grub.cfg")]
    if not root.exists(_BOOTX64):
        raise CannotLook(f"no {_BOOTX64} on the EFI system partition")
    if second_loader(root) is None:
        raise Skip("no separate GRUB on the EFI system partition")
    if not folders:
        yield "no grub.cfg in any folder below EFI"
    known = {volume.uuid.lower() for volume in subject.disk.filesystems if volume.uuid}
    closed = closed_kinds(subject.disk.filesystems)
    where = "is not in a partition, and the content of " + ", ".join(closed) + " cannot be read" if closed else ""
    for name in folders:
        text = root.text(f"/EFI/{name}/grub.cfg")
        if not re.search(r"^\s*(search|configfile|source|linux|menuentry|blscfg|normal)\b", text, re.MULTILINE):
            yield f"EFI/{name}/grub.cfg has no command that leads to a boot entry"
        for wanted in re.findall(r"search(?:\.fs_uuid|.*--fs-uuid.*?)\s+([0-9A-Fa-f-]{9,36})", text):
            if wanted.lower() not in known:
                yield f"EFI/{name}/grub.cfg looks for file system {wanted}, which {where or 'is not on this disk'}"


def _machine(pe: bytes) -> int:
    (at,) = struct.unpack_from("<I", pe.ljust(64, b"\0"), 60)
    if not pe.startswith(b"MZ") or pe[at : at + 4] != b"PE\0\0" or len(pe) < at + 6:
        return 0
    return int(struct.unpack_from("<H", pe, at + 4)[0])


@check(
    "grub-config",
    "GRUB has an entry whose kernel and initramfs exist",
    why="Otherwise the first boot stops at the GRUB prompt.",
    remedy="update-grub after the last kernel change.",
    source=AZURE_DOC,
)
def grub_config(subject: Subject) -> Iterator[str]:
    entries = grub_entries(subject)
    if not entries:
        yield "no boot entry in grub.cfg"
    for entry in entries:
        for path in (entry.kernel, *entry.initrd):
            if "$" not in path and boot_path(subject, path) is None:
                yield f"{entry.path} names {path}, which does not exist"
    if entries:
        subject.note(f"boots {entries[0].kernel}")
    if unknown := sorted({entry.kernel for entry in entries if "$" in entry.kernel}):
        raise CannotLook(f"which file {', '.join(unknown)} is, can be decided only when GRUB runs")


@check(
    "root-by-uuid",
    "The kernel finds its root by UUID or label",
    why="sda and vda change with the controller: IDE, SCSI, virtio and NVMe name the same disk differently.",
    remedy="Remove GRUB_DISABLE_LINUX_UUID from /etc/default/grub and run update-grub.",
    source=AZURE_DOC,
)
def root_by_uuid(subject: Subject) -> Iterator[str]:
    volume = subject.disk.root_volume
    partition = next((p for p in subject.disk.partitions if p.number == volume.number and not volume.name), None)
    good = {f"uuid={volume.uuid}", f"label={volume.label}"}
    if partition is not None:
        good |= {f"partuuid={partition.uuid}", f"partlabel={partition.name}"}
    unknown = []
    for entry in boot_entries(subject):
        roots = [word for word in entry.words if word.startswith("root=")]
        if not any("$" not in word for word in roots):
            unknown.append(f"{entry.kernel} boots {'with ' + roots[0] if roots else 'without root='}")
        for word in roots:
            if "$" in word:
                continue
            value = word[5:].strip("\"'").removeprefix("/dev/disk/by-").replace("uuid/", "uuid=").lower()
            if device_name(value).startswith("lv="):
                if volume.name and device_name(value) != f"lv={volume.name}".lower():
                    yield f"{entry.path}: {word} is not the root file system of this disk"
            elif value.startswith("/dev/") and not value.startswith("/dev/mapper/"):
                yield f"{entry.path}: {word}"
            elif "=" in value and value not in {each.lower() for each in good}:
                yield f"{entry.path}: {word} is not the root file system of this disk"
    if unknown:
        raise CannotLook("; ".join(unknown))


@check(
    "serial-console",
    "The kernel writes to the serial port",
    why="Azure's serial console and boot diagnostics show only ttyS0. Without it, a failed boot cannot be diagnosed.",
    remedy="GRUB_CMDLINE_LINUX='console=tty1 console=ttyS0,115200n8 earlyprintk=ttyS0,115200', then update-grub.",
    source=AZURE_DOC,
)
def serial_console(subject: Subject) -> Iterator[str]:
    for entry in boot_entries(subject):
        if not any(re.match(r"console=ttyS0\b", word) for word in entry.words):
            yield f"{entry.path}: {entry.kernel} boots without console=ttyS0"
    subject.note("console=ttyS0 on every entry")


@check(
    "grub-serial",
    "GRUB uses the serial port",
    why="The boot menu is needed if a kernel does not boot.",
    remedy="GRUB_TERMINAL='serial console', GRUB_SERIAL_COMMAND='serial --speed=115200 --unit=0'; update-grub.",
    source=AZURE_DOC,
    severity="warn",
    profiles=CLOUD,
)
def grub_serial(subject: Subject) -> Iterator[str]:
    menus = {path: text for path in subject.system.boot_menus if (text := subject.root.text(path))}
    text = "\n".join(menus.values())
    if menus and all(path.endswith("extlinux.conf") for path in menus):
        # one line is for both directions: syslinux, doc/syslinux.txt
        if not re.search(r"^\s*serial\s", text, re.MULTILINE | re.IGNORECASE):
            yield "extlinux.conf has no SERIAL line"
        return
    if not re.search(r"^\s*serial\s", text, re.MULTILINE):
        yield "grub.cfg has no serial command"
    if not re.search(r"^\s*terminal_output\s.*serial", text, re.MULTILINE):
        yield "grub.cfg does not write to the serial port"


@check(
    "kernel-command-line",
    "The kernel command line has no option that Azure advises against",
    why="rhgb hides the boot, crashkernel=auto takes memory, the others hide disks or memory from the kernel.",
    remedy="Remove them from GRUB_CMDLINE_LINUX and run update-grub.",
    source=LISA,
    profiles=CLOUD,
)
def kernel_command_line(subject: Subject) -> Iterator[str]:
    bad = {"rhgb", "crashkernel=auto", "libata.atapi_enabled=0", "reserve=0x1f0,0x8", "numa=off"}
    for entry in boot_entries(subject):
        for word in sorted(bad & set(entry.words)):
            yield f"{entry.path}: {word}"


@check(
    "quiet-console",
    "The boot writes its messages to the console",
    why="Installers and desktops hide them. Then boot diagnostics are empty where a boot fails.",
    remedy="Remove quiet, splash and loglevel= from GRUB_CMDLINE_LINUX and GRUB_CMDLINE_LINUX_DEFAULT; update-grub "
    "(grubby --update-kernel=ALL --remove-args='quiet splash').",
    source=AZURE_DOC,
    severity="warn",
    profiles=CLOUD,
)
def quiet_console(subject: Subject) -> Iterator[str]:
    for entry in boot_entries(subject):
        for word in entry.words:
            # level 3 and above shows errors, which Azure's own guides use
            if word in ("quiet", "splash") or re.fullmatch(r"loglevel=[0-2]", word):
                yield f"{entry.path}: {entry.kernel} boots with {word}"


@check(
    "root-delay",
    "The kernel waits for a slow root disk",
    why="Under load the disk may take long to appear; without rootdelay the boot gives up too early.",
    remedy="Add rootdelay=300 and earlyprintk=ttyS0,115200 to GRUB_CMDLINE_LINUX and run update-grub.",
    source=AZURE_DOC,
    severity="warn",
    profiles=("azure-linux",),
)
def root_delay(subject: Subject) -> Iterator[str]:
    for entry in boot_entries(subject):
        for wanted in ("rootdelay=", "earlyprintk="):
            if not any(word.startswith(wanted) for word in entry.words):
                yield f"{entry.path}: {entry.kernel} boots without {wanted.rstrip('=')}"
