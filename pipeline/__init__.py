"""goldsmith: from one YAML definition to one proven golden master.

docs/architecture.md has the rooms of this package, from the command line down to `base`, and which may import which.
"""

__version__ = "0.1.0"
