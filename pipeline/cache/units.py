"""A unit of work: what has a key of its own, and leaves a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.base.errors import UsageError
from pipeline.cache.layers import Image, Layer, PendingLayer

#: What a unit sees of the build that runs it. A unit that asks little of a build runs in any build that has that.
Context_contra = TypeVar("Context_contra", contravariant=True)


@dataclass(frozen=True)
class StageResult:
    """What a unit made: the disk it leaves, and facts for the records."""

    image: Image | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True)
class UnitSpec(Generic[Context_contra]):
    """One unit of a stage: its title, all its inputs, and the function that makes its layer.

    A `live` unit runs in the build's guest and leaves its disk at rest only when the runner rotates or ends it.
    """

    title: str
    inputs: Mapping[str, object]
    run: Callable[[Context_contra, Layer | None, PendingLayer], StageResult]
    live: bool = False
    #: The titles of the steps that it runs: `--from` and `--until` take them. None outside of provision.
    steps: tuple[str, ...] = ()
    #: Whether its steps are the definition's own, which `--from 2` counts.
    counted: bool = True
    #: Reads those of `inputs` again that come from files which may be edited during a build; None without such.
    reread: Callable[[], Mapping[str, object]] | None = None

    def require_unchanged(self, *, new_files: bool) -> None:
        """Compare the files that went into the key with what they hold now: the unit's result belongs to its key.

        `new_files`: whether a file that came since counts too. Raises UsageError (source-changed), naming the first
        input that differs.
        """
        if self.reread is None:
            return
        try:
            now = dict(_flatten(self.reread()))
        except FileNotFoundError as error:
            raise _changed(self.title, str(error.filename)) from None
        planned = dict(_flatten(self.inputs))
        for name, value in now.items():
            if planned.get(name) != value and (new_files or name in planned):
                raise _changed(self.title, name)


def _flatten(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """(name, value) of all that is in mappings and lists; the name is the innermost key, and its place if needed."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}: {key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value, 1):
            yield from _flatten(inner, f"{name} {number}")
    else:
        yield name, value


def _changed(title: str, what: str) -> UsageError:
    return UsageError(
        f"{title}: {what} has changed since this build was planned",
        name="source-changed",
        hint="do not edit the project while it is built; build again: the layers before this one are kept",
    )
