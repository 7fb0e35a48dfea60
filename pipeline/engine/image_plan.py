"""What a build of several images would do, for programs that distribute it: a queue, a CI system, a person's script.

`ImagePlan.to_json` is `goldsmith plan --all --json`; its shape is `plan_schema`. Fields are added and never removed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from pipeline.base.store import Store
from pipeline.cache.layers import ListedLayers
from pipeline.definition import Definition
from pipeline.engine.plan import check_word, decide, explain_decided, first_root_stage
from pipeline.engine.scheduler import OVERHEAD, parents_of
from pipeline.engine.stage import stage_names
from pipeline.gallery import Gallery


class PlannedUnit(BaseModel):
    """One unit of a build."""

    model_config = ConfigDict(extra="forbid")

    stage: str = Field(description="The stage, such as provision.")
    title: str = Field(description="The unit's name for people; empty while a parent is to be built first.")
    action: str = Field(description="keep: its layer exists on this host; run: it would be made.", pattern="keep|run")
    why: str = Field(description="Why it would run; empty for keep.")
    key: str = Field(description="The key of its layer; empty while a parent is to be built first.")


class Needs(BaseModel):
    """What a build of the image takes."""

    model_config = ConfigDict(extra="forbid")

    cpus: int = Field(description="Processors of its guest.")
    memory: int = Field(description="Bytes of memory: its guest's, and what the build takes beside it.")
    disk: int | None = Field(
        description="Bytes: the virtual size of its disks. A build takes at most twice as many. null: the size of a "
        "source that is not here yet."
    )
    accelerator: str = Field(description="What the definition asks for.", pattern="auto|kvm|tcg")
    root: str = Field(description="Why a unit that would run needs root; empty if none does.")
    seconds: float | None = Field(description="How long the units of the golden version took; null without one.")


class PlannedImage(BaseModel):
    """One image of the project, behind its parents."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="The image's name.")
    definition: str = Field(description="The file of its definition, relative to the project.")
    parents: list[str] = Field(description="Images that must be built before it, and that are in this list.")
    action: str = Field(description="run: a build would do something; keep: it would do nothing.", pattern="keep|run")
    host: str = Field(description="The host that was asked: the layers of `keep` are in its store.")
    needs: Needs
    units: list[PlannedUnit]


class PlanOfImages(RootModel[list[PlannedImage]]):
    """goldsmith plan --all --json"""


def plan_schema() -> dict[str, Any]:
    """The JSON schema of `goldsmith plan --all --json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PlanOfImages.model_json_schema()}


@dataclass(frozen=True)
class ImagePlan:
    """The plan of one image; `rows` are its units as `goldsmith plan NAME --json` prints them."""

    definition: Definition
    parents: tuple[str, ...]
    rows: list[dict[str, str]]
    needs: dict[str, Any]

    @property
    def changed(self) -> bool:
        return any(row["action"] == "run" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        definition = self.definition
        return {
            "image": definition.name,
            "definition": os.path.relpath(definition.path, definition.project),
            "parents": list(self.parents),
            "action": "run" if self.changed else "keep",
            "host": socket.gethostname(),
            "needs": self.needs,
            "units": self.rows,
        }


def plan_images(
    definitions: Sequence[Definition], store: Store, *, warm: bool = False, again: str | None = None
) -> list[ImagePlan]:
    """The plans of images, of which parents come first. Raises what the stages raise."""
    gallery, layers = Gallery(store.gallery), ListedLayers(store.layers)
    made: dict[str, ImagePlan] = {}
    for definition in definitions:
        parents = tuple(name for name in parents_of(definition) if name in made)
        unbuilt = next((name for name in parents if gallery.find(name) is None), None)
        if unbuilt is None:
            decided = decide(definition, store, warm, again, layers)
            rows, root = explain_decided(decided, warm, again), first_root_stage(decided)
        else:
            check_word(definition, again)
            rows = [
                {"stage": stage, "title": "", "action": "run", "why": f"{unbuilt} is built first", "key": ""}
                for stage in stage_names()
            ]
            root = "provision: it creates the network of its guest"
        made[definition.name] = ImagePlan(definition, parents, rows, _needs(definition, gallery, root))
    return list(made.values())


def _needs(definition: Definition, gallery: Gallery, root: str) -> dict[str, Any]:
    golden = gallery.find(definition.name)
    size = definition.disk
    if size is None and golden is not None:
        size = int(golden.manifest["disk"]["virtual_size"])
    timings = golden.manifest.get("timings") if golden is not None else None
    return {
        "cpus": definition.machine.cpus,
        "memory": definition.machine.memory + OVERHEAD,
        "disk": None if size is None else size + sum(disk.size for disk in definition.data_disks),
        "accelerator": definition.accelerator,
        "root": root,
        "seconds": round(sum(float(each["seconds"] or 0) for each in timings), 1) if timings else None,
    }


def levels(plans: Sequence[ImagePlan]) -> list[list[ImagePlan]]:
    """The images by how many generations of parents they have: those of one level do not wait for each other."""
    depth: dict[str, int] = {}
    for plan in plans:
        depth[plan.definition.name] = 1 + max((depth[name] for name in plan.parents), default=-1)
    found: list[list[ImagePlan]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for plan in plans:
        found[depth[plan.definition.name]].append(plan)
    return found
