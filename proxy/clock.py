"""The process's own clock: shows about the time of day, but only goes forward, however the system's clock is set.

What a process has to do later stands in the database in this clock's times, and only the same process compares them.
"""

from datetime import UTC, datetime, timedelta
from time import monotonic

_STARTED = datetime.now(UTC)
_MARK = monotonic()


def process_time(after: float = 0.0) -> datetime:
    """Now, or `after` so many seconds."""
    return _STARTED + timedelta(seconds=monotonic() - _MARK + after)
