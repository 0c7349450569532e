"""The process's own clock: shows about the time of day, but only goes forward, however the system's clock is set.

What a process has to do later stands in the database in this clock's times, and only the same process compares them.
Also the ids of connections, which sort by time.
"""

import os
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_STARTED = datetime.now(UTC)
_MARK = time.monotonic()


def process_time(after: float = 0.0) -> datetime:
    """Now, or `after` so many seconds."""
    return _STARTED + timedelta(seconds=time.monotonic() - _MARK + after)


def new_connection() -> str:
    """A UUID of version 7 (RFC 9562 section 5.7): a database adds it at one end of its index, which is cheap."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return str(UUID(int=number & ~(0xF << 76 | 3 << 62) | 7 << 76 | 2 << 62))
