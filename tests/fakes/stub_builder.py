"""goldsmith, with stages that boot no guest: for tests of what is around a build, with real layers and versions.

    GOLDSMITH_STUB=FILE python -m tests.fakes.stub_builder WORDS...

Disks, layers, checks at rest, evidence, signatures and versions are real; no guest is generalized or proven, and
libvirt is not asked. FILE may be a JSON object: `seconds` of a proof of each image by its name, `default` for the
others, and `fail`, a list of images whose proof fails.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pipeline.base.process
import pipeline.context
import pipeline.engine.runner
import pipeline.prove
import pipeline.stages.generalize
import pipeline.stages.prove
from pipeline.base.errors import CheckFailed
from pipeline.cache.digests import chunk_digests
from pipeline.cache.layers import Image
from pipeline.gallery import disk_file
from pipeline.hypervisor.accelerator import Verdict
from pipeline.prove.result import CloneResult


def _settings() -> dict[str, Any]:
    path = Path(os.environ.get("GOLDSMITH_STUB", ""))
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _prove(context: Any, _system: Any, master: Image, *_rest: Any, **_more: Any) -> Any:
    name, settings = context.definition.name, _settings()
    time.sleep(settings.get("seconds", {}).get(name, settings.get("default", 0.0)))
    if name in settings.get("fail", []):
        raise CheckFailed("the stub was asked to fail", name="prove-failed", hint="change the stub's file")
    trees = {disk_file(master.format): chunk_digests(master.path).tree}
    return [CloneResult("gen1", checks={"stub": "not booted"})], trees


def replace_guests() -> None:
    """From now on no stage of this process boots a guest or asks libvirt."""
    pipeline.prove.prove = _prove  # type: ignore[assignment]
    pipeline.stages.generalize.Generalize.units = lambda _self, _context: ()  # type: ignore[method-assign]
    context: Any = pipeline.context.BuildContext
    context.connection = property(lambda _self: SimpleNamespace(version="0", qemu_version="0", qemu_owner=None))
    context.accelerator = property(lambda _self: Verdict("tcg", None, None, "no guest is booted"))
    runner: Any = pipeline.engine.runner
    runner.collect_orphans = lambda *_words, **_more: []


def main() -> None:
    from pipeline.__main__ import main as run
    from pipeline.engine.executors import local

    # a goldsmith that this one starts boots no guest either, and reads the same file
    pipeline.base.process._OWN = (*pipeline.base.process._OWN, "GOLDSMITH_STUB")
    local.GOLDSMITH = (*local.GOLDSMITH[:2], "tests.fakes.stub_builder")
    replace_guests()
    run()


if __name__ == "__main__":
    main()
