"""A definition as it is written: the shape of the YAML, key by key. The JSON schema comes from here.

A key that a later release fills is in the shape, so that editors know it, and is refused when used
(`Later`), so that it is never silently ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from pipeline.definition import rules
from pipeline.definition.measures import disk_size, duration, memory_size
from pipeline.definition.model import USER_DATA, CellName


class Part(BaseModel):
    """A mapping with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _remember(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(info.context, rules.Context):
            info.context.keys[id(data)] = cls.keys()
        return data

    @classmethod
    def keys(cls) -> list[str]:
        """The keys as they are written."""
        return [spec.alias or name for name, spec in cls.model_fields.items()]


# -- scalars ------------------------------------------------------------------------------------------------

Later = BeforeValidator(rules.not_built)
Unique = AfterValidator(rules.unique)
Text = Annotated[str, Field(min_length=1), AfterValidator(rules.not_blank)]
_SIZE_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)? ?(B|KiB|MiB|GiB|TiB)$", "examples": ["8 GiB"]}
_TIME_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)? ?(s|min|h)$", "examples": ["30 min"]}
DiskSize = Annotated[int, BeforeValidator(disk_size), WithJsonSchema(_SIZE_SCHEMA)]
MemorySize = Annotated[int, BeforeValidator(memory_size), WithJsonSchema(_SIZE_SCHEMA)]
Duration = Annotated[int, BeforeValidator(duration), WithJsonSchema(_TIME_SCHEMA)]
_SHA256_SCHEMA = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
Sha256 = Annotated[str, AfterValidator(rules.sha256), WithJsonSchema(_SHA256_SCHEMA)]
Generation = Annotated[int, AfterValidator(rules.generation), WithJsonSchema({"enum": [1, 2]})]
Account = Annotated[str, AfterValidator(rules.matches(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", "the name of an account"))]
CheckId = Annotated[str, AfterValidator(rules.matches(r"[a-z0-9]+(-[a-z0-9]+)*", "the id of a check"))]
Package = Annotated[str, AfterValidator(rules.matches(r"[a-z0-9][a-z0-9+.-]+", "the name of a Debian package"))]
Suite = Annotated[str, AfterValidator(rules.matches(r"[a-z][a-z0-9-]*", "the name of a Debian suite"))]
Mode = Annotated[
    str,
    AfterValidator(rules.matches(r"0?[0-7]{3,4}", 'an octal mode in quotes, such as "0644"')),
    WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3,4}$"}),
]

# -- sources ------------------------------------------------------------------------------------------------


class Debian(Part):
    """A Debian bootstrapped from its archive, no installer."""

    suite: Suite = Field(description="The release by its code name: bookworm, trixie.")
    packages: Annotated[list[Package], Unique] = Field(default=[], description="Packages beside the base system.")


class Disk(Part):
    """A disk image that somebody else made. Give a path or a url."""

    path: Annotated[Text, AfterValidator(rules.existing("", "file"))] | None = Field(
        default=None, description="A file, relative to the project."
    )
    url: Annotated[str, AfterValidator(rules.web_address)] | None = Field(
        default=None, description="Where to download it."
    )
    sha256: Sha256 | None = Field(default=None, description="Its checksum; a url must have one.")
    format: Literal["qcow2", "raw", "vhd", "vhdx", "vmdk"] | None = Field(
        default=None, description="Only where the file's name does not end in it."
    )


class Iso(Part):
    """An ISO image (not built yet)."""

    path: Text = Field(description="A file, relative to the project.")
    sha256: Sha256 = Field(description="Its checksum.")


class FromDebian(Part):
    """Bootstrap Debian."""

    debian: Debian


class FromDisk(Part):
    """Begin with a foreign disk."""

    disk: Disk


class FromMaster(Part):
    """Begin with a version in the gallery."""

    master: Annotated[str, AfterValidator(rules.master)] = Field(
        description="IMAGE, IMAGE@golden, IMAGE@candidate or IMAGE@VERSION.", examples=["debian-12@golden"]
    )


class FromIso(Part):
    """Install from a medium (not built yet)."""

    iso: Annotated[Iso, Later] = Field(description="The installation medium.")
    drivers: Iso | None = Field(default=None, description="The medium with the virtio drivers.")
    edition: Text | None = Field(default=None, description="The edition to install.")


SOURCES = ("debian", "disk", "master", "iso")
Source = Annotated[
    Annotated[FromDebian, Tag("source:debian")]
    | Annotated[FromDisk, Tag("source:disk")]
    | Annotated[FromMaster, Tag("source:master")]
    | Annotated[FromIso, Tag("source:iso")],
    rules.told_apart_by("source", SOURCES),
]

# -- steps --------------------------------------------------------------------------------------------------


class StepPart(Part):
    """What all steps share."""

    name: Text | None = Field(default=None, description="What to call the step; by default its file.")
    network: Literal["full", "none"] = Field(default="full", description="What the guest reaches meanwhile.")
    timeout: Duration = Field(
        default_factory=lambda: 30 * 60,
        description="After which the step has failed.",
        json_schema_extra={"default": "30 min"},
    )
    reboot: Annotated[Literal["expected"], Later] | None = Field(
        default=None, description="Not built yet: the step may restart the guest."
    )


class Playbook(StepPart):
    """Run an Ansible playbook on the guest."""

    playbook: Annotated[Text, AfterValidator(rules.existing("playbooks", "file"))] = Field(
        description="A file in playbooks/."
    )
    vars: Annotated[dict[str, Any], AfterValidator(rules.variables)] = Field(
        default={}, description="Extra variables for the playbook."
    )
    secrets: Annotated[list[Text], Later] | None = Field(
        default=None, description="Not built yet: names of secrets that the step may read."
    )


class Script(StepPart):
    """Run a script in the guest, as root."""

    script: Annotated[Text, AfterValidator(rules.existing("", "file"))] = Field(
        description="A file, relative to the project."
    )


class CopyPart(Part):
    """What to copy, and where to."""

    from_: Annotated[Text, AfterValidator(rules.existing("", "file or folder", folders=True))] = Field(
        alias="from", description="A file or a folder, relative to the project."
    )
    to: Annotated[Text, AfterValidator(rules.target)] = Field(description="Its absolute path in the guest.")
    mode: Mode | None = Field(
        default=None, description='Octal, in quotes: "0644"; by default each file keeps its own.'
    )


class Copy(StepPart):
    """Copy a file or a folder into the guest."""

    copy_: CopyPart = Field(alias="copy")


class Powershell(StepPart):
    """Run a PowerShell script (not built yet)."""

    powershell: Annotated[Text, Later] = Field(description="A file in playbooks/.")


class Cmd(StepPart):
    """Run a command of Windows (not built yet)."""

    cmd: Annotated[Text, Later] = Field(description="The command line.")


STEPS = ("playbook", "script", "copy", "powershell", "cmd")
Step = Annotated[
    Annotated[Playbook, Tag("step:playbook")]
    | Annotated[Script, Tag("step:script")]
    | Annotated[Copy, Tag("step:copy")]
    | Annotated[Powershell, Tag("step:powershell")]
    | Annotated[Cmd, Tag("step:cmd")],
    rules.told_apart_by("step", STEPS),
]

# -- expectations -------------------------------------------------------------------------------------------


class Http(Part):
    """A page that the clone must serve."""

    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=80, description="The TCP port.")
    path: Annotated[str, AfterValidator(rules.web_path)] = Field(default="/", description="The page.")
    contains: Text | None = Field(default=None, description="Text that the page must hold.")
    status: Annotated[int, Field(ge=100, le=599)] = Field(default=200, description="The status it must answer.")


class ExpectHttp(Part):
    """Expect a page."""

    http: Http


class ExpectCommand(Part):
    """Expect a command to end with 0."""

    command: Text = Field(description="A shell command that runs in the clone.")


EXPECTATIONS = ("http", "command")
Expectation = Annotated[
    Annotated[ExpectHttp, Tag("expect:http")] | Annotated[ExpectCommand, Tag("expect:command")],
    rules.told_apart_by("expect", EXPECTATIONS),
]

#: The elements that pydantic puts into a fault's place for the member of a union.
TAGS = frozenset(
    f"{prefix}:{kind}"
    for prefix, kinds in (("source", SOURCES), ("step", STEPS), ("expect", EXPECTATIONS))
    for kind in kinds
)

# -- the rest -----------------------------------------------------------------------------------------------


class MachinePart(Part):
    """The virtual machine that builds and proves."""

    cpus: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="Virtual processors.")
    memory: MemorySize = Field(
        default_factory=lambda: 2 * 1024**3,
        description="Memory, a whole MiB.",
        json_schema_extra={"default": "2 GiB"},
    )


