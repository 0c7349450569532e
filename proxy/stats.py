"""The counters behind GET /stats and /metrics, of all processes of the node (contract: GET ping, stats).

Each process adds to a slot of its own, in memory that all of them read (`slots`): the supervisor, which has one too,
shares it before it forks. What counts is a plain integer at a place in that slot; `metrics` gives it Prometheus' form.
"""

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import islice, product
from typing import ClassVar, overload

from proxy import slots
from proxy.ends import REASONS

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram's buckets, in seconds; there is one more for all above."""
MICROSECONDS = 1_000_000  # in which a histogram's sum is kept

CALLBACKS = ("connect", "establish", "receive", "close")
LANES = ("push_lane", "view", "batch")


class Numbers:
    """Places in a slot: one, or one for each combination of `labels`' values, or `width` for each.

    `meaning` and `name` are for monitoring: /metrics calls it kuiperbelt_{name}, with _total if it only grows. A
    `gauge` says what is now and goes with the process that counted it; over processes its values are put together by
    that function. The number is `per` times what it stands for.
    """

    width = 1

    def __init__(
        self,
        meaning: str,
        name: str = "",
        gauge: Callable[[Iterable[int]], int] | None = None,
        per: int = 1,
        **labels: Iterable[str],
    ) -> None:
        self.meaning = meaning
        self.name = name
        self.gauge = gauge
        self.per = per
        self.labels = tuple(labels)
        self.places: dict[tuple[str, ...], int] = dict.fromkeys(product(*labels.values()), 0)

    def __set_name__(self, owner: "type[Stats]", name: str) -> None:
        self.name = self.name or name
        for values in self.places:
            self.places[values] = owner.width
            owner.width += self.width
        owner.numbers.append(self)

    def __getitem__(self, values: str | tuple[str, ...]) -> int:
        """The first place for these values of the labels."""
        return self.places[(values,) if isinstance(values, str) else values]

    def __get__(self, stats: "Stats | None", owner: "type[Stats]") -> "Numbers":
        return self

    def lines(self) -> list[str]:
        """What is at each place, in words by which another version finds it."""
        end = slots.GAUGE if self.gauge else ""
        return [f"{self.name} {' '.join(values)}{each}{end}" for values in self.places for each in self.columns()]

    def columns(self) -> list[str]:
        """What is at each of `width` places."""
        return [""]


class Counter(Numbers):
    """One number, added to like an attribute."""

    def __set_name__(self, owner: "type[Stats]", name: str) -> None:
        super().__set_name__(owner, name)
        (self.place,) = self.places.values()
        owner.counters[name] = self

    @overload  # type: ignore[override]
    def __get__(self, stats: None, owner: "type[Stats]") -> "Counter": ...
    @overload
    def __get__(self, stats: "Stats", owner: "type[Stats]") -> int: ...
    def __get__(self, stats: "Stats | None", owner: "type[Stats]") -> "Counter | int":
        return self if stats is None else stats.slot[self.place]

    def __set__(self, stats: "Stats", value: int) -> None:
        stats.slot[self.place] = value


class Histogram(Numbers):
    """How many took how long, in BUCKETS, and their sum. Added to with `Stats.observe`."""

    width = len(BUCKETS) + 2

    def columns(self) -> list[str]:
        return [*(f" {bound:g}" for bound in BUCKETS), " above", " sum"]


