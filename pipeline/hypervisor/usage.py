"""What machines use of their host, from libvirt's bulk statistics: two samples, and what lies between them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libvirt

from pipeline.hypervisor.connection import Connection, translated

_KINDS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)


@dataclass(frozen=True)
class Sample:
    """Totals of one machine since it was started. `cpu` in seconds, everything else in bytes; `at`: monotonic."""

    at: float
    cpu: float
    memory: int
    read: int
    written: int
    received: int
    sent: int


@dataclass(frozen=True)
class Usage:
    """`cpu` is in whole processors, `memory` in bytes that are resident on the host, the others in bytes a second."""

    cpu: float
    memory: int
    read: float
    written: float
    received: float
    sent: float


def sample_from(stats: Mapping[str, Any], at: float) -> Sample:
    """A sample from one machine's statistics, as libvirt names them. What it leaves out counts as 0."""

    def total(group: str, what: str) -> int:
        return sum(
            int(stats.get(f"{group}.{index}.{what}", 0)) for index in range(int(stats.get(f"{group}.count", 0)))
        )

    return Sample(
        at,
        int(stats.get("cpu.time", 0)) / 1e9,
        int(stats.get("balloon.rss", 0)) * 1024,
        total("block", "rd.bytes"),
        total("block", "wr.bytes"),
        total("net", "rx.bytes"),
        total("net", "tx.bytes"),
    )


def usage_between(first: Sample, last: Sample) -> Usage:
    """The use between two samples of one machine; one that was started again in between counts from its start."""
    seconds = max(last.at - first.at, 1e-3)

    def rate(name: str) -> float:
        before, after = getattr(first, name), getattr(last, name)
        return float(after - before if after >= before else after) / seconds

    return Usage(rate("cpu"), last.memory, rate("read"), rate("written"), rate("received"), rate("sent"))


def take_samples(connection: Connection, domains: Sequence[libvirt.virDomain]) -> dict[str, Sample]:
    """A sample of each of these machines that runs, by its UUID, all in one call."""
    if not domains:
        return {}
    with translated("reading statistics"):
        found = connection.raw.domainListGetStats(list(domains), _KINDS)
    at = time.monotonic()
    return {domain.UUIDString(): sample_from(stats, at) for domain, stats in found}
