"""Figures of a gallery in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from pipeline.evidence.site_data import SiteData, SiteImage

_Labels = Mapping[str, str]
_Sample = tuple[_Labels, float]


def metrics(data: SiteData) -> str:
    """All samples, each metric with its HELP and TYPE lines."""
    return "".join(_lines(data))


def _lines(data: SiteData) -> Iterator[str]:
    images = data.images
    yield from _gauge("versions", "Versions of the image in the gallery.", _each(images, lambda i: len(i.versions)))
    yield from _gauge("disk_bytes", "Bytes on disk of all versions.", _each(images, lambda i: i.allocated))
    yield from _gauge("shared_bytes", "Part of disk_bytes that layers hold too.", _each(images, lambda i: i.shared))
    yield from _gauge("refused", "1 if the newest candidate was refused.", _each(images, lambda i: bool(i.refused)))
    golden = [(image, image.golden) for image in images if image.golden is not None]
    yield from _gauge(
        "golden_info",
        "The golden version, as a label.",
        [({"image": image.name, "version": version.version}, 1) for image, version in golden],
    )
    yield from _gauge(
        "golden_created_timestamp_seconds",
        "When the golden version was captured, in Unix seconds.",
        [({"image": image.name}, datetime.fromisoformat(version.created).timestamp()) for image, version in golden],
    )
    for name, text, field in (
        ("golden_ready_seconds", "Time to Ready of the slowest clone of the golden version.", "ready_seconds"),
        ("golden_build_seconds", "Work of the build of the golden version.", "build_seconds"),
    ):
        samples = [({"image": image.name}, getattr(version, field)) for image, version in golden]
        yield from _gauge(name, text, [(labels, value) for labels, value in samples if value is not None])
    yield from _gauge(
        "golden_cves",
        "CVEs of the golden version by Debian's security tracker: fixable by an update, or open.",
        [
            ({"image": image.name, "state": state}, number)
            for image, version in golden
            if version.cves is not None
            for state, number in (("fixable", version.cves.fixable), ("open", version.cves.open))
        ],
    )
    states = Counter((vm.image, vm.version, vm.state) for vm in data.vms)
    yield from _gauge(
        "vms",
        "VMs by image, version and state.",
        [({"image": i, "version": v, "state": s}, number) for (i, v, s), number in sorted(states.items())],
    )
    yield from _gauge("damaged_versions", "Versions that cannot be read.", [({}, len(data.damaged))])
    if data.refresh is not None:
        results = data.refresh["images"]
        ended = data.refresh.get("ended")
        failed = sum(each["outcome"] in ("failed", "skipped") or bool(each.get("unpublished")) for each in results)
        yield from _gauge("refresh_failed_images", "Images that the last refresh could not do.", [({}, failed)])
        yield from _gauge("refresh_seconds", "Duration of the last refresh.", [({}, data.refresh["seconds"])])
        if ended:
            moment = datetime.fromisoformat(ended).timestamp()
            yield from _gauge("refresh_ended_timestamp_seconds", "End of the last refresh.", [({}, moment)])
    yield from _gauge("written_timestamp_seconds", "When this file was written.", [({}, data.made.timestamp())])


def _each(images: Iterable[SiteImage], value: Callable[[SiteImage], float]) -> list[_Sample]:
    return [({"image": image.name}, float(value(image))) for image in images]


def _gauge(name: str, text: str, samples: Iterable[_Sample]) -> Iterator[str]:
    rows = list(samples)
    if not rows:
        return
    yield f"# HELP goldsmith_{name} {text}\n# TYPE goldsmith_{name} gauge\n"
    for labels, value in rows:
        inner = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        yield (
            f"goldsmith_{name}{{{inner}}} {float(value):.15g}\n"
            if inner
            else f"goldsmith_{name} {float(value):.15g}\n"
        )


def _escape(text: str) -> str:
    """A label's value by the rules of the text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
