"""The command line of goldsmith with the toy among its systems: python -m tests.fakes.toy_system.command VERB..."""

import sys

from pipeline.__main__ import main
from pipeline.systems import registry
from tests.fakes.toy_system.system import SYSTEM

if __name__ == "__main__":
    registry.register(SYSTEM)
    sys.exit(main())
