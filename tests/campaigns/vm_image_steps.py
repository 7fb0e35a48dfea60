"""Steps of the sequences of VMs that lead to an image and back: generalize, capture, reimage, and kills of them.

The guests are toys (tests.fakes.toy_system) whose disk a BIOS boots: they go off by their button, and their disk can
be read, so that it passes as generalized or not.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from pipeline.base.errors import GoldsmithError
from pipeline.gallery import Gallery
from pipeline.operations.capture import CaptureWishes, capture
from pipeline.operations.create import forget
from pipeline.operations.generalize import generalize
from pipeline.operations.reimage import begin
from pipeline.operations.start import start
from pipeline.systems import registry
from tests.campaigns.vm_sequences import (
    ANY_STEP,
    DISK_STEP,
    NAMES,
    STEPS,
    VICTIMS,
    Arguments,
    Sequences,
    settle,
    settled_state,
)
from tests.fakes.disks import add_master
from tests.fakes.power import Behaviour, power_disk
from tests.fakes.toy_system.system import SYSTEM
from tests.harness import ROOT, new_home
from tests.unit.systems.test_toy_inspection import FILES, disk_of
from tests.vms import Vms

#: What a step is, as often as it stands here.
KINDS = (
    *("generalize", "reimage") * 4,
    *("capture", "start anyway"),
    *("kill generalize", "kill capture") * 2,
    *("kill reimage",) * 4,
)
#: What an interrupted reimage may have led to beside the state before.
REIMAGED = ("running", "stopped", "deallocated")
#: The way to an image and back; a sequence with all three is counted on the page as one, beside all of them.
VERBS = ("generalize", "capture", "reimage")
COUNTED = "sequences with generalize, capture and reimage"
#: The boot sector's program; behind it lies the partition table.
_PROGRAM, _PARAMETERS = 440, slice(507, 510)


class ToyLab(Vms):
    """A laboratory with two masters of toys: one that is generalized, and one that is not."""

    DOWN: ClassVar[str] = "down"
    WOUND: ClassVar[str] = "wound"
    #: The image that VMs are captured as.
    CAPTURED: ClassVar[str] = "captured"

    @classmethod
    def make(cls, prefix: str) -> ToyLab:
        if SYSTEM.name not in registry.names():
            registry.register(SYSTEM)
        home = new_home(prefix)
        lab = cls(home / "project", home)
        lab.store.ensure()
        lab.add_toy(cls.DOWN, FILES)
        lab.add_toy(cls.WOUND, {**FILES, "TOY/WOUND": "up"})
        return lab

    def add_toy(self, name: str, files: dict[str, str]) -> None:
        folder = self.home / "tmp" / name
        folder.mkdir()
        disk = disk_of(folder, files)
        sector = power_disk(folder / "power.raw", Behaviour.BUTTON).path.read_bytes()
        with disk.open("r+b") as file:
            file.write(sector[:_PROGRAM])
            file.seek(_PARAMETERS.start)
            file.write(sector[_PARAMETERS])
        add_master(Gallery(self.store.gallery), name, disk, os="toy", summary="a drum")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """As `Lab.start`, with the toy among the systems."""
        argv = [sys.executable, "-m", "tests.fakes.toy_system.command", "--project", str(self.folder), *words]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment, cwd=ROOT
        )


#: What a step that leads to an image is drawn from.
IMAGE_STEP: Arguments = {
    "kind": st.sampled_from(KINDS),
    "name": st.sampled_from(NAMES),
    "to": st.sampled_from(("", ToyLab.DOWN, ToyLab.WOUND, ToyLab.CAPTURED)),
    "at_rest": st.sampled_from((True, True, True, False)),
    "victim": st.sampled_from(VICTIMS),
    "after": st.floats(0.3, 4.0),
    "down": st.floats(0.0, 0.5),
}


class ImageSequences(Sequences):
    """Sequences with generalize, capture and reimage among their steps."""

    @rule(**IMAGE_STEP)
    def step_with_image(
        self, kind: str, name: str, to: str, at_rest: bool, victim: str, after: float, down: float
    ) -> None:
        """A step on a VM that is created first if it is not there. `at_rest`: it is stopped before, where that
        matters."""
        with self._kept():
            if name not in self.expected:
                self.create(name)
                return
            verb = kind.removeprefix("kill ")
            if at_rest and verb in ("generalize", "capture", "start anyway") and self._runs(name):
                self.act(name, "stop", True)
            if to == ToyLab.CAPTURED and to not in self.fleet.gallery.names():
                to = ""
            if kind.startswith("kill "):
                self.kill_with_image(verb, name, to, victim, after, down)
            elif kind == "generalize":
                self.generalize(name)
            elif kind == "capture":
                self.capture(name)
            elif kind == "start anyway":
                self.start_anyway(name)
            else:
                self.reimage(name, to)

    def _runs(self, name: str) -> bool:
        return self.expected[name].state == "running"

    def generalize(self, name: str) -> None:
        self._note("generalize", name)
        there = self.expected[name]
        try:
            generalize(self.fleet, name, run=False, on_progress=lambda _text: None)
        except GoldsmithError as error:
            assert error.name == self._refusal(name), f"generalize of {there}: {error.name}: {error.message}"
            self._count_refusal("generalize", error)
            return
        assert self._refusal(name) == ""
        there.generalized = True

    def _count_refusal(self, verb: str, error: GoldsmithError) -> None:
        """The page tells how many steps led somewhere: a refused one is counted as refused too."""
        self.seen[f"{verb}: refused, {error.name}"] += 1

    def _refusal(self, name: str) -> str:
        """The error by which a VM is not generalized; empty if it can be."""
        if self._runs(name):
            return "vm-running"
        if self._lacks_disk(name):
            return "vm-incomplete"
        return "not-generalized" if self.expected[name].image == ToyLab.WOUND else ""

    def capture(self, name: str) -> None:
        self._note("capture", name)
        there = self.expected[name]
        refusal = "vm-running" if self._runs(name) else "" if there.generalized else "vm-not-generalized"
        try:
            wishes = CaptureWishes(ToyLab.CAPTURED, accounts=["tin"])
            outcome = capture(self.fleet, name, wishes, "test", lambda _text: None)
        except GoldsmithError as error:
            assert error.name == refusal, f"capture of {there}: {error.name}: {error.message}"
            self._count_refusal("capture", error)
            return
        assert refusal == "" and outcome.version is not None
        assert "golden" in outcome.version.channels
        luns = [lun for lun, _ in outcome.version.image.data]
        assert len(luns) == sum(owner == name for owner in self.owners.values()), "its data disks are in the image"

    def start_anyway(self, name: str) -> None:
        self._note("start anyway", name)
        there = self.expected[name]
        try:
            start(self.fleet, name, anyway=True)
        except GoldsmithError as error:
            right = "vm-running" if self._runs(name) else "vm-incomplete" if self._lacks_disk(name) else None
            assert error.name == right, f"start of {there}: {error.name}: {error.message}"
            return
        assert not self._runs(name)
        there.state = "running"

    def reimage(self, name: str, to: str) -> None:
        self._note("reimage", name, to)
        there = self.expected[name]
        try:
            made = begin(self.fleet, name, to=to or None, force=True)
        except GoldsmithError as error:
            assert error.name == "vm-incomplete" and self._lacks_disk(name), f"{error.name}: {error.message}"
            self._count_refusal("reimage", error)
            return
        forget(self.fleet, name, made.operation)
        there.state, there.generalized, there.image = "running", False, to or there.image
        self._look_at_os_disk(name)

    def _look_at_os_disk(self, name: str) -> None:
        """Of the OS disks that a VM has had there is the present one."""
        record = self.fleet.instances.get(name)
        if record.disk is not None:
            found = set(self.fleet.folder(record).glob("disk*.qcow2"))
            assert found == {record.image_of_disk.path}, f"{name} has {found}"

    def kill_with_image(self, verb: str, name: str, to: str, victim: str, after: float, down: float) -> None:
        """A whole command, and SIGKILL to it, to libvirtd or to the fabric at some moment of it."""
        self._note(f"kill {victim} in {verb}", name, to, f"after {after:.2f} s")
        before = replace(self.expected[name])
        words = {
            "generalize": ("generalize", name),
            "capture": ("capture", name, "--as", ToyLab.CAPTURED, "--account", "tin"),
            "reimage": ("reimage", name, "--force", *(("--to", to) if to else ())),
        }[verb]
        incomplete = self._lacks_disk(name)
        self._kill_during(self.lab.start("vm", *words), victim, after, down, waits=verb == "reimage")
        settle(self._domain(name))
        found = self._survey()
        record, reality = found[name]
        state = settled_state(record, reality)
        ends = REIMAGED if verb == "reimage" and not incomplete else ()
        assert state in (before.state, *ends), f"{name} was {before.state}, and is {state} after a killed {verb}"
        if verb == "generalize":
            may = {before.generalized, before.generalized or not self._refusal(name)}
            images = {before.image}
        elif verb == "capture":
            may, images = {before.generalized}, {before.image}
        else:
            may = {before.generalized, False}
            images = {before.image, to or before.image} if not incomplete else {before.image}
        assert record.generalized in may, f"{name} is generalized: {record.generalized} after a killed {verb}"
        assert record.image in images, f"{name} is a {record.image} after a killed {verb}"
        self.expected[name] = replace(before, state=state, generalized=record.generalized, image=record.image)
        self._look_at_os_disk(name)

    def teardown(self) -> None:
        super().teardown()
        self.seen[COUNTED] += all(any(_is_of(verb, step) for step in self.trail) for verb in VERBS)


class RoundTrips(ImageSequences):
    """Sequences in each of which one VM is generalized, captured and reimaged, with any other steps between.

    Each sequence draws the order of the three and where they stand among its steps. The rules of the other
    sequences are steps of this machine's only rule, so that hypothesis cannot leave the three out.
    """

    def __init__(self) -> None:
        super().__init__()
        #: The verb of a step by its number, and the VM that they are all about.
        self.way: dict[int, str] = {}
        self.traveller = ""
        self.number = 0

    @initialize(
        order=st.sampled_from((*(VERBS,) * 4, *permutations(VERBS))),
        places=st.sets(st.integers(1, STEPS - 1), min_size=len(VERBS), max_size=len(VERBS)),
        name=st.sampled_from(NAMES),
    )
    def plan(self, order: tuple[str, ...], places: set[int], name: str) -> None:
        self.way, self.traveller = dict(zip(sorted(places), order, strict=True)), name

    @rule(data=st.data())
    def next_step(self, data: st.DataObject) -> None:
        verb, self.number = self.way.get(self.number), self.number + 1
        if verb is None:
            step, arguments = data.draw(st.sampled_from(self.others))
            step(self, **data.draw(st.fixed_dictionaries(arguments)))
            return
        if self.traveller not in self.expected:
            with self._kept():
                self.create(self.traveller)
        drawn = data.draw(st.fixed_dictionaries(IMAGE_STEP))
        kind = data.draw(st.sampled_from((verb, verb, f"kill {verb}")))
        self.step_with_image(**{**drawn, "kind": kind, "name": self.traveller})

    # Without the decorator these are no rules of this machine.
    def step(self, *arguments: Any, **named: Any) -> None:
        super().step(*arguments, **named)

    def step_with_disk(self, *arguments: Any, **named: Any) -> None:
        super().step_with_disk(*arguments, **named)

    def step_with_image(self, *arguments: Any, **named: Any) -> None:
        super().step_with_image(*arguments, **named)

    others = ((step, ANY_STEP), (step_with_disk, DISK_STEP), (step_with_image, IMAGE_STEP))


def _is_of(verb: str, step: str) -> bool:
    """Whether a step of the trail is a verb, or a kill in the midst of it."""
    return verb in step.partition(" after ")[0].split()
