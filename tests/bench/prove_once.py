"""One build's own proof of a golden master, by the goldsmith that PYTHONPATH names: run by tests.bench.bench_prove.

Prints the seconds of the stage and of each target. It uses only what the goldsmith of every commit since 21cee08 has.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pipeline.base.disk_format import known_format
from pipeline.base.store import Store
from pipeline.cache.layers import Image
from pipeline.cache.units import StageResult
from pipeline.context import BuildContext
from pipeline.definition import load_named
from pipeline.engine import runner
from pipeline.stages import prove


def main() -> int:
    project, image, disk, home = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    row = known_format("vhd")
    master = Image(disk, row, size=row.verify(disk))
    definition = load_named(project, image)

    def work(context: BuildContext) -> StageResult:
        return prove._prove(context, master, context.run.folder / "prove", definition.prove, whole=False)

    began = time.monotonic()
    run = runner.run_alone(
        prove.Prove(), definition, image, Store(home), work, title="proof", command="bench", listeners=[]
    )
    took = time.monotonic() - began
    print(json.dumps({"seconds": took, "run": run.folder.name}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
