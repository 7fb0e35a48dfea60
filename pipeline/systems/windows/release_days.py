"""The days on which Microsoft releases updates: what was up to date on the last of them stays so until the next."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

#: UTC hour from which on a month's updates are out: 10:00 in Seattle, in winter. Microsoft: Windows monthly updates.
_HOUR = 18
_TUESDAY = 1
#: The key's word for the day whose updates a layer looked for.
RELEASED = "released"


def released(now: datetime) -> date:
    """The last second Tuesday of a month, on which Microsoft releases a month's updates; `now` is in UTC."""
    day = now.date() if now.hour >= _HOUR else now.date() - timedelta(days=1)
    this = _second_tuesday(day.year, day.month)
    if this <= day:
        return this
    before = day.replace(day=1) - timedelta(days=1)
    return _second_tuesday(before.year, before.month)


def _second_tuesday(year: int, month: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(_TUESDAY - first.weekday()) % 7 + 7)


def today() -> date:
    """`released`, by this host's clock."""
    return released(datetime.now(UTC))
