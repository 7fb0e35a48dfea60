"""One build in progress: what the stages share, and the shape of a unit of work.

The runner owns a job; a stage sees only what it needs of it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.definition import Definition
from pipeline.gallery import Gallery
from pipeline.guests import archive, linux
from pipeline.guests.access import BUILD_USER, Access
from pipeline.guests.session import GuestSession, create_overlay
from pipeline.hypervisor import accelerator
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.domain import Disk, Spec
from pipeline.layers import DISK, Draft, Image, Layer, Layers
from pipeline.record import Run, now, write_json
from pipeline.store import Store


@dataclass(frozen=True)
class Made:
    """What a unit made: the disk it leaves, and facts for the records."""

    image: Image | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True)
class Work:
    """One unit of a stage: its title, all its inputs, and what does it.

    `live` work runs in the job's guest and leaves its disk at rest only when the runner rotates or ends the guest.
    """

    title: str
    inputs: Mapping[str, object]
    run: Callable[[Job, Layer | None, Draft], Made]
    live: bool = False


@dataclass
class Job:
    """A build of one definition."""

    definition: Definition
    store: Store
    run: Run
    layers: Layers
    gallery: Gallery
    keep_failed: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    session: GuestSession | None = None
    stage: str = ""
    #: What this build stands on so far: each unit's stage and layer, in order.
    made: list[tuple[str, Layer]] = field(default_factory=list)
    _indexes: dict[str, str | None] = field(default_factory=dict)

    @cached_property
    def connection(self) -> Connection:
        return connect()

    @cached_property
    def verdict(self) -> accelerator.Verdict:
        verdict = accelerator.choose(self.definition.accelerator)
        self.run.emit("accelerator", "", f"{verdict.kind}: {verdict.reason}")
        self.run.note(accelerator={"kind": verdict.kind, "reason": verdict.reason})
        return verdict

    @property
    def label(self) -> str:
        return self.store.label(self.run.id)

    def package_index(self, suite: str | None) -> str | None:
        """A digest of the distribution's package index, None where there is none.

        Asked once a build. When the archive does not answer, the last digest seen on this host stands, so that a
        network that is down does not rebuild everything.
        """
        if suite is None:
            return None
        if suite not in self._indexes:
            seen = self.store.tmp / f"index-{suite}.json"
            digest = archive.package_index(suite)
            if digest is not None:
                write_json(seen, {"digest": digest, "seen": now()})
            elif seen.exists():
                last = json.loads(seen.read_text())
                digest = str(last["digest"])
                self.run.emit(
                    "note", "", f"the package index of {suite} does not answer; using that of {last['seen']}"
                )
            self._indexes[suite] = digest
        return self._indexes[suite]

    def progress(self, text: str) -> None:
        self.run.emit("progress", self.stage, text)

    def line(self, text: str) -> None:
        self.run.emit("line", self.stage, text)

    # ---- the build's guest ---------------------------------------------------------------------------------------

    def guest(self, source: Layer, draft: Draft) -> GuestSession:
        """The build's running guest, writing into `draft`; booted on an overlay of `source` when none runs."""
        if self.session is not None:
            return self.session
        overlay = create_overlay(draft.path / DISK, source.image, self.definition.disk)
        access = Access.create(self.label, "build", BUILD_USER)
        spec = Spec(
            name=f"goldsmith-{self.label}-{self.definition.name}",
            run=self.label,
            role="build",
            kvm=self.verdict.kind == "kvm",
            cpus=self.definition.machine.cpus,
            memory=self.definition.machine.memory,
            disks=(Disk(overlay),),
            serial_log=self.run.log("serial.log"),
            forwards=(access.forward,),
            outside=True,
        )
        self.session = GuestSession(
            self.connection,
            spec,
            access,
            logs=self.run.folder,
            user_data=linux.build_user_data,
            hostname="goldsmith-build",
            cancelled=self.cancelled,
            progress=self.progress,
        )
        # a guest that a person wants to look at must outlive this process, and its connection
        self.session.machine.autodestroy = not self.keep_failed
        self.run.note(guest={"domain": spec.name, **access.to_json()})
        self.session.open()
        return self.session

    def rotate(self, draft: Draft) -> None:
        """Let the running guest write into `draft` from now on."""
        assert self.session is not None
        self.session.rotate(create_overlay(draft.path / DISK, self.session.disk))

    def end_guest(self) -> None:
        """Power the guest off in order, so that its disk is at rest."""
        if self.session is not None:
            self.session.machine.shutdown(self.session.patience.shutdown)
            self.close()

    def close(self) -> None:
        """Leave no guest, no key, no seed behind."""
        if self.session is not None:
            self.session.close()
            self.session = None

    def log_file(self, name: str) -> Path:
        return self.run.log(name)
