"""Writes the page of a run when it ends: gathers what the run made, and never makes a good run fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.context import BuildContext
from pipeline.gallery import Version


def write_page(context: BuildContext, version: Version | None) -> None:
    """Write `report.html` into the run's folder; `version` is what the run made. A page that cannot be written is a
    note of the run.
    """
    # an unchanged build and a plan need none of these
    from pipeline.evidence.disk_map import draw_disk
    from pipeline.evidence.run_page import RunPage

    run, facts = context.run, _facts(context)
    try:
        RunPage(
            run.folder,
            run.record,
            checks=facts.get("checks", ()),
            cells=facts.get("cells", {}),
            version=version,
            former=_former(context, version) if version else None,
            disk=draw_disk(version.image) if version else None,
        ).write()
    except (GoldsmithError, OSError) as error:
        run.emit("note", "", f"the page of this run was not written: {error}")


def _facts(context: BuildContext) -> Mapping[str, Any]:
    """What the stages of this build found, of kept layers too."""
    return {name: fact for _, layer in context.made for name, fact in layer.facts.items()}


def _former(context: BuildContext, version: Version) -> Version | None:
    """The version before the one that was made."""
    older = [each for each in context.gallery.versions(version.name) if each.version != version.version]
    return older[-1] if older else None
