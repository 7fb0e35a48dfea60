"""Reading a disk that is not running: containers, partitions, files, packages; without mount, root or appliance.

The readers run in the sandbox's worker: anyone who wants to know something of a disk asks `sandbox`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.disk.disk import Disk, open_disk
    from pipeline.disk.root import Root
    from pipeline.disk.volumes import Volume

__all__ = ["Disk", "Root", "Volume", "open_disk"]

#: Where each name lives. Loaded when it is asked for: anyone who asks the sandbox needs none of the readers.
_HOME = {"Disk": "disk", "Root": "root", "Volume": "volumes", "open_disk": "disk"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
