"""`slurm.yaml` of a project: where and how `--executor slurm` runs its jobs.

exchange: /srv/goldsmith                 # a folder that this host and all workers reach under this path
goldsmith: /usr/bin/goldsmith            # the words of the command on the workers (default: goldsmith)
options: "--partition=images"            # more options of sbatch, for every job (default: none)
kvm-options: "--gres=kvm:1"              # more options for images whose definition demands KVM (default: none)
minutes: 240                             # the time limit of a job (default: the partition's)
workers: {host1: keys/host1.pub, host2: keys/host2.pub}  # node names of Slurm, and the key that signs there
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.base.errors import UsageError
from pipeline.definition.diagnostics import DefinitionError
from pipeline.definition.document import MAX_BYTES, parse

#: The name of the file in a project's folder.
FILE = "slurm.yaml"
#: A node's name: it becomes a word of command lines and a part of messages.
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


@dataclass(frozen=True)
class SlurmSettings:
    """The settings. `workers`: for each node the file of the public key that verifies what was made there."""

    exchange: Path
    workers: Mapping[str, Path]
    goldsmith: tuple[str, ...] = ("goldsmith",)
    options: tuple[str, ...] = ()
    kvm_options: tuple[str, ...] = ()
    minutes: int | None = None


def _words(text: object) -> list[str]:
    if not isinstance(text, str):
        raise ValueError("is not a text")
    words = shlex.split(text)
    if not words:
        raise ValueError("is empty")
    return words


def _absolute(text: object) -> Path:
    if not isinstance(text, str) or not text.startswith("/"):
        raise ValueError("is not an absolute path")
    return Path(text)


_Words = Annotated[list[str], BeforeValidator(_words)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    exchange: Annotated[Path, BeforeValidator(_absolute)]
    workers: Annotated[dict[NodeName, str], Field(min_length=1)]
    goldsmith: _Words = ["goldsmith"]
    options: _Words = []
    kvm_options: _Words = Field(default=[], alias="kvm-options")
    minutes: Annotated[int, Field(ge=1)] | None = None


def read_settings(project: Path) -> SlurmSettings:
    """The settings of a project; paths of keys are relative to it. Raises UsageError (slurm-undefined),
    DefinitionError.
    """
    path = project / FILE
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist",
            name="slurm-undefined",
            hint="write it; the page many-images.md of the documentation shows a whole file",
        )
    with path.open("rb") as file:
        document = parse(file.read(MAX_BYTES + 1), str(path))
    if document.faults:
        raise DefinitionError(document.faults)
    try:
        shape = _File.model_validate(document.data)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            document.add(tuple(each["loc"]), each["msg"].removeprefix("Value error, "), "see docs/many-images.md")
        raise DefinitionError(document.faults) from None
    return SlurmSettings(
        shape.exchange,
        {node: (project / key).absolute() for node, key in shape.workers.items()},
        tuple(shape.goldsmith),
        tuple(shape.options),
        tuple(shape.kvm_options),
        shape.minutes,
    )
