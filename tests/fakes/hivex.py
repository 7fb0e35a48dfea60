"""Registry hives as hivex (libguestfs) shows them: written apart from our reader, and the measure of it."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import pytest

#: hivex is Debian's and belongs to Debian's own Python, not to a virtual environment.
_PYTHON = "/usr/bin/python3"
_DUMP = """
import sys, pickle, hivex
hive, keys = hivex.Hivex(sys.argv[1]), []
todo = [(hive.root(), ())]
while todo:
    node, path = todo.pop()
    values = []
    for value in hive.node_values(node):
        kind, data = hive.value_value(value)
        text = None
        try:
            if kind in (1, 2, 6): text = hive.value_string(value)
            elif kind == 7: text = hive.value_multiple_strings(value)
            elif kind in (4, 5): text = hive.value_dword(value)
            elif kind == 11: text = hive.value_qword(value)
        except Exception as error:
            text = error.__class__.__name__
        values.append((hive.value_key(value), kind, data, text))
    keys.append((path, values))
    todo += [(child, path + (hive.node_name(child),)) for child in hive.node_children(node)]
sys.stdout.buffer.write(pickle.dumps(keys))
"""
#: Name, number of the type, data, and what hivex makes of them by their type.
Values = list[tuple[str, int, bytes, object]]


def dump(hive: Path) -> list[tuple[tuple[str, ...], Values]]:
    """Every key with its values. Skips the test where hivex is not installed."""
    if subprocess.run([_PYTHON, "-c", "import hivex"], capture_output=True, check=False).returncode:
        pytest.skip("hivex is not installed (python3-hivex)")
    done = subprocess.run([_PYTHON, "-c", _DUMP, str(hive)], check=True, capture_output=True)
    return pickle.loads(done.stdout)  # type: ignore[no-any-return]
