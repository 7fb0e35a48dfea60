"""A definition as the pipeline uses it: frozen, typed, sizes in bytes, times in seconds, paths absolute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.base.disk_format import DEFAULT_OUTPUT, DiskFormat
from pipeline.definition.destinations import Destination

Network = Literal["full", "none"]
#: What generalizes a guest; `outside`: its disk was generalized before it came here.
GeneralizeAgent = Literal["waagent", "none", "outside", "sysprep"]
SourceFormat = Literal["qcow2", "raw", "vhd", "vhdx", "vmdk"]
#: Test suites of others that can be run against a clone.
TestSuiteName = Literal["lisa"]
#: Where a clone can be started to prove a master.
CellName = Literal[
    "gen1",
    "gen2",
    "gen2-secure",
    "gen2-keys-2011",
    "gen2-keys-2023",
    "gen1-two-cards",
    "gen2-nvme",
    "gen2-upgrade",
    "gen1-nocloud",
    "gen2-nocloud",
    "foreign",
    "start",
]
#: The generation that an image must be of for it.
TARGET_GENERATION: Mapping[str, int] = {
    "gen1": 1,
    "gen2": 2,
    "gen2-secure": 2,
    "gen2-keys-2011": 2,
    "gen2-keys-2023": 2,
    "gen1-two-cards": 1,
    "gen2-nvme": 2,
    "gen2-upgrade": 2,
    "gen1-nocloud": 1,
    "gen2-nocloud": 2,
    "foreign": 1,
    "start": 1,
}


#: The source of a first boot's configuration that is Azure's metadata service.
USER_DATA = "userdata"


@dataclass(frozen=True)
class DebianSource:
    """A Debian bootstrapped from its archive."""

    suite: str
    packages: tuple[str, ...] = ()
    check_valid_until: bool = True


@dataclass(frozen=True)
class DataDiskFile:
    """The file of a data disk that belongs to a foreign disk; `path` is absolute."""

    lun: int
    path: Path
    format: SourceFormat


@dataclass(frozen=True)
class DiskSource:
    """A foreign disk: exactly one of `path` (absolute) and `url`; a URL always has its `sha256` (lower case)."""

    path: Path | None
    url: str | None
    sha256: str | None
    format: SourceFormat
    data: tuple[DataDiskFile, ...] = ()


@dataclass(frozen=True)
class MasterSource:
    """A version of the gallery, by its number (`2026.1121.0`) or by channel (`golden`, `candidate`)."""

    image: str
    channel_or_version: str = "golden"

    @property
    def is_channel(self) -> bool:
        """Whether the source moves when its image is built again; a numbered version never does."""
        return not self.channel_or_version[0].isdigit()

    def __str__(self) -> str:
        return f"{self.image}@{self.channel_or_version}"


@dataclass(frozen=True)
class IsoSource:
    """A Windows installation medium, virtio-win's, and the edition to install; paths are absolute."""

    path: Path
    sha256: str
    drivers: Path
    drivers_sha256: str
    edition: str
    #: `kms`, or the absolute path of a file that holds the product key, which is a secret.
    product_key: str | Path | None = None


Source = DebianSource | DiskSource | MasterSource | IsoSource


@dataclass(frozen=True)
class SecretSource:
    """Where a secret comes from; exactly one is set. `file` is absolute, `command` is a line of sh."""

    file: Path | None = None
    env: str | None = None
    command: str | None = None


@dataclass(frozen=True, kw_only=True)
class StepBase:
    """What all steps share. `file` is what the step runs or copies; `timeout` is in seconds.

    `secrets`: the names of those that it may read.
    """

    kind: ClassVar[str]
    file: Path
    name: str | None = None
    network: Network = "full"
    timeout: int = 30 * 60
    reboots: bool = False  # Windows: it may restart the guest
    checkpoint: bool = False  # Windows: a layer is committed behind it
    secrets: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """A short name for people: the step's own, or its file's."""
        return self.name or self.file.name


@dataclass(frozen=True, kw_only=True)
class PlaybookStep(StepBase):
    """An Ansible playbook; `playbook` is as written, relative to playbooks/; `vars` go in as extra vars.

    `vault_password_file` is absolute; its content is a secret and in no record. `environment` holds the variables of
    the caller that the definition names, and no others.
    """

    kind: ClassVar[str] = "playbook"
    playbook: str
    vars: Mapping[str, Any] = field(default_factory=dict)
    vault_password_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The step's own name, or the playbook as the definition writes it."""
        return self.name or self.playbook


@dataclass(frozen=True, kw_only=True)
class ScriptStep(StepBase):
    """A script that runs in the guest as root; `script` is as written, relative to the project."""

    kind: ClassVar[str] = "script"
    script: str


@dataclass(frozen=True, kw_only=True)
class CopyStep(StepBase):
    """A file or a folder copied to the absolute path `to`; `mode` is octal text, None keeps each file's own."""

    kind: ClassVar[str] = "copy"
    copy_from: str
    to: str
    mode: str | None = None

    @property
    def title(self) -> str:
        """The step's own name, or where the copy goes."""
        return self.name or self.to


