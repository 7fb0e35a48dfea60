"""The steps of a definition as they are written: the kinds of `steps:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Tag

from pipeline.definition import contents, rules
from pipeline.definition.types import (
    Duration,
    Mode,
    Part,
    SecretName,
    Sha256,
    Text,
    Unique,
)


class StepPart(Part):
    """What all steps share."""

    name: Text | None = Field(default=None, description="The step's title; by default its file.")
    network: Literal["full", "none"] = Field(
        default="full", description="The guest's network access during the step."
    )
    timeout: Duration = Field(
        default_factory=lambda: 30 * 60,
        description="The step's time limit.",
        json_schema_extra={"default": "30 min"},
    )
    reboot: Literal["expected"] | None = Field(
        default=None, description="Windows: the step may restart the guest; it is then run again."
    )
    checkpoint: bool = Field(default=False, description="Windows: shut down after the step and commit a layer.")


#: The key of a step that may read secrets.
SECRETS: Any = Field(default=[], description="Secrets that the step may read, by the names in `secrets:`.")


class Playbook(StepPart):
    """Run an Ansible playbook on the guest."""

    playbook: Annotated[Text, AfterValidator(rules.existing("playbooks", "file"))] = Field(
        description="A file in playbooks/."
    )
    vars: Annotated[dict[str, Any], AfterValidator(rules.variables)] = Field(
        default={}, description="Extra variables for the playbook."
    )
    vault_password_file: Annotated[Text, AfterValidator(rules.existing("", "file"))] | None = Field(
        default=None,
        description="A file with the password of files that ansible-vault encrypted; no record contains it.",
    )
    environment: Annotated[list[Annotated[Text, AfterValidator(rules.environment_variable)]], Unique] = Field(
        default=[],
        description="Variables of the caller's environment that the playbook may read; their values are inputs.",
    )
    secrets: Annotated[list[SecretName], Unique] = SECRETS


class Script(StepPart):
    """Run a script in the guest, as root."""

    secrets: Annotated[list[SecretName], Unique] = SECRETS
    script: Annotated[Text, AfterValidator(rules.existing("", "file")), AfterValidator(contents.runs_something)] = (
        Field(description="A file, relative to the project.")
    )


class CopyPart(Part):
    """What to copy, and where to."""

    from_: Annotated[Text, AfterValidator(rules.existing("", "file or folder", folders=True))] = Field(
        alias="from", description="A file or a folder, relative to the project."
    )
    to: Annotated[Text, AfterValidator(rules.target)] = Field(description="The absolute path in the guest.")
    mode: Mode | None = Field(
        default=None,
        description='Octal, in quotes: "0644"; by default 0755 for a file with the executable bit, else 0644.',
    )


class Copy(StepPart):
    """Copy a file or a folder into the guest."""

    copy_: CopyPart = Field(alias="copy")


class Powershell(StepPart):
    """Run a PowerShell script in Windows, as the system's account."""

    powershell: Annotated[
        Text, AfterValidator(rules.existing("", "file")), AfterValidator(contents.runs_powershell)
    ] = Field(description="A file, relative to the project.")


class Cmd(StepPart):
    """Run a command line of Windows' cmd, as the system's account."""

    cmd: Annotated[Text, AfterValidator(rules.single_line), AfterValidator(contents.runs_command)] = Field(
        description="The command line."
    )


class MsiPart(Part):
    """A package, and what it is told."""

    path: Annotated[Text, AfterValidator(rules.existing("", "file")), AfterValidator(rules.package)] = Field(
        description="A file, relative to the project; its name ends in .msi."
    )
    sha256: Sha256 = Field(description="Its checksum.")
    arguments: list[Annotated[str, AfterValidator(rules.installer_property)]] = Field(
        default=[], description="Properties of the package, NAME=value.", examples=[["ADDLOCAL=ALL"]]
    )


class Msi(StepPart):
    """Install a package of Windows Installer's, silently."""

    msi: MsiPart


STEPS = ("playbook", "script", "copy", "powershell", "cmd", "msi")
Step = Annotated[
    Annotated[Playbook, Tag("step:playbook")]
    | Annotated[Script, Tag("step:script")]
    | Annotated[Copy, Tag("step:copy")]
    | Annotated[Powershell, Tag("step:powershell")]
    | Annotated[Cmd, Tag("step:cmd")]
    | Annotated[Msi, Tag("step:msi")],
    rules.discriminator("step", STEPS),
]
