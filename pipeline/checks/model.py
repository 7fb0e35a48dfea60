"""What a check is, what it sees, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal

from pipeline.base.errors import DiskError
from pipeline.disk.disk import Disk
from pipeline.disk.packages import Package
from pipeline.disk.partitions import ESP
from pipeline.disk.root import Root
from pipeline.disk.volumes import Volume
from pipeline.disk.windows import Windows, open_windows
from pipeline.systems.inspection import Inspection
from pipeline.systems.installed import InstalledSystem

#: `skip`: the check does not apply to this disk. `unchecked`: it applies, and could not look.
Status = Literal["pass", "warn", "fail", "skip", "unchecked", "waived"]
Severity = Literal["fail", "warn"]

#: What a disk is meant for. `any` leaves out what only Azure or Hyper-V asks for. What is for `ALL` is for the
#: profiles of systems from other folders too.
LINUX = ("azure-linux", "hyper-v", "any")
AZURE = ("azure-linux",)
WINDOWS = ("azure-windows",)
CLOUD = ("azure-linux", "hyper-v")
ALL = ("azure-linux", "azure-windows", "hyper-v", "any")
WINDOWS_TOO = ("azure-linux", "azure-windows", "hyper-v")

#: Where a rule comes from, as the list of checks shows it.
AZURE_DOC = "Azure: Prepare a Debian VHD; Information for non-endorsed distributions"
AZURE_LIMITS = "Azure: Prepare a Windows VHD or VHDX to upload; Upload a VHD"
AZURE_PREP = "Azure: Prepare a Windows VHD or VHDX to upload"
SYSPREP = "Microsoft: Sysprep (Generalize) a Windows installation; Windows Setup states"
LISA = "microsoft/lisa azure_image_standard.py"
WAAGENT = "Azure/WALinuxAgent deprovision"
CLOUD_INIT = "canonical/cloud-init, DataSourceAzure and clean"
SYSTEMD = "systemd: Building images safely"
HOUSE = "goldsmith: a master contains nothing of its build"


class Skip(Exception):
    """Raised by a check that does not apply to this disk; the text says why."""


class CannotLook(Exception):
    """Raised by a check whose subject is absent or cannot be read; the text says why. Never a pass, never a skip."""


@dataclass(frozen=True)
class User:
    name: str
    uid: int
    home: str
    shell: str

    @property
    def can_log_in(self) -> bool:
        return not self.shell.endswith(("nologin", "false", "sync"))


@dataclass
class Subject:
    """One disk under inspection, and what the checks share."""

    disk: Disk
    system: InstalledSystem
    profile: str
    accounts: frozenset[str]
    generations: frozenset[int]
    #: The systems that may be on the disk.
    known: Sequence[Inspection] = ()
    #: The ports that its firewall is to open, (protocol, number); None where nobody has said.
    ports: frozenset[tuple[str, int]] | None = None
    notes: list[str] = field(default_factory=list)
    #: What each kernel can drive before its root is mounted: unpacking an initramfs is worth doing once.
    drivers: dict[str, frozenset[str]] = field(default_factory=dict)
    #: Keys and tokens with their places, files of credentials, whose a file is: the disk is searched once.
    secrets: Any = None
    #: What a search of the disk has found already, where others have searched it.
    found: Any = None
    #: Each file with the (start, length) of its data, where that has been read already.
    places: list[tuple[str, list[tuple[int, int]]]] | None = None
    credentials: frozenset[str] | None = None
    shipped: Any = None
    files: tuple[str, ...] | None = None

    def note(self, text: str) -> None:
        """Evidence for a pass."""
        self.notes.append(text)

    @property
    def root(self) -> Root:
        return self.system.root

    @cached_property
    def windows(self) -> Windows:
        """Raises DiskError (no-windows-root)."""
        return open_windows(self.disk)

    @cached_property
    def esp(self) -> Volume | None:
        """The EFI system partition: by its type, or the FAT file system of an MBR disk typed 0xef."""
        numbers = {p.number for p in self.disk.partitions if p.type in (ESP, "0xef")}
        return next((volume for volume in self.disk.filesystems if volume.number in numbers), None)

    @cached_property
    def users(self) -> tuple[User, ...]:
        """The accounts of /etc/passwd. Raises CannotLook where it names none: every Linux has root."""
        found = []
        for line in self.root.text("/etc/passwd").splitlines():
            fields = line.split(":")
            if len(fields) >= 7 and fields[2].isdigit():
                found.append(User(fields[0], int(fields[2]), fields[5], fields[6].strip()))
        if not found:
            raise CannotLook("/etc/passwd is missing, or names no account")
        return tuple(found)

    @cached_property
    def homes(self) -> tuple[str, ...]:
        """Every folder that is or was somebody's home."""
        known = {user.home.rstrip("/") for user in self.users if user.can_log_in or user.uid >= 1000}
        known |= {"/root", "/etc/skel", *(f"/home/{name}" for name in self.root.listdir("/home"))}
        return tuple(sorted(home for home in known if home.count("/") and self.root.is_dir(home)))

    @cached_property
    def packages(self) -> dict[str, Package]:
        """The installed packages by name. Raises CannotLook where no record of packages is found."""
        found = {package.name: package for package in self.system.packages() if package.installed}
        if not found:
            raise CannotLook("no record of installed packages is found")
        return found

    @cached_property
    def started(self) -> frozenset[str]:
        """The services that start at boot, by name without .service. Raises DiskError (no-services)."""
        return frozenset(
            unit.name.removesuffix(".service") for unit in self.system.services() if unit.state == "enabled"
        )

    def lines(self, path: str, comments: str = "#") -> Iterator[str]:
        """The lines of a file that say something."""
        for raw in self.root.text(path).splitlines():
            line = raw.strip()
            if line and not line.startswith(tuple(comments)):
                yield line

    def files_in(self, folder: str, suffix: str = "") -> list[str]:
        return [f"{folder}/{name}" for name in self.root.listdir(folder) if name.endswith(suffix)]

    def has_data(self, path: str) -> bool:
        return has_data(self.root, path)