class Stats:
    """Counters that every part of the proxy adds to; one event loop owns a slot, so there are no locks."""

    numbers: ClassVar[list[Numbers]] = []
    counters: ClassVar[dict[str, Counter]] = {}
    width = 0
    """How many numbers a slot has."""

    connections = Counter("live sessions", gauge=sum)
    total_connections = Counter("handshakes tried, refused ones included", "handshakes")
    total_messages = Counter("frames for clients that were tried, first frames included", "messages")
    connect_errors = Counter("handshakes that failed, but for those that were refused with 403")
    message_errors = Counter("frames that were accepted but could not be written")
    closing_connections = Counter("close callbacks under way", gauge=sum)
    # Not among the fields of /stats, which are kuiperbelt's.
    callbacks_refused = Counter("callbacks that weren't made because the backend had too many or gave no answers")
    callbacks_waiting = Counter("callbacks in line for their turn at the backend", gauge=sum)
    backends_failing = Counter("backends that give no answers, counted by each process (breaker)", gauge=sum)
    backend_failures = Counter("times that a backend began to give no answers (breaker)")
    receive_errors = Counter("receive callbacks that failed")
    request_timeouts = Counter("connections closed because a head, a body or the reading of an answer took too long")
    http_connections_dropped = Counter("HTTP connections that made room for newer ones (max_http_connections)")
    no_answers = Counter("requests to other processes that weren't answered in time", "cluster_no_answers")
    stale_requests = Counter("requests of other processes dropped because they came too late", "cluster_stale_requests")
    bad_envelopes = Counter("messages on Redis that couldn't be read", "cluster_bad_envelopes")
    link_losses = Counter("connections to Redis that were lost", "redis_losses")
    link_gap_ms = Counter("time without a connection to Redis", "redis_gap_seconds", per=1000)
    received_messages = Counter("frames that came from clients")
    received_waiting = Counter("clients' frames that wait for the receive callback, or are in it", gauge=sum)
    blocked_sessions = Counter("sessions whose client doesn't read, so that frames wait", gauge=sum)
    close_events_given_up = Counter("close callbacks that were given up after close_retry_for")
    worker_deaths = Counter("workers that ended though nobody had asked them to; each is replaced")
    # Set by `sampler`.
    workers = Counter("processes of the node that serve", gauge=sum)
    redis_up = Counter("connections to Redis that work, one for each process and Redis", "redis_connected", gauge=sum)
    redis_down = Counter("connections to Redis that are missing", "redis_disconnected", gauge=sum)
    cluster_requests = Counter("requests to other processes under way", "cluster_requests_waiting", gauge=sum)
    registry_failing = Counter("processes whose database doesn't work", gauge=sum)
    registry_backlog = Counter("rows about sessions that wait for the database", "registry_backlog_rows", gauge=sum)
    registry_lag_ms = Counter("age of the oldest of these rows", "registry_lag_seconds", gauge=max, per=1000)

    connects = Numbers(
        "handshakes that ended, by what became of them; open: with the 101",
        result=(
            *("open", "backend_refused", "backend_failed", "backend_busy", "bad_request", "origin"),
            *("max_connections", "max_connections_per_address", "connect_rate", "draining", "cluster_unreachable"),
            *("session_taken", "client_gone", "not_found", "error"),
        ),
    )
    session_ends = Numbers(
        "sessions that ended, by the reason that the close callback has; backend: by /close",
        reason=REASONS,
    )
    pushes = Numbers(
        "frames and closes that the API was asked for, one for each session, by the way that the request took",
        verb=("send", "close"),
        lane=LANES,
        result=("ok", "not_found", "closed", "timeout", "unreachable", "no_answer", "refused"),
    )
    api_refusals = Numbers(
        "requests to the API, and lines of batches, that were refused as a whole",
        status=("400", "401", "403", "405", "413", "421", "500", "503"),
    )
    received_drops = Numbers("clients' frames over a limit, whose sender is closed", reason=("size", "rate"))
    callbacks = Numbers(
        "callbacks that were made, by what came back: ok is 200, refused any other status",
        kind=CALLBACKS,
        result=("ok", "refused", "invalid", "no_answer", "cancelled"),
    )
    callback_seconds = Histogram("how long callbacks took", "callback_duration_seconds", kind=CALLBACKS)
    loop_lag = Histogram("how late the event loop came to a timer", "event_loop_lag_seconds")
    redis_round_trip = Histogram(
        "from publishing a probe until it came back, every 5 s for each connection", "redis_round_trip_seconds"
    )

    worker = 0
    """Which of the node's workers this process is, from 1; 0: it is alone."""

    def __init__(self) -> None:
        self._lines = [line for numbers in self.numbers for line in numbers.lines()]
        self._slots = slots.alone(self._lines)
        self.use_slot(0)

    def share(self, processes: int) -> int:
        """Start from 0 with slots for so many processes, forked afterwards; or they `attach` what this returns."""
        descriptor = slots.share(processes)
        self.attach(descriptor, 0)
        return descriptor

    def attach(self, descriptor: int, slot: int) -> None:
        """Use what another process has shared, and this slot."""
        self._slots = slots.shared(descriptor, self._lines)
        self.use_slot(slot)

    def use_slot(self, number: int) -> None:
        """This process adds to that slot from now on, and no other may; slots count from 0."""
        self.slot = self._slots[number].take()

    def clear_gauges(self, number: int) -> None:
        """The process that had this slot is dead."""
        self._slots[number].clear_gauges()

    def add(self, place: int) -> None:
        """Add 1. Who does so for each frame adds to the slot itself, which costs half."""
        self.slot[place] += 1

    def observe(self, place: int, seconds: float) -> None:
        """Something that a histogram counts, whose first place this is, took so long."""
        slot = self.slot
        slot[place + bisect_left(BUCKETS, seconds)] += 1
        slot[place + len(BUCKETS) + 1] += round(seconds * MICROSECONDS)

    def read(self) -> list[int]:
        """What is at every place, over all processes of the node."""
        found = [slot.read() for slot in self._slots]
        combined = list(map(sum, zip(*found, strict=True)))
        for counter in self.counters.values():
            if counter.gauge and counter.gauge is not sum:
                combined[counter.place] = counter.gauge(each[counter.place] for each in found)
        return combined

    def totals(self) -> dict[str, int]:
        """Every single number over all processes of the node."""
        found = self.read()
        return {name: found[counter.place] for name, counter in self.counters.items()}

    def as_json(self) -> bytes:
        counts = dict(islice(self.totals().items(), 6))  # kuiperbelt's, in its order
        return json.dumps(counts, separators=(",", ":")).encode() + b"\n"

    def as_full_json(self) -> bytes:
        """Every single number: kuiperbelt's monitoring doesn't ask for these."""
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
