"""What the owner of the gallery and a worker hand to each other.

The owner gives each job a `JobSpec`, inside the batch script, which Slurm itself brings to the worker: no other host
can change it. Everything larger lies in the exchange, a folder that all hosts reach, and nothing there is trusted:
the project has the digest that the spec states, and a version is an export whose signature is verified.

    EXCHANGE/TAG/project/              the project as it was when the session began
    EXCHANGE/TAG/exports/NAME-VERSION  golden versions that a job begins with
    EXCHANGE/TAG/jobs/NAME/            output.log, claim.json, result.json, parcel/ (an export), delivery.json
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import CheckFailed
from pipeline.base.files import Shape, parse_json, read_json
from pipeline.cache.digests import flat_digest

OUTPUT, CLAIM, RESULT, PARCEL, DELIVERY = "output.log", "claim.json", "result.json", "parcel", "delivery.json"
#: Folders at the top of a project that no build reads.
LEFT_OUT = (".git", ".venv")
#: Seconds to copy a project, which may hold disks.
COPY_DEADLINE = 3600.0


class VersionRef(Shape):
    """A version: its number, its disk's digest (`Version.digest`), and the folder of its export, if there is one."""

    version: str
    digest: str
    export: str | None = None


class Parent(Shape):
    """An image that the job's image is built on: the golden version, or what the job in the folder `job` delivers."""

    image: str
    golden: VersionRef | None = None
    job: str | None = None


class JobSpec(Shape):
    """The work on one image.

    `words` are goldsmith's words, in which RESULT_WORD stands for the file of the result; `variables` go into its
    environment. `folder` is the job's folder, `project` that of the project, whose digest is `project_digest`.
    `golden` is the owner's golden version of the image, `numbers` are those that the owner has given to versions.
    `always` asks for the version even if the owner has it, because another job begins with it.
    """

    image: str
    goldsmith: str
    words: list[str]
    variables: dict[str, str]
    folder: str
    project: str
    project_digest: str
    parents: list[Parent]
    golden: VersionRef | None
    numbers: list[str]
    always: bool

    @classmethod
    def advice(cls) -> str:
        return "the owner and the worker need the same version of goldsmith"


#: Stands in a spec's words for the path of the result's file.
RESULT_WORD = "{result}"


class Claim(Shape):
    """The start of a job that works in this folder: a job that Slurm has started again replaces it."""

    node: str
    job: int
    restarts: int


class Failure(Shape):
    """An error, as `GoldsmithError` has it."""

    name: str
    message: str
    hint: str | None = None


class Delivery(Shape):
    """How a job ended, written last. `version` was made or found; it lies in `parcel` if `has_parcel`."""

    node: str
    job: int
    exit_code: int
    seconds: float
    version: str | None = None
    digest: str | None = None
    has_parcel: bool = False
    failure: Failure | None = None

    @classmethod
    def advice(cls) -> str:
        return "build the image again"


def read_spec(text: str) -> JobSpec:
    """Raises ValueError for a text that is not a spec."""
    return JobSpec.model_validate(parse_json(text, JobSpec))


def read_delivery(folder: Path) -> Delivery | None:
    """The delivery of a job's folder, None if there is none yet. Raises RecordDamaged."""
    record = read_json(folder / DELIVERY, Delivery)
    return None if record is None else Delivery.model_validate(record)


def read_claim(folder: Path) -> Claim | None:
    """Which start of the job works in its folder. Raises RecordDamaged."""
    record = read_json(folder / CLAIM, Claim)
    return None if record is None else Claim.model_validate(record)


def copy_project(source: Path, target: Path) -> None:
    """Copy a project to a new folder, sparse files as such, without LEFT_OUT."""
    target.mkdir(parents=True)
    entries = [entry for entry in sorted(source.iterdir()) if entry.name not in LEFT_OUT]
    if entries:
        words = ["cp", "--archive", "--no-preserve=ownership", "--sparse=always", "--reflink=auto"]
        process.run([*words, "--", *entries, target], deadline=COPY_DEADLINE)


def project_digest(folder: Path) -> str:
    """A digest of all that is in a folder: paths, whether a file can be executed, contents, targets of links."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            entry = ("link", str(path.readlink()))
        elif stat.S_ISREG(mode):
            entry = ("program" if mode & 0o100 else "file", flat_digest(path))
        else:
            entry = ("folder" if stat.S_ISDIR(mode) else "other", "")
        whole.update("\0".join((path.relative_to(folder).as_posix(), *entry, "\n")).encode(errors="surrogateescape"))
    return whole.hexdigest()


def take_project(spec: JobSpec, target: Path) -> None:
    """Copy the spec's project to this host. Raises CheckFailed (project-changed)."""
    copy_project(Path(spec.project), target)
    if project_digest(target) != spec.project_digest:
        raise CheckFailed(
            f"the project in {spec.project} is not the one that the gallery's owner handed in",
            name="project-changed",
            hint="run the command again; find out who has written to the exchange",
        )
