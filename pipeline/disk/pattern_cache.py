"""Compiled Hyperscan databases, kept beside the rules as Python keeps its bytecode: compiling takes 0.4 s each time.

A database is used only where its digest says that it was made of the same expressions by the same version. What is
torn, of another kind of processor or cannot be written costs a compilation, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import hyperscan

import pipeline.base.secret_rules

#: (expression, flags); an expression's number is its place.
Expressions = list[tuple[bytes, int]]
_DIGEST = hashlib.sha256().digest_size


def cache_file() -> Path:
    """Where the compiled rules lie; the folder need not exist."""
    return Path(pipeline.base.secret_rules.__file__).parent / "__pycache__" / "patterns.hsdb"


def compile_patterns(expressions: Expressions, kept: Path | None = None) -> hyperscan.Database:
    """A database of all expressions, read from `kept` (by default `cache_file()`) where that is of the same."""
    kept = kept or cache_file()
    # the stubs do not know it, and to ask for the package's metadata takes a tenth of a worker's start
    version = hyperscan.__version__  # type: ignore[attr-defined]
    key = hashlib.sha256(repr((version, expressions)).encode()).digest()
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        compiled = data[2 * _DIGEST :]
        if data[: 2 * _DIGEST] == key + hashlib.sha256(compiled).digest():
            with contextlib.suppress(hyperscan.error):
                return hyperscan.loadb(compiled, hyperscan.HS_MODE_BLOCK)
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=[pattern for pattern, _ in expressions],
        ids=list(range(len(expressions))),
        flags=[flags for _, flags in expressions],
    )
    compiled = hyperscan.dumpb(database)
    with contextlib.suppress(OSError):
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(key + hashlib.sha256(compiled).digest() + compiled)
    return database
