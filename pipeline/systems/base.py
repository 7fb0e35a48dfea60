"""What goldsmith has to know of an operating system to build, update and test masters of it.

Each operating system is a folder of this package with a module `system`, which has one instance of a `GuestSystem`
named SYSTEM. Nothing outside these folders asks which system a guest has: it asks the system.

A module `system` is imported by whatever plans or lists, and must cost nothing: readers of disks, libvirt and
networks are imported inside the methods that need them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pipeline.base.errors import GuestError, UsageError
from pipeline.cache.units import UnitSpec
from pipeline.definition import Definition, Source, Step, system_rules
from pipeline.guest.build import Build
from pipeline.systems.inspection import Inspection

if TYPE_CHECKING:
    from pipeline.cache.layers import Image
    from pipeline.definition import DataDisk
    from pipeline.definition.document import Document
    from pipeline.fabric.instance import FabricRecord, Instance
    from pipeline.gallery import Version
    from pipeline.guest.timeouts import Timeouts
    from pipeline.hypervisor.domain import MachineFeatures
    from pipeline.hypervisor.machine import Machine
    from pipeline.prove import CloneTest
    from pipeline.prove.matrix import TestRun, TestTarget

T = TypeVar("T")


@dataclass
class Lookups:
    """What is looked up outside the definitions that are checked together, each thing once."""

    #: A folder for lists that are large.
    cache: Path
    #: Called with each thing that cannot be looked up here.
    note: Callable[[str], None]
    _known: dict[str, Any] = field(default_factory=dict)

    def once(self, what: str, ask: Callable[[], T]) -> T:
        """The answer of `ask`, which is called the first time only."""
        if what not in self._known:
            self._known[what] = ask()
        found: T = self._known[what]
        return found


@dataclass(frozen=True)
class AwaitedBoot:
    """The first boot of a VM, for which a command waits until the guest is provisioned.

    The guest runs on, whatever the outcome.

    `greets` says whether its sshd answers; `logs` is the folder for its logs. `on_wait` gets what the command waits
    for, each time that it changes.
    """

    machine: Machine
    timeouts: Timeouts
    guest: FabricRecord
    logs: Path
    store: Path
    user: str
    greets: Callable[[], bool]
    dhcp_log: Path | None = None
    on_wait: Callable[[str], None] = lambda _text: None


@dataclass(frozen=True)
class LiveGuest:
    """A running VM that is to be generalized.

    `user` is the account that its provisioning created; `on_progress` gets a line for each part of the work.
    """

    machine: Machine
    timeouts: Timeouts
    logs: Path
    user: str
    on_progress: Callable[[str], None]


class GuestSystem(ABC):
    """An operating system, or a distribution of one.

    The stages of a build ask for units of work; a unit's title and inputs are its layer's key, so that they say what
    is produced, and change only with it.
    """

    #: Its own name, as detection and listings say it.
    name: ClassVar[str]
    #: What definitions and manifests write: `os:`. Distributions of Linux share `linux`.
    os: ClassVar[str]
    #: How its disks are read and which checks they must pass.
    inspection: ClassVar[Inspection]
    #: What definitions with `os:` this system mean and must not say; None where another system has registered that.
    rules: ClassVar[system_rules.SystemRules | None] = None
    #: Rules beside those, of definitions that say the same `os:`.
    added_rules: ClassVar[tuple[system_rules.Check, ...]] = ()
    #: Whether it is installed from a medium (`goldsmith iso`).
    installs_from_media: ClassVar[bool] = False
    #: Whether two builds of one definition make the same files, but for those that `may_differ` names.
    reproducible: ClassVar[bool] = False
    #: Globs of paths in which two builds of one definition may differ, with the reason.
    may_differ: ClassVar[Mapping[str, str]] = {}
    #: Inputs of units that change as time goes on: an update of a master takes them in.
    moving_inputs: ClassVar[frozenset[str]] = frozenset()

    def claims(self, definition: Definition, suite: str | None) -> bool:
        """Whether this is the distribution of a definition, among those that share its `os:`.

        `suite` is the release that the definition's source is known to be of.
        """
        return False

    # ---- where a guest comes from --------------------------------------------------------------------------------

    def source_unit(self, build: Build, source: Source) -> UnitSpec[Build]:
        """The unit that makes the first disk from a source that only this system knows.

        Disks that somebody brings and masters of the gallery come without it. Raises UsageError (source-unknown).
        """
        raise UsageError(
            f"{self.name} cannot be built from a source of the type {type(source).__name__}",
            name="source-unknown",
            hint="write a disk or a master as the definition's source",
        )

    def install_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        """The units that install the system onto a blank disk; none where the first disk has it already."""
        return ()

    def answer_file(self, medium: Path, edition: str, generation: int, drivers: Path | None) -> str:
        """What answers all that an installation from a medium asks. Of a system that `installs_from_media`."""
        raise NotImplementedError

    def needs_root_for_source(self, source: Source) -> str:
        """Why the first disk cannot be made without root; empty where it can."""
        return ""

    def source_files(self, source: Source) -> Sequence[tuple[tuple[str, ...], Path, str]]:
        """The local files of a source that only this system knows: the place in the definition, path and sha256."""
        return ()

    def check_source(self, definition: Definition, document: Document, lookups: Lookups) -> None:
        """Put faults into the document that only the archive, or the host, shows of a definition's source."""

    # ---- the guest -----------------------------------------------------------------------------------------------

    @abstractmethod
    def machine_features(self) -> MachineFeatures:
        """What it wants of a machine, and how it shows there that it is lost."""

    @abstractmethod
    def provision_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        """The definition's steps, and what goes before them."""

    @abstractmethod
    def generalize_units(self, build: Build) -> Sequence[UnitSpec[Build]]:
        """What makes the guest forget who it is. It leaves the disk at rest."""

    # ---- packages ------------------------------------------------------------------------------------------------

    def package_index(self, suite: str) -> str | None:
        """A digest of the state of the archive that a suite's packages come from; None where it does not answer."""
        return None

    def outdated_packages(self, suite: str, disk: Image, within: Path) -> list[str] | None:
        """The packages on a disk at rest of which the archive has newer versions; None where that is not known."""
        return None

    def updates_for(self, master: Version) -> list[str] | None:
        """What an update of a master would bring in; None where it takes no updates.

        Raises HostError (archive-not-reached) where that could not be looked up.
        """
        return None

    def update_steps(self, definition: Definition) -> tuple[Step, ...]:
        """The steps that update a master where the definition names none."""
        return ()

    # ---- the disk at rest ----------------------------------------------------------------------------------------

    @property
    def profile(self) -> str:
        """The checks that a master of it must pass (`goldsmith checks --profile`)."""
        return self.inspection.profiles[0]

    def open_ports(self, definition: Definition) -> set[tuple[str, int]] | None:
        """The ports (protocol, number) that its firewall must open, and no others; None where it has no such rule."""
        return None

    # ---- clones --------------------------------------------------------------------------------------------------

    @abstractmethod
    def test_runs(self, build: Build, master: Image, targets: Sequence[TestTarget], *, whole: bool) -> list[TestRun]:
        """The clones that are started to prove a master, of those that the definition asks for.

        `whole`: with second boots, reimages and second clones.
        """

    @abstractmethod
    def clone_test(
        self, build: Build, master: Image, test_run: TestRun, beside: int, disks: Sequence[DataDisk]
    ) -> CloneTest:
        """The test of one clone. `beside`: how many run at once; `disks`: what the master's data disks hold."""

    #: The test suites of others that can be run against its clones (`goldsmith prove --suite`).
    suites: ClassVar[frozenset[str]] = frozenset()

    # ---- instances -----------------------------------------------------------------------------------------------

    #: Characters of the longest name that a machine of it can have.
    longest_host_name: ClassVar[int] = 63
    #: Whether its first user signs in by a password that is drawn, and not by an SSH key.
    signs_in_by_password: ClassVar[bool] = False

    def draw_password(self) -> str:
        """A password for the first user, of a system that `signs_in_by_password`."""
        raise NotImplementedError

    def manifest_settings(self, definition: Definition) -> Mapping[str, Any]:
        """Settings of the system that a manifest keeps, because a VM of the master, or its capture, needs them.

        Each is a key of a definition with its value."""
        return {}

    def implied_waivers(self, definition: Definition) -> Mapping[str, str]:
        """Checks that a definition may fail because of another of its keys, each with the reason."""
        return {}

    def first_boot_answers(self, instance: Instance, password: str | None, locale: str) -> Mapping[str, bytes]:
        """Files on the provisioning medium by which the system configures itself, without an agent of Azure's."""
        return {}

    def wait_provisioned(self, boot: AwaitedBoot) -> None:
        """Wait until a VM's own agent has reported Ready. Raises GuestError where it reports something else."""

        def ready() -> bool | None:
            report = boot.guest.report
            if report is not None and report.failed:
                raise GuestError(
                    f"the agent reported {report.state}: {report.substatus} {report.description}".rstrip(),
                    name="provisioning-failed",
                    hint="goldsmith vm screenshot and goldsmith vm logs show how far it came",
                )
            return True if report is not None and report.ready else None

        hint = "goldsmith vm screenshot and goldsmith vm logs show how far it came"
        boot.machine.wait("Ready", ready, deadline=boot.timeouts.boot, name="agent-not-ready", hint=hint)

    #: Checks that show whether a disk at rest is generalized: what each machine has of its own.
    generalized_checks: ClassVar[frozenset[str]] = frozenset()

    #: Whether images of it can have data disks.
    captures_data_disks: ClassVar[bool] = True

    def generalize_instance(self, guest: LiveGuest) -> None:
        """Remove the identity of a running VM by its guest agent, and wait until it has powered itself off.

        The caller then reads the disk. Raises GuestError: guest-no-agent, generalize-refused, guest-shutdown-timeout
        and the system's own; UsageError (generalize-unsupported) where the system cannot do this.
        """
        raise UsageError(
            f"goldsmith cannot generalize a running {self.name}",
            name="generalize-unsupported",
            hint="generalize it inside, stop it, then run goldsmith vm generalize NAME",
        )

    def clones_at_once(self, build: Build, wanted: int) -> int:
        """How many of so many clones this host runs at the same time."""
        return 1
