"""Tells requests that come too late to be carried out: their sender has given up and told its caller so.

Redis or this process may have stood still for a while with a request in its hands. Clocks of different hosts don't
agree, so what counts is how much longer a request took than the quickest one of the same sender of late. A sender whose
clock has jumped (its virtual machine was paused) hears at once that its requests are late, and begins another clock.
"""

from time import monotonic

WINDOW = (
    60.0  # seconds over which, or twice that, the quickest is looked for; clocks drift by far less than `limit` then
)
MAX_AGE = 600.0  # seconds after which what is known of a sender doesn't count any more
MAX_SENDERS = 10_000


class Freshness:
    """`limit`: seconds that a request may take longer than the quickest."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        # Sender -> when its window began, the least difference of the clocks in it and in the one before.
        self._senders: dict[bytes, tuple[float, float, float]] = {}

    def is_stale(self, sender: bytes, sent_at: float) -> bool:
        """Note a request's arrival. `sender` names it and its clock, `sent_at` is what that said, in seconds."""
        now = monotonic()
        difference = now - sent_at
        known = self._senders.get(sender)
        if known is None or now - known[0] > MAX_AGE:
            if len(self._senders) >= MAX_SENDERS:
                self._senders.clear()
            self._senders[sender] = now, difference, difference
            return False
        began, least, before = known
        if now - began > WINDOW:
            self._senders[sender] = now, difference, least
            before = least
        elif difference < least:
            self._senders[sender] = began, difference, before
        return difference - min(least, before) > self._limit
