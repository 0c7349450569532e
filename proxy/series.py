"""Plots from samples: counters that nodes wrote at moments of their own become lines on common moments. Pure rules.

`dashboard` feeds it and sends the result to the browser.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

STEP = 10
"""Seconds between the moments of a plot."""
STALE = 25.0
"""Seconds for which a node's sample holds when no newer one comes; then it isn't there any more."""
NAMES = ("connections", "connects", "messages", "errors")
"""The plots: the first is a number, the others are rates per second."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One node's counters at one moment, in seconds since 1970."""

    at: float
    connections: int
    total_connections: int
    total_messages: int
    errors: int


Values = tuple[float | None, ...]
"""One for each of NAMES."""

_NOTHING: Values = (None,) * len(NAMES)


@dataclass(frozen=True, slots=True)
class Lines:
    """One line for each of NAMES, of a value for each moment; None where nothing is known."""

    connections: Sequence[float | None]
    connects: Sequence[float | None]
    messages: Sequence[float | None]
    errors: Sequence[float | None]


def moments(start: float, end: float) -> list[int]:
    """The multiples of STEP after `start`, up to `end`."""
    return list(range((int(start) // STEP + 1) * STEP, int(end) + 1, STEP))


def node_lines(samples: Iterable[Counted], at: Sequence[int]) -> Lines:
    """A node's lines from its samples, in their order; one before the first moment makes the first rates known."""
    values: list[Values] = []
    known = sorted(samples, key=lambda sample: sample.at)
    position = 0
    for moment in at:
        while position < len(known) and known[position].at <= moment:
            position += 1
        last = known[position - 1] if position else None
        if last is None or last.at < moment - STALE:
            values.append(_NOTHING)
        else:
            values.append((last.connections, *_rates(known[position - 2] if position > 1 else None, last)))
    return _lines(values)


def total_lines(lines: Iterable[Lines], at: Sequence[int]) -> Lines:
    """The sum over all nodes; None where no node is known."""
    summed = []
    for name in NAMES:
        columns = zip(*(getattr(line, name) for line in lines), strict=True)
        summed.append([_sum(column) for column in columns] or [None] * len(at))
    return Lines(*summed)


def as_json(lines: Lines) -> Mapping[str, Sequence[float | None]]:
    return {name: [value if value is None else round(value, 2) for value in getattr(lines, name)] for name in NAMES}


def _rates(before: Counted | None, last: Counted) -> tuple[float | None, ...]:
    # Over a gap it would be a mean of what nobody saw.
    if before is None or not 0 < last.at - before.at < 2 * STALE:
        return _NOTHING[1:]
    names = ("total_connections", "total_messages", "errors")
    # Never below 0, though a counter that is summed over processes may sink when one of them goes.
    return tuple(max(0, getattr(last, name) - getattr(before, name)) / (last.at - before.at) for name in names)


def _sum(column: Iterable[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return sum(known) if known else None


def _lines(values: Sequence[Values]) -> Lines:
    return Lines(*(list(line) for line in zip(*values, strict=True))) if values else Lines([], [], [], [])
