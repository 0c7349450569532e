"""The counters behind GET /stats, of all processes of the node (contract: GET ping, stats).

Each process adds to a slot of its own, in memory that all of them read: the supervisor shares it before it forks.
"""

import json
import mmap
import time
from typing import ClassVar

SIZE = 8  # bytes of one counter


class Counter:
    """A number in the process's slot, added to like an attribute; `meaning` is for monitoring.

    A `gauge` says what is now and goes with the process that counted it; all others only grow.
    """

    def __init__(self, meaning: str, gauge: bool = False) -> None:
        self.meaning = meaning
        self.gauge = gauge

    def __set_name__(self, owner: "type[Stats]", name: str) -> None:
        self.place = len(owner.counters)
        owner.counters[name] = self

    def __get__(self, stats: "Stats", owner: "type[Stats]") -> int:
        return stats.slot[self.place]

    def __set__(self, stats: "Stats", value: int) -> None:
        stats.slot[self.place] = value


class Stats:
    """Counters that every part of the proxy adds to; one event loop owns a slot, so there are no locks."""

    counters: ClassVar[dict[str, Counter]] = {}

    connections = Counter("live sessions", gauge=True)
    total_connections = Counter("handshakes tried, refused ones included")
    total_messages = Counter("frames for clients that were tried, first frames included")
    connect_errors = Counter("handshakes that failed, but for those that the backend refused with 403")
    message_errors = Counter("frames that were accepted but could not be written")
    closing_connections = Counter("close callbacks under way", gauge=True)
    # Not among the fields of /stats, which are kuiperbelt's.
    callbacks_refused = Counter("callbacks that weren't made because the backend had too many or gave no answers")
    callbacks_waiting = Counter("callbacks in line for their turn at the backend", gauge=True)
    backends_failing = Counter("backends that give no answers, counted by each process (breaker)", gauge=True)
    backend_failures = Counter("times that a backend began to give no answers (breaker)")
    receive_errors = Counter("receive callbacks that failed")
    request_timeouts = Counter("connections that were closed because a head or body didn't come in time")
    no_answers = Counter("requests to other processes that weren't answered in time")
    stale_requests = Counter("requests from other processes that were dropped because they came too late")
    bad_envelopes = Counter("messages on Redis that couldn't be read")
    link_losses = Counter("connections to Redis that were lost")
    link_gap_ms = Counter("milliseconds without a connection to Redis")

    worker = 0
    """Which of the node's workers this process is, from 1; 0: it is alone."""

    def __init__(self) -> None:
        self._slots = [memoryview(bytearray(SIZE * len(self.counters))).cast("q")]
        self.use_slot(0)

    def share(self, processes: int) -> None:
        """Start from 0 with a slot for each of so many processes, which are forked afterwards."""
        width = SIZE * len(self.counters)
        memory = memoryview(mmap.mmap(-1, processes * width))
        self._slots = [memory[start : start + width].cast("q") for start in range(0, len(memory), width)]
        self.use_slot(0)

    def use_slot(self, number: int) -> None:
        """This process adds to that slot from now on, and no other may; slots count from 0."""
        self.slot = self._slots[number]

    def clear_gauges(self, number: int) -> None:
        """The process that had this slot is dead."""
        for place, counter in enumerate(self.counters.values()):
            if counter.gauge:
                self._slots[number][place] = 0

    def totals(self) -> dict[str, int]:
        """Every counter's sum over all processes of the node."""
        return dict(zip(self.counters, map(sum, zip(*self._slots, strict=True)), strict=True))

    def as_json(self) -> bytes:
        totals = self.totals()
        names = ("connections", "total_connections", "total_messages", "connect_errors", "message_errors")
        counts = {name: totals[name] for name in (*names, "closing_connections")}
        return json.dumps(counts, separators=(",", ":")).encode() + b"\n"

    def as_full_json(self) -> bytes:
        """Every counter: kuiperbelt's monitoring doesn't ask for these."""
        return json.dumps(self.totals(), separators=(",", ":")).encode() + b"\n"

    def as_tsv(self) -> bytes:
        totals = self.totals()
        rows = {
            "conn.current": totals["connections"],
            "conn.total": totals["total_connections"],
            "conn.errors": totals["connect_errors"],
            "conn.closing": totals["closing_connections"],
            "messages.total": totals["total_messages"],
            "messages.errors": totals["message_errors"],
        }
        now = int(time.time())
        return "".join(f"kuiperbelt.{name}\t{count}\t{now}\n" for name, count in rows.items()).encode()


stats = Stats()
