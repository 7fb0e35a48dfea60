"""The program of the unit that runs when the host starts: `python -m pipeline.fabric.bring_up --store FOLDER`.

Namespace, bridges and server of a store's VMs are made from their registrations, as every command does if
something is missing. It ends as soon as everything exists.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.fabric.service import ensure


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    try:
        ensure(Store(parser.parse_args().store))
    except GoldsmithError as error:
        print(f"{error.name}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
