"""A plan as a pipeline of a CI system: one job an image, parents first, on runners that are build hosts.

The shapes are GitHub's (workflow syntax, `jobs.<id>.strategy.matrix`) and GitLab's (`.gitlab-ci.yml`, child
pipelines).
Neither runs for a request from a fork: a definition is code that runs as root on the runner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from pipeline.base.errors import UsageError
from pipeline.engine.image_plan import ImagePlan, levels

#: The label (GitHub) and the tag (GitLab) of a runner that is a build host.
RUNNER = "goldsmith"
#: GitHub makes at most so many jobs of one matrix (workflow syntax, "jobs.<job_id>.strategy.matrix").
MATRIX_LIMIT = 256
#: A job takes at most so long, in minutes, where no build has been measured; and as many times as long as the last.
LONGEST, MARGIN = 6 * 60, 4
_HEAD = "# Made by `goldsmith plan --all --format {name}`. {what}\n"


def github_workflow(plans: Sequence[ImagePlan]) -> str:
    """A workflow to commit: its first job asks for the plan, one job for each level of parents builds what changed.

    It has no trigger `pull_request`, so that no request from a fork reaches a runner.
    """
    depth = len(levels(plans))
    jobs: dict[str, Any] = {
        "plan": {
            "runs-on": ["self-hosted", RUNNER],
            "timeout-minutes": 30,
            "outputs": {_level(n): f"${{{{ steps.plan.outputs.{_level(n)} }}}}" for n in range(depth)},
            "steps": [
                {"uses": "actions/checkout@v4", "with": {"persist-credentials": False}},
                {"id": "plan", "run": 'goldsmith plan --all --format github-outputs >> "$GITHUB_OUTPUT"'},
            ],
        }
    }
    for number in range(depth):
        before = ["plan", *(_level(each) for each in range(number))]
        jobs[_level(number)] = {
            "needs": before,
            # a level without a changed image is skipped, and the next one runs all the same
            "if": f"${{{{ !cancelled() && !failure() && needs.plan.outputs.{_level(number)} != '' }}}}",
            "strategy": {
                "fail-fast": False,
                "matrix": f"${{{{ fromJSON(needs.plan.outputs.{_level(number)}) }}}}",
            },
            "name": "${{ matrix.image }}",
            "runs-on": ["self-hosted", RUNNER],
            "timeout-minutes": "${{ matrix.minutes }}",
            "steps": [
                {"uses": "actions/checkout@v4", "with": {"persist-credentials": False}},
                {"run": "sudo goldsmith build ${{ matrix.image }}"},
            ],
        }
    workflow = {
        "name": "Images",
        "on": {"schedule": [{"cron": "17 2 * * *"}], "push": {"branches": ["main"]}, "workflow_dispatch": {}},
        "permissions": {"contents": "read"},
        "concurrency": {"group": "goldsmith", "cancel-in-progress": False},
        "jobs": jobs,
    }
    what = "Make it again when an image gets a parent that has parents."
    return _HEAD.format(name="github", what=what) + _dump(workflow)


def github_outputs(plans: Sequence[ImagePlan]) -> str:
    """Lines for $GITHUB_OUTPUT: for each level of parents the matrix of its changed images, or nothing.

    Raises UsageError (matrix-too-large).
    """
    lines = []
    for number, level in enumerate(levels(plans)):
        include = [
            {"image": plan.definition.name, "minutes": _minutes(plan), **_machine(plan)}
            for plan in level
            if plan.changed
        ]
        if len(include) > MATRIX_LIMIT:
            raise UsageError(
                f"{len(include)} images of one level have changed, but GitHub allows {MATRIX_LIMIT} in a matrix",
                name="matrix-too-large",
                hint="build them on one host with goldsmith build --all, or split the project",
            )
        value = json.dumps({"include": include}, separators=(",", ":")) if include else ""
        lines.append(f"{_level(number)}={value}\n")
    return "".join(lines)


def gitlab_pipeline(plans: Sequence[ImagePlan]) -> str:
    """A child pipeline: a job for each changed image, which waits for its parents' jobs.

    A merge request from a fork makes no pipeline.
    """
    changed = [plan for plan in plans if plan.changed]
    jobs = {_job_name(plan.definition.name): plan for plan in changed}
    pipeline: dict[str, Any] = {
        "workflow": {
            "rules": [
                {
                    "if": "$CI_MERGE_REQUEST_SOURCE_PROJECT_ID != $CI_MERGE_REQUEST_PROJECT_ID",
                    "when": "never",
                },
                {"when": "always"},
            ]
        }
    }
    for name, plan in jobs.items():
        pipeline[name] = {
            "tags": [RUNNER],
            "timeout": f"{_minutes(plan)} minutes",
            "needs": [_job_name(parent) for parent in plan.parents if _job_name(parent) in jobs],
            "script": [f"sudo goldsmith build {plan.definition.name}"],
            "resource_group": plan.definition.name,
        }
    if not jobs:
        # a pipeline without a job is an error
        pipeline["unchanged"] = {"tags": [RUNNER], "script": ["echo no image has changed"]}
    what = "Its jobs are those images that a build would change now."
    return _HEAD.format(name="gitlab", what=what) + _dump(pipeline)


#: What `plan --format` prints, by its word.
FORMATS: dict[str, Callable[[Sequence[ImagePlan]], str]] = {
    "github": github_workflow,
    "github-outputs": github_outputs,
    "gitlab": gitlab_pipeline,
}


def _level(number: int) -> str:
    return f"level{number + 1}"


def _minutes(plan: ImagePlan) -> int:
    seconds = plan.needs["seconds"]
    return LONGEST if not seconds else min(LONGEST, max(30, round(MARGIN * seconds / 60)))


def _machine(plan: ImagePlan) -> dict[str, Any]:
    return {"cpus": plan.needs["cpus"], "memory_mib": plan.needs["memory"] >> 20}


def _job_name(image: str) -> str:
    """GitLab's own words (default, include, pages, ...) and names with a dot first are no jobs."""
    return "image " + re.sub(r"[^A-Za-z0-9._-]", "-", image)


def _dump(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, width=200, default_flow_style=False)
