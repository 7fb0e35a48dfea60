"""A definition as it is written: the shape of the YAML, key by key. The JSON schema comes from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Tag, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from pipeline.definition import contents, rules, system_rules
from pipeline.definition.model import USER_DATA, CellName, GeneralizeAgent, TestSuiteName
from pipeline.definition.schema_sources import SOURCES, Source
from pipeline.definition.schema_steps import STEPS, Step
from pipeline.definition.types import (
    Account,
    CheckId,
    DiskSize,
    Duration,
    Generation,
    KeyYear,
    MemorySize,
    Part,
    SecretName,
    TargetName,
    Text,
    Unique,
)

# -- expectations -------------------------------------------------------------------------------------------


class Http(Part):
    """A page that the clone must serve."""

    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=80, description="The TCP port.")
    path: Annotated[str, AfterValidator(rules.web_path)] = Field(default="/", description="The page.")
    contains: Text | None = Field(default=None, description="Text that the page must contain.")
    status: Annotated[int, Field(ge=100, le=599)] = Field(default=200, description="The expected HTTP status.")


class ExpectHttp(Part):
    """Expect a page."""

    http: Http


class ExpectCommand(Part):
    """Expect a command to end with 0."""

    command: Text = Field(description="A shell command that runs in the clone.")


EXPECTATIONS = ("http", "command")
Expectation = Annotated[
    Annotated[ExpectHttp, Tag("expect:http")] | Annotated[ExpectCommand, Tag("expect:command")],
    rules.discriminator("expect", EXPECTATIONS),
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
    memory: MemorySize | None = Field(
        default=None, description="Memory, a whole number of MiB; by default 2 GiB, 4 GiB for Windows."
    )
    timeout_factor: Annotated[float, Field(gt=0, le=10)] = Field(
        default=1.0, description="Windows: a factor for every deadline, for a host that is slower than most."
    )
    patience: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=None, description="The former name of timeout_factor.", json_schema_extra={"deprecated": True}
    )


class SecretPart(Part):
    """Where a secret comes from; exactly one of the keys. It is read when a step needs it."""

    file: Text | None = Field(default=None, description="A file, relative to the project; its bytes are the secret.")
    env: Text | None = Field(default=None, description="A variable of the environment in which goldsmith runs.")
    command: Text | None = Field(
        default=None,
        description="A shell command that prints it; it runs in the project's folder as the owner of the definition.",
    )


class Oobe(Part):
    """Windows' first boot."""

    skip: bool = Field(
        default=False,
        description="Keep an answer file on the disk, for clones without Azure's medium: they ask no questions.",
    )


class GeneralizePart(Part):
    """How the guest is made a master."""

    agent: GeneralizeAgent | None = Field(
        default=None,
        description="The tool that deprovisions the guest: by default waagent, for Windows sysprep. outside: the "
        "source's disk is already generalized.",
    )
    mode_vm: bool = Field(
        default=False,
        description="Windows: sysprep /mode:vm, for clones only on the hypervisor that built the image.",
    )
    oobe: Oobe = Field(default_factory=Oobe)


class FirstBootPart(Part):
    """What the master does at a clone's first boot: it pulls its configuration and applies it."""

    apply: Annotated[Text, AfterValidator(rules.existing("", "file")), AfterValidator(contents.readable)] = Field(
        description="A program, relative to the project, that reads the configuration from its standard input."
    )
    from_: Annotated[str, AfterValidator(rules.configuration)] = Field(
        default=USER_DATA,
        alias="from",
        description="userdata (of Azure's metadata service), or an http:// address.",
    )
    deadline: Duration = Field(
        default_factory=lambda: 5 * 60,
        description="The time limit; after it, the next boot tries again.",
        json_schema_extra={"default": "5 min"},
    )
    sample: Text | None = Field(
        default=None,
        description="The configuration that prove gives its clones; {{ clone }} becomes the clone's host name.",
    )


class KeepPart(Part):
    """What the gallery keeps."""

    versions: Annotated[int, Field(ge=1)] | None = Field(default=None, description="The maximum number of versions.")
    days: Annotated[int, Field(ge=1)] | None = Field(default=None, description="The maximum age in days.")


class RefreshPart(Part):
    """How the night brings the image up to date."""

    mode: Literal["rebuild", "patch"] = Field(
        default="rebuild",
        description="patch: if only packages have changed, golden is updated and generalized again.",
    )
    steps: list[Step] = Field(default=[], description="The steps of a patch; by default the distribution's updates.")
    cold_days: Annotated[int, Field(ge=0)] = Field(
        default=7,
        description="After so many days the refresh rebuilds without reusing layers and compares; 0 means never.",
    )


class Updates(Part):
    """Windows' updates, before the steps."""

    only: Literal["security", "all"] = Field(
        default="all",
        description="security: security and critical updates; all: all updates that Windows installs automatically.",
    )
    deadline: Duration = Field(
        default_factory=lambda: 3 * 3600,
        description="The time limit for all updates and restarts.",
        json_schema_extra={"default": "3 h"},
    )


class PortPart(Part):
    """A port that is open to everybody."""

    port: Annotated[int, Field(ge=1, le=65535)] = Field(description="Its number.")
    protocol: Literal["tcp", "udp"] = Field(default="tcp", description="Its protocol.")
    name: (
        Annotated[str, AfterValidator(rules.matches(r"[A-Za-z0-9][A-Za-z0-9 ._()-]{0,59}", "a rule's name"))] | None
    ) = Field(default=None, description="The name of the firewall's rule.")


