"""Which requests come too late, by clocks that don't agree."""

import pytest

from proxy import freshness
from proxy.freshness import MAX_AGE, MAX_SENDERS, WINDOW, Freshness

OFFSET = 12345.0  # seconds by which the sender's clock is behind


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0 + OFFSET]
    monkeypatch.setattr(freshness, "monotonic", lambda: now[0])
    return now


def arrive(fresh: Freshness, clock: list[float], delay: float, sender: bytes = b"a") -> bool:
    """A request that was `delay` seconds on its way."""
    return fresh.is_stale(sender, clock[0] - OFFSET - delay)


def test_late_ones_are_stale_whatever_the_clocks_say(clock: list[float]) -> None:
    fresh = Freshness(1.0)
    assert not arrive(fresh, clock, 0.3)
    assert not arrive(fresh, clock, 0.01)
    assert not arrive(fresh, clock, 1.0)
    assert arrive(fresh, clock, 1.1)
    assert not arrive(fresh, clock, 0.02)


def test_each_sender_has_a_clock_of_its_own(clock: list[float]) -> None:
    fresh = Freshness(1.0)
    assert not arrive(fresh, clock, 0.0, b"a")
    assert not arrive(fresh, clock, 500.0, b"b")


def test_clocks_may_drift(clock: list[float]) -> None:
    """A second in an hour: ten times what an undisciplined clock does."""
    fresh = Freshness(1.0)
    for minute in range(600):
        clock[0] += 60
        assert not arrive(fresh, clock, 0.001 + minute / 60)


def test_what_waited_through_a_long_silence_is_stale_too(clock: list[float]) -> None:
    fresh = Freshness(1.0)
    assert not arrive(fresh, clock, 0.0)
    clock[0] += WINDOW * 2
    assert arrive(fresh, clock, 100.0)
    clock[0] += MAX_AGE + 1
    assert not arrive(fresh, clock, 3.0)  # nothing is known any more


def test_what_is_known_of_senders_is_bounded(clock: list[float]) -> None:
    fresh = Freshness(1.0)
    for number in range(MAX_SENDERS * 2):
        assert not arrive(fresh, clock, 0.0, b"%d" % number)
    assert len(fresh._senders) <= MAX_SENDERS
