"""What each worker of `slurm.yaml` lacks: Slurm says whether it takes jobs, the rest it says itself, in a job."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pipeline
from pipeline.base.errors import GoldsmithError
from pipeline.base.files import Shape, parse_json
from pipeline.engine.executors.slurm_settings import SlurmSettings
from pipeline.evidence import signing
from pipeline.hypervisor.finding import Finding

#: How many workers are asked at once.
AT_ONCE = 16
_VERDICTS = ("ok", "warn", "fail")


class Cluster(Protocol):
    """What is asked of Slurm; `slurm_queue.Slurm` says what each means."""

    def usable_nodes(self) -> frozenset[str]: ...

    def run_on(self, node: str, words: Sequence[str], options: Sequence[str]) -> str: ...


class _Row(Shape):
    name: str
    verdict: str
    text: str
    fix: str | None = None


class _Report(Shape):
    """What `goldsmith worker check` prints."""

    goldsmith: str
    key: str | None
    trusted: list[str]
    problems: list[str]
    findings: list[_Row]


def examine_workers(settings: SlurmSettings, cluster: Cluster) -> dict[str, list[Finding]]:
    """The findings of each worker, in the order of the settings. Raises QueueSilent, UsageError (key-unreadable)."""
    usable = cluster.usable_nodes()
    keys = {node: str(signing.load_public(path).keyid) for node, path in settings.workers.items()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        findings = pool.map(lambda node: _examine(node, node in usable, keys, settings, cluster), keys)
        return dict(zip(keys, findings, strict=True))


def _examine(
    node: str, usable: bool, keys: dict[str, str], settings: SlurmSettings, cluster: Cluster
) -> list[Finding]:
    if not usable:
        fix = f"sinfo -R says why; scontrol update NodeName={node} State=RESUME gives it jobs again"
        return [Finding("slurm", "fail", "it is down or drained, or no node of the cluster", fix)]
    words = [*settings.goldsmith, "worker", "check", str(settings.exchange)]
    try:
        output = cluster.run_on(node, words, settings.options)
        report = _Report.model_validate(parse_json(output.strip().splitlines()[-1], _Report))
    except (GoldsmithError, ValueError, IndexError) as error:
        text = error.message if isinstance(error, GoldsmithError) else f"its answer cannot be read: {error}"
        fix = f"srun --nodelist={node} {' '.join(words)} shows the whole message"
        return [Finding("slurm", "fail", text, fix)]
    return judge_worker(node, report.model_dump(), keys)


def judge_worker(node: str, report: dict[str, Any], keys: dict[str, str]) -> list[Finding]:
    """The findings of a worker by its report; `keys` are the ids of all workers' keys by slurm.yaml."""
    found = [Finding("slurm", "ok", "it takes jobs, and answers")]
    version = report["goldsmith"]
    if version == pipeline.__version__:
        found.append(Finding("version", "ok", f"goldsmith {version}"))
    else:
        fix = f"install goldsmith {pipeline.__version__} there"
        found.append(Finding("version", "fail", f"goldsmith {version}, here {pipeline.__version__}", fix))
    if report["key"] == keys[node]:
        found.append(Finding("key", "ok", f"it signs with the key of slurm.yaml, {keys[node][:12]}"))
    elif report["key"] is None:
        found.append(Finding("key", "fail", "it has no signing key", "goldsmith key make, on that host"))
    else:
        fix = f"copy its signing.pub to the file that slurm.yaml names for {node}"
        found.append(Finding("key", "fail", "it signs with another key than slurm.yaml says", fix))
    strangers = [other for other, key in keys.items() if key not in report["trusted"]]
    if strangers:
        fix = "copy their public keys into the folder of its signing key (/etc/goldsmith)"
        found.append(Finding("trust", "fail", f"it does not trust the keys of {', '.join(strangers)}", fix))
    else:
        found.append(Finding("trust", "ok", "it trusts the keys of all workers"))
    for problem in report["problems"]:
        found.append(Finding("exchange", "fail", problem, "correct its key, its store or the exchange, as named"))
    rows = [row for row in report["findings"] if row["verdict"] in _VERDICTS]
    return found + [Finding(row["name"], row["verdict"], row["text"], row["fix"]) for row in rows]