class NetworkPart(Part):
    """What the build's guest may reach beside the public network and the host's own mirrors and proxies."""

    allow: Annotated[list[Annotated[str, AfterValidator(rules.allowed)]], Unique] = Field(
        default=[], description="Private destinations: 10.1.2.0/24, 10.1.2.3 or 10.1.2.3:8080."
    )


class DataDiskPart(Part):
    """A data disk beside the OS disk."""

    lun: Annotated[int, Field(ge=0, le=63)] = Field(description="The logical unit number.")
    size: DiskSize = Field(description="The virtual size, a whole number of MiB.")
    caching: Literal["None", "ReadOnly", "ReadWrite"] = Field(default="None", description="Azure's cache mode.")
    filesystem: Literal["ext4"] | None = Field(default=None, description="The file system; by default none.")
    label: Annotated[str, AfterValidator(rules.matches(r"[A-Za-z0-9_.-]{1,16}", "a label of ext4"))] | None = Field(
        default=None, description="The file system's label."
    )


class SystemNames:
    """In the JSON schema: the names of the systems that are registered when it is written."""

    @staticmethod
    def __get_pydantic_json_schema__(_schema: Any, _handler: Any) -> dict[str, Any]:
        return {"enum": list(system_rules.names()), "type": "string"}


class Written(Part):
    """A goldsmith image definition."""

    goldsmith: Annotated[int, AfterValidator(rules.format_version), WithJsonSchema({"const": rules.FORMAT})] = Field(
        description="The format's version."
    )
    extends: Text | None = Field(default=None, description="A definition in images/ whose keys this one inherits.")
    parameters: dict[str, Any] = Field(
        default={}, description="Values for ${name} in the other keys: name to default, or to type, default and env."
    )
    matrix: dict[str, list[Any]] | list[dict[str, Any]] | None = Field(
        default=None, description="One image for each combination of values, or for each item of a list."
    )
    summary: Text | None = Field(default=None, description="A description of one line.")
    os: Annotated[str, AfterValidator(system_rules.known_system), SystemNames] = Field(
        default=system_rules.DEFAULT, description="The operating system."
    )
    source: Source = Field(description="The base of the image; exactly one kind.")
    disk: DiskSize | None = Field(
        default=None,
        description="The virtual size, a whole number of MiB; by default the source's, 8 GiB for debian, 64 GiB "
        "for iso.",
    )
    generations: Annotated[list[Generation], Field(min_length=1), Unique] | None = Field(
        default=None,
        description="Hyper-V generations in which the master boots: 1 is BIOS, 2 is UEFI. By default both; a "
        "Windows image has one, by default 2.",
    )
    secure_boot: bool | None = Field(
        default=None, description="Windows: install and test under Secure Boot; by default true on generation 2."
    )
    secure_boot_keys: Annotated[list[KeyYear], Field(min_length=1), Unique] | None = Field(
        default=None,
        description="The years of Microsoft's Secure Boot keys; `goldsmith prove` boots the image on firmware that "
        "has the keys of one year only. By default both; for Windows 2011.",
    )
    tpm: bool | None = Field(
        default=None, description="Windows: install and test with a TPM 2.0; by default true on generation 2."
    )
    machine: MachinePart = Field(default_factory=MachinePart)
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        default="auto", description="auto uses KVM if a measurement shows that it works."
    )
    locale: Annotated[
        str, AfterValidator(rules.matches(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", "a locale such as en-US"))
    ] = Field(default="en-US", description="Windows: language, formats and keyboard.")
    timezone: Text = Field(default="UTC", description="Windows: the time zone, by its Windows name.")
    updates: Updates | None = Field(default=None, description="Windows: updates that are installed before the steps.")
    steps: list[Step] = Field(default=[], description="The steps in the guest, in order; each makes a layer.")
    secrets: dict[SecretName, SecretPart] = Field(
        default={}, description="Secrets by name, which steps read by their own key `secrets`; no record has a value."
    )
    generalize: GeneralizePart = Field(default_factory=GeneralizePart)
    waive: dict[CheckId, Text] = Field(
        default={}, description="Checks that may fail, with the reasons: id to reason."
    )
    prove: Annotated[list[CellName], Field(min_length=1), Unique] | None = Field(
        default=None, description="The test targets on which clones must pass; by default every generation."
    )
    test_suites: Annotated[list[TestSuiteName], Unique] = Field(
        default=[],
        description="Test suites of others that a clone must pass, such as lisa; `goldsmith suite install` installs "
        "them.",
    )
    #: The name of a registered format. While goldsmith ships one format, no schema or page speaks of it.
    output: SkipJsonSchema[Annotated[str, AfterValidator(rules.output_format)] | None] = None
    expect: list[Expectation] = Field(default=[], description="Conditions that a running clone must meet.")
    first_boot: FirstBootPart | None = None
    keep: KeepPart = Field(default_factory=KeepPart)
    publish: Annotated[list[TargetName], Unique] = Field(
        default=[], description="Targets of publish.yaml to which the refresh publishes the golden version."
    )
    refresh: RefreshPart = Field(default_factory=RefreshPart)
    accounts: Annotated[list[Account], Unique] = Field(
        default=[], description="Accounts that may ship; inspect reports every other account."
    )
    ports: list[PortPart] = Field(default=[], description="Windows: ports that the firewall opens.")
    data_disks: list[DataDiskPart] = Field(default=[], description="Disks beside the OS disk.")
    network: NetworkPart = Field(default_factory=NetworkPart)
