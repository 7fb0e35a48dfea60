"""What the night publishes: the golden version of an image, to each target that its definition names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.definition import Definition
from pipeline.gallery import Gallery
from pipeline.gallery.integrity import Judge
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.retention import retire
from pipeline.publish.targets import Target, find_declared

#: Publishes what is golden of an image; raises the first failure when every target has been tried.
Publisher = Callable[[Definition], None]


def publish_nothing(_definition: Definition) -> None:
    """For who publishes nothing."""


def make_publisher(
    store: Store, targets: Mapping[str, Target], variables: Mapping[str, str], judge: Judge
) -> Publisher:
    """What publishes golden versions of `store`. A target that has the version already costs a look at its index."""

    def publish(definition: Definition) -> None:
        golden = Gallery(store.gallery).find(definition.name) if definition.publish else None
        failures: list[GoldsmithError] = []
        for name in definition.publish if golden is not None else ():
            assert golden is not None
            try:
                target = find_declared(name, targets)
                keep, options = definition.keep, Options(target.parallel)
                push(store, golden, target, variables, options=options, judge=judge, keep_days=keep.days)
                retire(golden.name, target, variables, versions=keep.versions, days=keep.days)
            except GoldsmithError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    return publish
