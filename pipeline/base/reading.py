"""Read a thing once for many: for a plan of thousands of images that name the same files.

Within `reading_once()` a function that is marked `read_once` answers a second call with the same arguments from
memory; what it read is taken not to change meanwhile. Outside of it, each call reads. A build compares the files of
its steps with its plan, so no step runs within it. A thread that is started within it reads for itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

#: What has been read, by function and arguments; None outside of `reading_once`.
_READ: ContextVar[dict[tuple[Any, ...], Any] | None] = ContextVar("read", default=None)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Until the block ends, read each thing once. A block within a block uses what the outer one has read."""
    if _READ.get() is not None:
        yield
        return
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def read_once(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Mark a function. Its arguments must be hashable and given by position, its callers must not change its result.

    An exception is not remembered.
    """

    @wraps(function)
    def reading(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
        known = _READ.get()
        if known is None or named:
            return function(*arguments, **named)
        key = (function, *arguments)
        if key not in known:
            known[key] = function(*arguments, **named)
        result: _Result = known[key]
        return result

    return reading