class SecretPart(Part):
    """Where a secret comes from (not built yet)."""

    file: Text | None = Field(default=None, description="A file.")
    env: Text | None = Field(default=None, description="A variable of the environment.")
    command: Text | None = Field(default=None, description="A command that prints it.")


class Oobe(Part):
    """Windows' first boot (not built yet)."""

    skip: bool = Field(default=True, description="Ask nothing.")


class GeneralizePart(Part):
    """How the guest is made a master."""

    agent: Literal["waagent", "none", "outside"] = Field(
        default="waagent",
        description="Whose deprovisioning runs. outside: the source's disk has been generalized already.",
    )
    mode_vm: Annotated[bool, Later] | None = Field(default=None, description="Not built yet: sysprep /mode:vm.")
    oobe: Annotated[Oobe, Later] | None = Field(default=None, description="Not built yet: Windows' first boot.")


class FirstBootPart(Part):
    """What the master does at a clone's first boot: it pulls its configuration and applies it."""

    apply: Annotated[Text, AfterValidator(rules.existing("", "file"))] = Field(
        description="A program, relative to the project, that gets the configuration on its standard input."
    )
    from_: Annotated[str, AfterValidator(rules.configuration)] = Field(
        default=USER_DATA,
        alias="from",
        description="userdata, of Azure's metadata service, or an address that begins with http://.",
    )
    deadline: Duration = Field(
        default_factory=lambda: 5 * 60,
        description="After which it has failed, until the next boot.",
        json_schema_extra={"default": "5 min"},
    )
    sample: Text | None = Field(
        default=None, description="What prove gives its clones; {{ clone }} becomes the clone's host name."
    )


