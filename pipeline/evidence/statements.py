"""What is said of a master, as in-toto statements (v1): how it was made (SLSA provenance v1), what it passed.

Built from the manifest alone, so that nothing can be said that is not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.gallery.verdict import UNCHECKED, count

#: Digests of one thing, by the algorithm's name.
Digests = Mapping[str, str]

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
#: What the parameters of a build mean: docs/evidence.md.
BUILD_TYPE = "https://goldsmith.invalid/build/1"


def provenance(manifest: Mapping[str, Any], subjects: Mapping[str, Digests], host: str) -> dict[str, Any]:
    """How a master was made. `subjects` are its files' digests, `host` is the builder."""
    return _statement(
        subjects,
        PROVENANCE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "image": manifest["name"],
                    "definition": manifest["definition"],
                    **{key: manifest[key] for key in ("inherited_definitions", "parameters") if key in manifest},
                },
                "internalParameters": {"start": manifest["start"], "accelerator": manifest.get("accelerator")},
                "resolvedDependencies": list(_dependencies(manifest)),
            },
            "runDetails": {
                "builder": {"id": f"https://goldsmith.invalid/host/{host}", "version": dict(manifest["tools"])},
                "metadata": {
                    "invocationId": manifest["run"],
                    **({"startedOn": manifest["started"]} if manifest.get("started") else {}),
                    "finishedOn": manifest["created"],
                },
            },
        },
    )


def results(manifest: Mapping[str, Any], subjects: Mapping[str, Digests]) -> dict[str, Any]:
    """What a master passed: each check on the disk at rest, and what each clone of it was seen to be."""
    by_status: dict[str, list[str]] = {"pass": [], "warn": [], "waived": [], "fail": []}
    for check in manifest["checks"]:
        by_status.setdefault(check["status"], []).append(f"check {check['id']}")
    proven = [f"prove {cell}: {what}" for cell, seen in manifest["prove"].items() for what in seen["checks"]]
    failed = [f"prove {cell}: {what}" for cell, seen in manifest["prove"].items() for what in seen["failures"]]
    # what could not be looked at did not pass
    unchecked = by_status.get(UNCHECKED, [])
    failed += by_status["fail"] + unchecked
    warned = by_status["warn"] + by_status["waived"]
    return _statement(
        subjects,
        TEST_RESULT,
        {
            # of no test at all nothing was passed
            "result": "FAILED"
            if failed or not (by_status["pass"] or warned or proven)
            else "WARNED"
            if warned
            else "PASSED",
            # the predicate has no place of its own for what did not run, and takes no other fields
            "configuration": [*_dependencies(manifest), _numbers(manifest, by_status.get("skip", []))],
            "passedTests": by_status["pass"] + proven,
            "warnedTests": warned,
            "failedTests": failed,
        },
    )


def _numbers(manifest: Mapping[str, Any], skipped: list[str]) -> dict[str, Any]:
    """How many checks passed, failed, were skipped or could not look; and which were skipped."""
    return {"name": "checks", "annotations": {**count(manifest["checks"]).to_json(), "skipped_checks": skipped}}


def _statement(subjects: Mapping[str, Digests], kind: str, predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": dict(digests)} for name, digests in sorted(subjects.items())],
        "predicateType": kind,
        "predicate": predicate,
    }


def _dependencies(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What went in: a digest for each input that has one."""
    found = []
    for unit in manifest["inputs"]:
        for name, value in unit["inputs"].items():
            if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
                title = f"{unit['stage']} {unit['title'] or ''}".strip()
                found.append({"name": f"{title}: {name}", "digest": {"sha256": value}})
    return found
