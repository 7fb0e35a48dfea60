"""Is it generalized, at rest, and free of what its build left? Witnesses that do not ask each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

from pipeline.base.errors import DiskError
from pipeline.checks.model import HOUSE, SYSPREP, CannotLook, Subject, has_data, windows_check
from pipeline.disk import paging
from pipeline.disk.windows import CONFIG, HIVES, decoded, shown
from pipeline.systems.windows.sysprep_log import FOLDER, SETUPACT, SETUPERR, error_lines, log_lines

GENERALIZED = "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"
_STATE = r"Microsoft\Windows\CurrentVersion\Setup\State"
_WINLOGON = r"Microsoft\Windows NT\CurrentVersion\Winlogon"
_CURRENT = r"Microsoft\Windows\CurrentVersion"
#: The answer files that Windows finds before one on a medium. Microsoft: Windows Setup Automation Overview.
_CACHED_ANSWERS = (
    "Windows/Panther/Unattend/Unattend.xml",
    "Windows/Panther/Unattend/Autounattend.xml",
    "Windows/Panther/unattend.xml",
)
#: What Setup writes in place of a password that it has used.
_DELETED = "*SENSITIVE*DATA*DELETED*"
#: Folders in C:\Users that are nobody's.
_NOBODYS = frozenset(
    {"public", "default", "default user", "all users", "administrator", "defaultapppool", "desktop.ini"}
)
#: How a log of sysprep's tells its mode: "SYSPRP SysprepSession::CreateSession: ... and mode <null>", or "mode VM".
_MODE = re.compile(r"(?:\bmode\s+<?|/mode:)(null|vm)\b", re.IGNORECASE)
#: $VOLUME_INFORMATION of $Volume, and its flag. Microsoft: NTFS volume flags, VOLUME_IS_DIRTY.
_VOLUME, _VOLUME_INFORMATION, _DIRTY = 3, 0x70, 0x0001


@windows_check(
    "win-image-state",
    "Windows' own image state is generalized",
    why="A disk that was not generalized boots as the build's machine. Every clone has its SID and its name.",
    remedy=r"Run sysprep /generalize /oobe /shutdown; Sysprep\Panther\setuperr.log names the cause of a failure.",
    source=SYSPREP,
)
def image_state(subject: Subject) -> Iterator[str]:
    state = subject.windows.software(_STATE, "ImageState")
    if state != GENERALIZED:
        yield f"ImageState is {shown(state)}"


@windows_check(
    "win-state-ini",
    "State.ini has the same image state as the registry",
    why="Sysprep writes both. If they differ, sysprep was interrupted.",
    remedy="Generalize again from the last good layer.",
    source=SYSPREP,
)
def state_ini(subject: Subject) -> Iterator[str]:
    raw = subject.windows.root.read("/Windows/Setup/State/State.ini", 64 << 10)
    if raw is None:
        yield r"there is no Windows\Setup\State\State.ini"
        return
    # Setup writes it in the system's code page, sysprep in UTF-16
    found = re.search(r"^\s*ImageState\s*=\s*(\S+)", decoded(raw, "latin-1"), re.MULTILINE | re.IGNORECASE)
    if found is None or found[1] != GENERALIZED:
        yield f"State.ini says {found[1] if found else 'nothing'}"


@windows_check(
    "win-sysprep-tag",
    "Sysprep has recorded its success",
    why="Sysprep may also power off after a failure. It writes this file only after its last provider.",
    remedy=r"The first error is in Sysprep\Panther\setuperr.log: correct it, then generalize again.",
    source=SYSPREP,
)
def sysprep_tag(subject: Subject) -> Iterator[str]:
    if not subject.windows.root.exists(f"{FOLDER}/Sysprep_succeeded.tag"):
        yield "there is no Sysprep_succeeded.tag"


@windows_check(
    "win-setup-phase",
    "The next boot starts with specialize and OOBE",
    why="Otherwise a clone boots to a desktop without set-up.",
    remedy="Generalize again; /oobe and not /audit.",
    source=SYSPREP,
)
def setup_phase(subject: Subject) -> Iterator[str]:
    setup = subject.windows.settings("Setup")
    if setup.get("setuptype") != 2:
        yield f"SetupType is {shown(setup.get('setuptype'))}, not 2"
    if "windeploy.exe" not in str(setup.get("cmdline", "")).lower():
        yield f"CmdLine is {shown(setup.get('cmdline'))}, without windeploy.exe"


@windows_check(
    "win-hives",
    "Every registry hive exists, and is complete with its logs",
    why="If a hive is dirty and its log is missing, Windows loads old values, or does not load the hive.",
    remedy="Shut down properly, without fast startup. Copy a hive with its .LOG1 and .LOG2.",
    source="Windows registry file format: sequence numbers",
    waivable=False,
)
def hives(subject: Subject) -> Iterator[str]:
    for name in HIVES:
        try:
            hive = subject.windows.hive(name)
        except DiskError as error:
            yield f"{CONFIG}/{name}: {error.message}"
            continue
        if hive.dirty:
            yield f"{CONFIG}/{name}: {hive.dirt().message}"
        elif hive.replayed:
            subject.note(f"{name}: its log was replayed as Windows does, entries: {hive.replayed}")
    # it has named them itself
    subject.windows.stale.clear()


@windows_check(
    "win-ntfs-clean",
    "No NTFS volume is marked dirty",
    why="The first boot of every clone would start with a disk check.",
    remedy="Shut down properly; chkdsk /f, then generalize again.",
    source="NTFS: $VOLUME_INFORMATION",
    waivable=False,
)
def ntfs_clean(subject: Subject) -> Iterator[str]:
    for volume in subject.disk.filesystems:
        if volume.kind != "ntfs":
            continue
        information = subject.disk.filesystem(volume).attribute(_VOLUME, _VOLUME_INFORMATION)
        if information is None or len(information) < 12:
            yield f"partition {volume.number} does not record its state"
        elif int.from_bytes(information[10:12], "little") & _DIRTY:
            yield f"partition {volume.number} is marked dirty"


@windows_check(
    "win-sysprep-errors",
    "Sysprep's error log is empty",
    why="The components that it lists were not generalized, even if the image state says so.",
    remedy="Correct what the log names; remove AppX packages of a single user with Remove-AppxPackage.",
    source=SYSPREP,
    severity="warn",
)
def sysprep_errors(subject: Subject) -> Iterator[str]:
    lines = log_lines(subject.windows.root, SETUPERR)
    if not lines:
        # an empty list of errors says something only beside the log of what was done
        _need_sysprep_log(subject)
    yield from error_lines(lines)


@windows_check(
    "win-mode-vm",
    "The image was not generalized for one hypervisor only",
    why="/mode:vm keeps the devices of the build's machine. On another hypervisor the clone searches for disks "
    "that do not exist.",
    remedy="Generalize again without /mode:vm.",
    source=SYSPREP,
)
def mode_vm(subject: Subject) -> Iterator[str]:
    # the last run decides: an earlier one may have failed, or been for another purpose
    modes = [
        found[1].lower()
        for line in log_lines(subject.windows.root, SETUPACT, 16 << 20)
        if (found := _MODE.search(line))
    ]
    if not modes:
        raise CannotLook(r"unknown: Sysprep\Panther\setupact.log does not show in which mode it ran")
    if modes[-1] == "vm":
        yield "setupact.log: mode VM"
    else:
        subject.note("setupact.log: mode <null>")


@windows_check(
    "win-rearm",
    "Activation was rearmed",
    why="If SkipRearm is set, clones share the identity that activation uses.",
    remedy=r"Set SoftwareProtectionPlatform\SkipRearm to 0 before sysprep.",
    source=SYSPREP,
    severity="warn",
)
def rearm(subject: Subject) -> Iterator[str]:
    key = r"Microsoft\Windows NT\CurrentVersion\SoftwareProtectionPlatform"
    if subject.windows.software(key, "SkipRearm") not in (None, 0):
        yield "SkipRearm is set"


@windows_check(
    "win-answer-passwords",
    "No answer file contains a password",
    why="Setup keeps a copy of its answer file, so everybody who gets the image can read the password.",
    remedy=r"Delete Windows\Panther\unattend.xml and similar files beside it, as the last step before sysprep.",
    source=HOUSE,
)
def answer_passwords(subject: Subject) -> Iterator[str]:
    for path in _answer_files(subject):
        if _passwords(subject.windows.root.read_whole(path) or b""):
            yield path


@windows_check(
    "win-answer-cached",
    "No answer file on the disk comes before the one on Azure's medium",
    why="At the first boot Windows uses a cached answer file and does not look at Azure's medium: the "
    "clone does not get its name and its administrator, and may stop at a question.",
    remedy="Delete the file, and call sysprep without /unattend. goldsmith does both; `oobe: {skip: true}` keeps a "
    "cached file, for hypervisors without such a medium.",
    source="Microsoft: Windows Setup Automation Overview, implicit answer file search order",
)
def answer_cached(subject: Subject) -> Iterator[str]:
    root = subject.windows.root
    for path in _CACHED_ANSWERS:
        if root.is_file(f"/{path}"):
            yield "C:\\" + path.replace("/", "\\")
    for name, value in (subject.windows.hive("SYSTEM").values("Setup") or {}).items():
        if name.lower() == "unattendfile":
            yield f"SYSTEM\\Setup: UnattendFile is {value!r}"


@windows_check(
    "win-autologon",
    "No user is logged on automatically",
    why="Every clone would open a session of the build's administrator, whose password is in the registry.",
    remedy="Remove AutoAdminLogon and DefaultPassword from Winlogon.",
    source=HOUSE,
)
def autologon(subject: Subject) -> Iterator[str]:
    if str(subject.windows.software(_WINLOGON, "AutoAdminLogon") or "0") != "0":
        yield "AutoAdminLogon is on"
    if subject.windows.software(_WINLOGON, "DefaultPassword") is not None:
        yield "DefaultPassword is set"


@windows_check(
    "win-users",
    "Only users that may ship have a profile",
    why="Otherwise a person's files, keys and history are in every clone.",
    remedy="Delete the user with its profile; or name it in the definition's accounts.",
    source=HOUSE,
)
def users(subject: Subject) -> Iterator[str]:
    known = _NOBODYS | {name.lower() for name in subject.accounts}
    for name in _user_folders(subject):
        if name.lower() not in known and subject.windows.root.is_dir(f"/Users/{name}"):
            yield f"C:\\Users\\{name}"


@windows_check(
    "win-history",
    "No shell history",
    why="Otherwise the commands of the build ship, including passwords.",
    remedy="Delete ConsoleHost_history.txt of every user as the last step.",
    source=HOUSE,
)
def history(subject: Subject) -> Iterator[str]:
    inner = "AppData/Roaming/Microsoft/Windows/PowerShell/PSReadLine/ConsoleHost_history.txt"
    for name in _user_folders(subject):
        if subject.windows.root.exists(f"/Users/{name}/{inner}"):
            yield f"C:\\Users\\{name}: ConsoleHost_history.txt"


@windows_check(
    "win-dumps",
    "No memory dump is left",
    why="A dump contains gigabytes of the build machine's memory.",
    remedy=r"Delete Windows\MEMORY.DMP and Windows\Minidump, and find out why Windows crashed.",
    source=HOUSE,
)
def dumps(subject: Subject) -> Iterator[str]:
    root = subject.windows.root
    if root.exists("/Windows/MEMORY.DMP"):
        yield r"C:\Windows\MEMORY.DMP"
    for name in root.listdir("/Windows/Minidump"):
        yield f"C:\\Windows\\Minidump\\{name}"


@windows_check(
    "win-hibernation",
    "Hibernation and fast startup are off",
    why="A hibernated disk resumes as the build's machine, and its NTFS was not unmounted.",
    remedy="powercfg /hibernate off",
)
def hibernation(subject: Subject) -> Iterator[str]:
    if subject.windows.root.exists("/hiberfil.sys"):
        yield r"C:\hiberfil.sys is there"
    yield from subject.windows.other_than(0, r"Control\Session Manager\Power", "HiberbootEnabled", unset=True)


@windows_check(
    "win-pagefile",
    "No paging file contains memory, and none is on a drive that clones may not have",
    why="Windows keeps pagefile.sys when it shuts down, with pieces of the build's memory; one on a missing drive "
    "costs clones their paging.",
    remedy="goldsmith's convert makes holes of it; elsewhere set Memory Management\\ClearPageFileAtShutdown to 1 for "
    "the last shutdown. Let Windows manage it (?:\\pagefile.sys), or place it on D: for Azure's temporary disk.",
)
def pagefile(subject: Subject) -> Iterator[str]:
    for volume in subject.disk.filesystems:
        if volume.kind != "ntfs":
            continue
        for each in paging.paging_files(subject.disk, volume):
            if paging.holds_data(subject.disk, volume, each):
                yield f"partition {volume.number}: {each.path[1:]} holds data"
    key = r"Control\Session Manager\Memory Management"
    for control, value in subject.windows.in_each_set(key, "PagingFiles"):
        for place in value if isinstance(value, list) else [str(value)] if value else []:
            if place and not re.match(r"[?CD]:\\pagefile\.sys", place, re.IGNORECASE):
                yield f"{control}: {place}"


@windows_check(
    "win-drive-letters",
    "No drive letter but C: is remembered",
    why="If the build's media had the letter D:, Azure's temporary disk cannot get it.",
    remedy=r"Sysprep clears SYSTEM\MountedDevices; other entries were written later.",
    severity="warn",
)
def drive_letters(subject: Subject) -> Iterator[str]:
    for name in subject.windows.hive("SYSTEM").values("MountedDevices") or {}:
        found = re.fullmatch(r"\\DosDevices\\([A-Z]):", name, re.IGNORECASE)
        if found and found[1].upper() != "C":
            yield name


@windows_check(
    "win-pending",
    "No restart is pending",
    why="Updates that are partly installed make sysprep fail, or finish at every clone's first boot.",
    remedy="Restart until nothing is pending, then generalize.",
)
def pending(subject: Subject) -> Iterator[str]:
    software = subject.windows.hive("SOFTWARE")
    for key in (
        rf"{_CURRENT}\Component Based Servicing\RebootPending",
        rf"{_CURRENT}\WindowsUpdate\Auto Update\RebootRequired",
    ):
        if software.keys(key) is not None:
            yield f"SOFTWARE\\{key}"
    if subject.windows.root.exists("/Windows/WinSxS/pending.xml"):
        yield r"C:\Windows\WinSxS\pending.xml"


@windows_check(
    "win-pending-renames",
    "No file is replaced or deleted at the next boot",
    why="Otherwise every clone's first boot does so. Installers and browsers often leave such lists; most are "
    "harmless.",
    remedy="Restart before sysprep; goldsmith's generalize does, once.",
    severity="warn",
)
def pending_renames(subject: Subject) -> Iterator[str]:
    for name in ("PendingFileRenameOperations", "PendingFileRenameOperations2"):
        for control, value in subject.windows.in_each_set(r"Control\Session Manager", name):
            files = value if isinstance(value, list) else [shown(value)] if value else []
            # pairs: a file, and what it will be called; nothing, where it is deleted
            if named := [each for each in files[::2] if each]:
                yield f"{control}: {name}: {len(named)}, the first {named[0]}"


@windows_check(
    "win-reserved-storage",
    "No reserved storage is in use",
    why="Sysprep refuses this (0x800F0975), or clones start with reserved storage in use.",
    remedy="dism /online /set-reservedstoragestate /state:disabled, once no update is pending",
    source=SYSPREP,
    severity="warn",
)
def reserved_storage(subject: Subject) -> Iterator[str]:
    value = subject.windows.software(rf"{_CURRENT}\ReserveManager", "ActiveScenario")
    if value not in (None, 0):
        yield f"ActiveScenario is {shown(value)}"


@windows_check(
    "win-domain",
    "The machine is not a member of a domain",
    why="Sysprep removes a machine from its domain, but clones keep the settings of its group policies.",
    remedy="Build it in a workgroup; the clones join the domain.",
    source=SYSPREP,
)
def domain(subject: Subject) -> Iterator[str]:
    for control, value in subject.windows.in_each_set(r"Services\Tcpip\Parameters", "Domain"):
        if value:
            yield f"{control}: {shown(value)}"


def _need_sysprep_log(subject: Subject) -> None:
    """Raises CannotLook where sysprep left no log of what it did: it always writes one."""
    if not has_data(subject.windows.root, SETUPACT):
        raise CannotLook(r"there is no Sysprep\Panther\setupact.log, or it is empty")


def _user_folders(subject: Subject) -> list[str]:
    names = subject.windows.root.listdir("/Users")
    if not names:
        raise CannotLook("C:\\Users is missing or empty, but every Windows has profiles")
    return names


def _answer_files(subject: Subject) -> list[str]:
    root = subject.windows.root
    folders = ("/", "/Windows/Panther", "/Windows/Panther/Unattend", FOLDER, "/Windows/Setup/Scripts")
    return [
        f"{folder.rstrip('/')}/{name}"
        for folder in folders
        for name in root.listdir(folder)
        if name.lower().endswith(".xml") and root.is_file(f"{folder.rstrip('/')}/{name}")
    ]


def _passwords(data: bytes) -> bool:
    """Whether an answer file has a password that Setup has not struck out."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        return bool(re.search(rb"<(\w+:)?(Administrator)?Password>", data))
    for element in root.iter("{*}Password", "{*}AdministratorPassword"):
        texts = [part.strip() for part in element.itertext() if part.strip() not in ("", "true", "false")]
        if any(text != _DELETED for text in texts):
            return True
    return False