class KeepPart(Part):
    """What the gallery keeps."""

    versions: Annotated[int, Field(ge=1)] | None = Field(default=None, description="At most so many versions.")
    days: Annotated[int, Field(ge=1)] | None = Field(default=None, description="At most so many days.")


class RefreshPart(Part):
    """How the night brings the image up to date."""

    mode: Literal["rebuild", "patch"] = Field(
        default="rebuild",
        description="patch: golden is updated and generalized anew where only packages have changed.",
    )
    steps: list[Step] = Field(default=[], description="What a patch runs; by default the distribution's updates.")
    cold_days: Annotated[int, Field(ge=0)] = Field(
        default=7, description="After so many days the night reuses no layer, and compares; 0 is never."
    )


class Updates(Part):
    """Windows updates (not built yet)."""

    only: Literal["security", "all"] = Field(default="all", description="Which.")
    deadline: Duration | None = Field(default=None, description="After which they have failed.")


class DataDiskPart(Part):
    """A data disk beside the OS disk."""

    lun: Annotated[int, Field(ge=0, le=63)] = Field(description="Its logical unit number.")
    size: DiskSize = Field(description="Its virtual size, a whole MiB.")
    caching: Literal["None", "ReadOnly", "ReadWrite"] = Field(default="None", description="Host caching in Azure.")
    filesystem: Literal["ext4"] | None = Field(
        default=None, description="What to format it with; by default nothing."
    )
    label: Annotated[str, AfterValidator(rules.matches(r"[A-Za-z0-9_.-]{1,16}", "a label of ext4"))] | None = Field(
        default=None, description="The file system's label."
    )


class Written(Part):
    """A goldsmith image definition."""

    goldsmith: Annotated[int, AfterValidator(rules.format_version), WithJsonSchema({"const": rules.FORMAT})] = Field(
        description="The format's version."
    )
    summary: Text | None = Field(default=None, description="One line on what the image is.")
    os: Annotated[Literal["linux", "windows"], AfterValidator(rules.linux_only)] = Field(
        default="linux", description="The operating system; windows is not built yet."
    )
    source: Source = Field(description="What the image begins with; exactly one of its kinds.")
    disk: DiskSize | None = Field(
        default=None, description="The virtual size, a whole MiB; by default the source's, 8 GiB for debian."
    )
    generations: Annotated[list[Generation], Field(min_length=1), Unique] = Field(
        default=[1, 2], description="Hyper-V generations that the master boots in: 1 is BIOS, 2 is UEFI."
    )
    secure_boot: Annotated[bool, Later] | None = Field(default=None, description="Not built yet: Secure Boot.")
    tpm: Annotated[bool, Later] | None = Field(default=None, description="Not built yet: a virtual TPM 2.0.")
    machine: MachinePart = Field(default_factory=MachinePart)
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        default="auto", description="auto takes KVM where a measurement finds it working."
    )
    locale: Annotated[Text, Later] | None = Field(default=None, description="Not built yet: the locale.")
    timezone: Annotated[Text, Later] | None = Field(default=None, description="Not built yet: the time zone.")
    updates: Annotated[Updates, Later] | None = None
    steps: list[Step] = Field(default=[], description="What happens in the guest, in order; each commits a layer.")
    secrets: Annotated[dict[str, SecretPart], Later] | None = Field(
        default=None, description="Not built yet: secrets by name."
    )
    generalize: GeneralizePart = Field(default_factory=GeneralizePart)
    waive: dict[CheckId, Text] = Field(default={}, description="Checks that may fail, and why: id to reason.")
    prove: Annotated[list[CellName], Field(min_length=1), Unique] | None = Field(
        default=None, description="Where clones are started before the master is golden; by default every generation."
    )
    expect: list[Expectation] = Field(default=[], description="What prove must see in the running clone.")
    first_boot: FirstBootPart | None = None
    keep: KeepPart = Field(default_factory=KeepPart)
    refresh: RefreshPart = Field(default_factory=RefreshPart)
    accounts: Annotated[list[Account], Unique] = Field(
        default=[], description="Accounts that may ship; any other is a finding."
    )
    data_disks: list[DataDiskPart] = Field(default=[], description="Disks that go with the OS disk.")
