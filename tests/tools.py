"""Programs that only the tests need. A test that lacks one skips, and says which: `make test` installs them."""

from __future__ import annotations

import pytest

from pipeline.base.process import find


def missing_tools(*names: str) -> list[str]:
    """Those of the programs that are not on this host."""
    return [name for name in names if find(name) is None]


def needs_tool(*names: str) -> pytest.MarkDecorator:
    """A mark for a test or module that calls these programs."""
    missing = missing_tools(*names)
    return pytest.mark.skipif(bool(missing), reason=_reason(missing))


def skip_without(*names: str) -> None:
    """The same for a fixture or helper: skip the running test where one of the programs is missing."""
    if missing := missing_tools(*names):
        pytest.skip(_reason(missing))


def _reason(missing: list[str]) -> str:
    return f"{', '.join(missing)} not installed (make test installs what tests need)"