@dataclass(frozen=True, kw_only=True)
class PowershellStep(StepBase):
    """A PowerShell script that runs in Windows as the system; `script` is as written, relative to the project."""

    kind: ClassVar[str] = "powershell"
    script: str


@dataclass(frozen=True, kw_only=True)
class CmdStep(StepBase):
    """A command line of Windows' cmd. It has no file: `file` is the definition."""

    kind: ClassVar[str] = "cmd"
    cmd: str

    @property
    def title(self) -> str:
        """The step's own name, or how the command begins."""
        return self.name or self.cmd[:40].strip()


@dataclass(frozen=True, kw_only=True)
class MsiStep(StepBase):
    """A package of Windows Installer's; `path` is as written, `arguments` are properties, NAME=value."""

    kind: ClassVar[str] = "msi"
    path: str
    sha256: str
    arguments: tuple[str, ...] = ()


Step = PlaybookStep | ScriptStep | CopyStep | PowershellStep | CmdStep | MsiStep


@dataclass(frozen=True)
class HttpExpectation:
    """A page that the running clone must serve: `status`, and `contains` somewhere in the body."""

    port: int
    path: str = "/"
    contains: str = ""
    status: int = 200


@dataclass(frozen=True)
class CommandExpectation:
    """A command that must end with 0 in the running clone."""

    command: str


Expectation = HttpExpectation | CommandExpectation


@dataclass(frozen=True)
class Machine:
    """The virtual machine that builds and proves; `memory` is in bytes.

    `timeout_factor` multiplies the deadlines of a Windows guest.
    """

    cpus: int = 2
    memory: int = 2 * 1024**3
    timeout_factor: float = 1.0


@dataclass(frozen=True)
class Generalize:
    """Whose own deprovisioning runs inside the guest; `outside`: somebody else did it, no guest is booted.

    Of sysprep: `mode_vm` binds the master to this hypervisor, `skip_oobe` keeps an answer file on the disk, for the
    first boot.
    """

    agent: GeneralizeAgent = "waagent"
    mode_vm: bool = False
    skip_oobe: bool = False


@dataclass(frozen=True)
class FirstBoot:
    """The adapter in the master: at a clone's first boot, `apply` gets on its input what `source` gives.

    `source` is USER_DATA or an address; `deadline` is in seconds. `sample` is what a proof gives its clones.
    """

    apply: Path
    source: str = USER_DATA
    deadline: int = 5 * 60
    sample: str = ""


@dataclass(frozen=True)
class Updates:
    """Windows' updates: which of them, and the seconds that all of it may take."""

    only: Literal["security", "all"] = "all"
    deadline: int = 3 * 3600

    #: What people call it where a step's title is asked for.
    title: ClassVar[str] = "updates"


@dataclass(frozen=True)
class Port:
    """A port that the guest's firewall lets everybody in at; `name` is what the rule is called."""

    port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    name: str = ""


@dataclass(frozen=True)
class DataDisk:
    """A disk beside the OS disk, as Azure knows it; `size` is in bytes. Without a `filesystem` it is made blank."""

    lun: int
    size: int
    caching: Literal["None", "ReadOnly", "ReadWrite"] = "None"
    filesystem: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Keep:
    """How many versions, and for how many days, the gallery keeps; None: without a limit."""

    versions: int | None = None
    days: int | None = None


@dataclass(frozen=True)
class Refresh:
    """How the night brings an image up to date.

    A patch runs `steps` in golden, or the distribution's updates where there are none. After `cold_days` the night
    builds the image with no layer reused; 0 is never.
    """

    mode: Literal["rebuild", "patch"] = "rebuild"
    steps: tuple[Step, ...] = ()
    cold_days: int = 7


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One image. `path` and `project` are absolute; `disk` is bytes, or None for the source's own size.

    `inherited` are the other files that it is merged from, lowest first; `parameters` are the values in it, and
    `variables` those of the environment that set some of them.
    """

    name: str
    path: Path
    project: Path
    source: Source
    summary: str = ""
    os: str = "linux"
    disk: int | None = None
    generations: tuple[int, ...] = (1, 2)
    secure_boot: bool = False
    secure_boot_keys: tuple[int, ...] = (2011, 2023)  # the years of Microsoft's keys that must start it
    tpm: bool = False
    locale: str = "en-US"
    timezone: str = "UTC"
    machine: Machine = Machine()
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    updates: Updates | None = None
    steps: tuple[Step, ...] = ()
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)
    generalize: Generalize = Generalize()
    waive: dict[str, str] = field(default_factory=dict)
    #: What the master is shipped in.
    output: DiskFormat = DEFAULT_OUTPUT
    prove: tuple[str, ...] = ("gen1", "gen2")
    test_suites: tuple[str, ...] = ()  # of others, run against a clone before the master is golden
    keep: Keep = Keep()
    publish: tuple[str, ...] = ()
    refresh: Refresh = Refresh()
    accounts: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    data_disks: tuple[DataDisk, ...] = ()
    expect: tuple[Expectation, ...] = ()
    first_boot: FirstBoot | None = None
    #: Private destinations that the build's guest may reach, beside those of the host's own configuration.
    allow: tuple[Destination, ...] = ()
    inherited: tuple[Path, ...] = ()
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
