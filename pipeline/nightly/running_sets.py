"""Sets of VMs after a refresh: their VMs are upgraded to what is golden then, one set after the other.

Those that follow golden are upgraded each time; on demand, every set of the images that were refreshed. A set that
fails leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from pipeline.base.errors import CheckFailed, GoldsmithError, Interrupted
from pipeline.engine.runner import host_file_error
from pipeline.instances.fleet import Fleet
from pipeline.instances.set_records import SetRecord
from pipeline.operations.create import Creation
from pipeline.operations.sets import members
from pipeline.operations.upgrade import Renew, choose_target, renewed_files, upgrade_set

#: What may have become of a set.
CURRENT, UPGRADED, FAILED, SKIPPED = "current", "upgraded", "failed", "skipped"


@dataclass(frozen=True)
class SetResult:
    """What became of one set. `golden`: the reference that its VMs should have, None where that is not known.

    `left` are the VMs that do not have it, each with the reason; `why` is what failed.
    """

    name: str
    outcome: str
    golden: str | None
    upgraded: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    evidence: str | None = None
    exit_code: int = 0

    @property
    def failed(self) -> bool:
        """Whether a VM is not current."""
        return self.outcome in (FAILED, SKIPPED) or bool(self.left)


#: Upgrades the sets of images, of which the second ones were not refreshed.
SetUpgrader = Callable[[Collection[str], Collection[str]], list[SetResult]]


def upgrade_no_set(_images: Collection[str], _not_refreshed: Collection[str]) -> list[SetResult]:
    """For who has no sets."""
    return []


def image_of(record: SetRecord) -> str:
    """The name of the image that a set is made from."""
    return record.image.partition("@")[0]


def choose_sets(fleet: Fleet, images: Collection[str], *, everything: bool) -> list[SetRecord]:
    """The sets of these images that follow golden, or all of them, by name."""
    return [each for each in fleet.sets.all() if image_of(each) in images and (everything or each.auto)]


def upgrade_running_sets(
    fleet: Fleet,
    images: Collection[str],
    not_refreshed: Collection[str],
    *,
    everything: bool = False,
    on_progress: Callable[[str, str], None] = lambda _set, _text: None,
    on_begun: Callable[[Creation], None] = lambda _creation: None,
    on_failure: Callable[[GoldsmithError], None] = lambda _error: None,
    renew: Renew | None = None,
    before: Callable[[], None] = lambda: None,
) -> list[SetResult]:
    """Upgrade the sets of `images` to golden. The sets of an image in `not_refreshed` are left, and named.

    `on_progress` gets a set's name and a line; `on_failure` each error; `renew` reimages VMs, by default as
    `set upgrade` does; `before` may refuse a set. Raises Interrupted; the next call goes on.
    """
    results = []
    for record in choose_sets(fleet, images, everything=everything):
        if image_of(record) in not_refreshed:
            why = f"{image_of(record)} was not refreshed"
            results.append(SetResult(record.name, SKIPPED, None, (), _behind(fleet, record, None, why), why))
            continue
        try:
            before()
            results.append(_upgrade(fleet, record, on_progress, on_begun, renew))
        except Interrupted:
            raise
        except (GoldsmithError, OSError) as error:
            named = error if isinstance(error, GoldsmithError) else host_file_error(error)
            on_failure(named)
            results.append(_failure(fleet, record, named))
    return results


def _golden(record: SetRecord) -> str | None:
    """The target for `upgrade_set`: None keeps a reference that means golden as its user wrote it."""
    image = image_of(record)
    return None if record.image in (image, f"{image}@golden") else f"{image}@golden"


def _upgrade(
    fleet: Fleet,
    record: SetRecord,
    on_progress: Callable[[str, str], None],
    on_begun: Callable[[Creation], None],
    renew: Renew | None,
) -> SetResult:
    done = upgrade_set(
        fleet,
        record.name,
        _golden(record),
        lambda text: on_progress(record.name, text),
        on_begun=on_begun,
        renew=renew,
        files=renewed_files(fleet, record.name),
    )
    outcome = UPGRADED if done.upgraded else CURRENT
    exit_code = CheckFailed.exit_code if done.left else 0
    return SetResult(record.name, outcome, done.reference, done.upgraded, done.left, exit_code=exit_code)


def _failure(fleet: Fleet, record: SetRecord, error: GoldsmithError) -> SetResult:
    try:
        version = choose_target(fleet, record.name, _golden(record))
        golden = f"{version.name}@{version.version}"
    except GoldsmithError:
        golden = None
    return SetResult(
        record.name,
        FAILED,
        golden,
        left=_behind(fleet, record, golden, "the upgrade stopped"),
        why=f"{error.name}: {error.message}",
        evidence=str(error.evidence) if error.evidence else None,
        exit_code=error.exit_code,
    )


def _behind(fleet: Fleet, record: SetRecord, golden: str | None, why: str) -> dict[str, str]:
    """The VMs of a set that do not have the golden version, each with what it has."""
    found = [each for each in members(fleet, record.name) if each.reference != golden or each.drained]
    return {each.name: f"{why}: it has {each.reference}" for each in found}
