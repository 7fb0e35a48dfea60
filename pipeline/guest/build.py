"""What a build in progress offers to those who work on its guest: operating systems, and the tests of clones.

`pipeline.context.BuildContext` is one; nothing below it has to import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import threading

    from pipeline.base.runs import Run
    from pipeline.base.store import Store
    from pipeline.cache.layers import Image, Layers
    from pipeline.definition import DataDisk, Definition
    from pipeline.guest.secret_values import SecretValues
    from pipeline.hypervisor.accelerator import Verdict
    from pipeline.hypervisor.connection import Connection
    from pipeline.hypervisor.domain import Spec
    from pipeline.hypervisor.machine import Machine
    from pipeline.network.proxies import HostProxies


class RunningGuest(Protocol):
    """The guest of a build, whatever its operating system."""

    machine: Machine

    @property
    def spec(self) -> Spec: ...

    @property
    def disk(self) -> Image: ...

    def access_facts(self) -> dict[str, Any]:
        """What the run's record says of a guest that is kept: how a person gets in."""

    def rotate(self, overlay: Image) -> None:
        """From now on the guest writes to `overlay`; what it wrote so far is at rest."""

    def shut_down(self) -> None:
        """Power off in order, so that the disk is at rest, and close."""

    def close(self) -> None:
        """End the guest, and leave nothing of it but its logs."""

    def black_box(self, *, quick: bool = False) -> None:
        """Save what the guest can still tell; `quick`: its screen alone."""


class Build(Protocol):
    """A build of one definition."""

    definition: Definition
    store: Store
    run: Run
    layers: Layers
    keep_failed: bool
    warm: bool
    cancelled: threading.Event
    session: RunningGuest | None
    #: The name of the stage that runs.
    stage: str

    @property
    def label(self) -> str: ...

    @property
    def accelerator(self) -> Verdict:
        """The accelerator that this build's guests run under."""

    @property
    def connection(self) -> Connection: ...

    @property
    def suite(self) -> str | None:
        """The release that the guest installs packages from, None where it is not known."""

    @property
    def data_disks(self) -> tuple[DataDisk, ...]: ...

    @property
    def secrets(self) -> SecretValues: ...

    @property
    def proxies(self) -> HostProxies: ...

    def proxy_address(self, index: int) -> str | None:
        """The URL at which the guest reaches a proxy of the host; None before it has a way out."""

    def way_out(self) -> str:
        """The bridge to the public network that this run's guests share."""

    def package_index(self, suite: str | None) -> str | None:
        """A digest of the archive's state, which goes into the key of whatever installs packages."""

    def end_guest(self) -> None:
        """Power the guest off in order, so that its disk is at rest."""

    def progress(self, text: str) -> None: ...

    def progress_of(self, part: str, text: str) -> None: ...

    def line(self, text: str) -> None: ...

    def log_file(self, name: str) -> Path: ...

    def list_disk(self, image: Image, *, what: str, key: str | None = None) -> Sequence[Sequence[str]]:
        """Rows about a disk at rest, read in the sandbox. Raises DiskError."""