def has_data(root: Root, path: str) -> bool:
    """Is there a regular file with something in it?"""
    found = root.stat(path)
    return found is not None and found.type == "file" and found.size > 0


Run = Callable[[Subject], Iterator[str]]


@dataclass(frozen=True)
class Check:
    """`run` yields one line of evidence per finding; nothing yielded is a pass.

    `waivable` is false where other checks stand on this one: a waiver would accept what nobody has looked at.
    """

    id: str
    title: str
    why: str
    remedy: str
    source: str
    severity: Severity
    profiles: tuple[str, ...]
    needs_root: bool
    waivable: bool
    run: Run

    def is_for(self, profile: str) -> bool:
        return profile in self.profiles or self.profiles == ALL


@dataclass(frozen=True)
class CheckResult:
    """What came of one check on one disk. `why` is the check's reason, the same on every disk."""

    id: str
    title: str
    status: Status
    severity: Severity
    evidence: str
    remedy: str
    why: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


REGISTRY: dict[str, Check] = {}


def check(
    name: str,
    title: str,
    *,
    why: str,
    remedy: str,
    source: str,
    severity: Severity = "fail",
    profiles: tuple[str, ...] = LINUX,
    needs_root: bool = True,
    waivable: bool = True,
) -> Callable[[Run], Run]:
    """Register a check. `needs_root`: it reads files of the system's root."""

    def register(run: Run) -> Run:
        assert name not in REGISTRY, name
        REGISTRY[name] = Check(name, title, why, remedy, source, severity, profiles, needs_root, waivable, run)
        return run

    return register


def windows_check(
    name: str,
    title: str,
    *,
    why: str,
    remedy: str,
    source: str = AZURE_PREP,
    severity: Severity = "fail",
    waivable: bool = True,
) -> Callable[[Run], Run]:
    """Register a check of the azure-windows profile; one without a source comes from Azure's own list."""
    register = check(
        name,
        title,
        why=why,
        remedy=remedy,
        source=source,
        severity=severity,
        profiles=WINDOWS,
        waivable=waivable,
    )
    return lambda run: register(_without_stale_pass(run))


def _without_stale_pass(run: Run) -> Run:
    """A dirty hive whose log is missing shows stale values: they are evidence of a fault, and never of a pass."""

    @wraps(run)
    def judge(subject: Subject) -> Iterator[str]:
        stale = subject.windows.stale
        stale.clear()
        findings, stopped = [], None
        try:
            for finding in run(subject):
                findings.append(finding)
        except (CannotLook, DiskError) as error:
            # what was found before it stopped is kept
            stopped = error
        for hive in list(stale.values()):
            if not findings:
                raise stopped or hive.dirt()
            yield f"stale values: {hive.dirt().message}"
        yield from findings
        if stopped is not None:
            raise stopped

    return judge
